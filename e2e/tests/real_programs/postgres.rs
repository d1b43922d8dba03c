//! PostgreSQL and psql: a client that speaks first, in a protocol that is not HTTP, and that begins TLS in its middle.

use std::{
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_e2e::{
    compare::compare,
    process::{Process, run, run_with},
    stage::{Stage, stage},
    transcript::Transcript,
};
use nix::unistd::User;

use crate::curl::sha256;

const START: Duration = Duration::from_secs(60);
const CLIENT: Duration = Duration::from_secs(60);
/// PostgreSQL refuses to run as root.
const USER: &str = "postgres";

const SCRIPT: &str = r"
\set VERBOSITY verbose
create table t (id int primary key, name text, data bytea);
insert into t select i, 'name ' || i, decode(repeat(to_hex(i % 16), 20), 'hex') from generate_series(1, 1000) i;
select count(*), sum(id), md5(string_agg(name, ',' order by id)) from t;
select * from t where id <= 3 order by id;
-- An error, after which the connection goes on.
select 1/0;
select nothing from nowhere;
begin; update t set name = 'gone' where id = 1; rollback;
select name from t where id = 1;
prepare p (int) as select name from t where id = $1; execute p(7); execute p(8);
begin; declare c cursor for select id from t order by id; fetch 3 from c; fetch 2 from c; commit;
do $$ begin raise notice 'a notice with ünïcödé'; end $$;
select repeat('long ', 100000) = repeat('long ', 100000) as same, length(repeat('x', 3000000));
set statement_timeout = '300ms'; select pg_sleep(20); reset statement_timeout;
select 'still here' as state;
";

fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let bins = versions.flatten().map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").is_file()).max().context("PostgreSQL's server is not installed")
}

fn start(stage: &Stage) -> Result<(Process, SocketAddr)> {
    let bin = programs()?;
    let home = stage.subdir("postgres")?;
    let user = User::from_name(USER)?.context("there is no user postgres")?;
    let own = |path: &Path| chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    own(&home)?;
    let data = home.join("data");
    let mut init = Command::new(bin.join("initdb"));
    init.args(["-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(&data)
        .current_dir(&home);
    let output = run_with(&init, Some(USER), None, START)?;
    ensure!(output.status.success(), "initdb: {}", output.error_text());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    for (name, pem) in [("server.crt", made.cert.pem()), ("server.key", made.signing_key.serialize_pem())] {
        let path = data.join(name);
        std::fs::write(&path, pem)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        own(&path)?;
    }
    let address = stage.lease().local()?;
    let mut server = Command::new(bin.join("postgres"));
    server.arg("-D").arg(&data).arg("-p").arg(address.port().to_string()).current_dir(&home);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "ssl=on",
        "timezone=UTC",
        "log_timezone=UTC",
    ] {
        server.arg("-c").arg(setting);
    }
    let mut process = Process::start_as("postgres", &server, stage.dir(), Some(USER))?;
    process.wait_for_line("ready to accept connections", START)?;
    Ok((process, address))
}

struct Psql<'a> {
    bin: PathBuf,
    address: SocketAddr,
    dir: &'a Path,
}

impl Psql<'_> {
    fn command(&self, program: &str, ssl: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env("PGHOST", self.address.ip().to_string())
            .env("PGPORT", self.address.port().to_string())
            .env("PGUSER", USER)
            .env("PGDATABASE", "postgres")
            .env("PGSSLMODE", ssl)
            .env("PGCONNECT_TIMEOUT", "10")
            .current_dir(self.dir);
        command
    }

    /// What psql prints, on both outputs, and how it ends.
    fn run(&self, ssl: &str, args: &[&str]) -> Result<String> {
        let output = run(self.command("psql", ssl).args(["-X"]).args(args), CLIENT)?;
        Ok(format!("exit {:?}\n{}{}", output.status.code(), output.text(), output.error_text()))
    }
}

fn client(address: SocketAddr, dir: &Path) -> Result<Transcript> {
    let psql = Psql { bin: programs()?, address, dir };
    let mut t = Transcript::new();
    std::fs::write(dir.join("script.sql"), SCRIPT)?;
    for ssl in ["disable", "prefer", "require"] {
        psql.run("disable", &["-c", "drop table if exists t"])?;
        t.step(&format!("queries, sslmode={ssl}"), psql.run(ssl, &["-f", "script.sql"])?);
        let shown = "select ssl, version, cipher from pg_stat_ssl where pid = pg_backend_pid()";
        t.step("its TLS", psql.run(ssl, &["-c", shown])?);
    }
    let rows: String =
        (0..100_000).map(|row| format!("{row}\trow number {row} of many rows\t\\\\x{row:08x}\n")).collect();
    std::fs::write(dir.join("rows.tsv"), rows)?;
    let copy = [
        ("into", "\\copy t from 'rows.tsv'"),
        ("count", "select count(*), md5(string_agg(name, ',' order by id)) from t"),
        ("out of", "\\copy (select * from t order by id) to 'back.tsv'"),
    ];
    t.step("empty", psql.run("disable", &["-c", "truncate t"])?);
    for (title, command) in copy {
        t.step(&format!("copy: {title}"), psql.run("disable", &["-c", command])?);
    }
    t.step("what came back", sha256(&dir.join("back.tsv"))?);
    // psql cancels over a second connection, which must find the first one's server.
    let mut cancel = Command::new("timeout");
    cancel.args(["--foreground", "--preserve-status", "-s", "INT", "1"]);
    let sleeper = psql.command("psql", "disable");
    cancel.arg(sleeper.get_program()).args(["-X", "-c", "select pg_sleep(30)"]).current_dir(dir);
    cancel.envs(sleeper.get_envs().filter_map(|(key, value)| Some((key, value?))));
    t.step("cancelled", run(&cancel, CLIENT)?.error_text());
    t.step("many clients", bench(&psql)?);
    Ok(t)
}

/// Eight connections at once; of what pgbench prints, what is no measurement.
fn bench(psql: &Psql<'_>) -> Result<String> {
    let mut command = psql.command("pgbench", "disable");
    std::fs::write(psql.dir.join("bench.sql"), "select name from t where id = 42;\n")?;
    command.args(["-n", "-f", "bench.sql", "-c", "8", "-j", "2", "-t", "100"]);
    let output = run(&command, CLIENT)?;
    let text = output.text();
    let counts = text.lines().filter(|line| line.contains("number of"));
    Ok(format!("{:?}\n{}", output.status.code(), counts.collect::<Vec<_>>().join("\n")))
}

#[test]
fn postgres() -> Result<()> {
    stage("postgres", |stage| {
        let (_process, address) = start(stage)?;
        let dir = stage.subdir("client")?;
        compare(stage, address, &[None, Some("tcp")], |address| client(address, &dir))
    })
}
