//! MariaDB: a server that speaks first. A mesh that waits for the client's first bytes would make every connection
//! wait, so connecting is bounded in time.

use std::{
    net::SocketAddr,
    os::unix::fs::chown,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_e2e::{
    compare::compare,
    process::{Process, must_run, run, run_with},
    stage::{Stage, stage},
    transcript::Transcript,
};
use nix::unistd::User;

const START: Duration = Duration::from_secs(90);
const CLIENT: Duration = Duration::from_secs(60);
/// From the start of the client to its end, connection and query included.
const CONNECT: Duration = Duration::from_secs(2);
const USER: &str = "mysql";

const SCRIPT: &str = r"
create database e2e character set utf8mb4;
use e2e;
create table t (id int primary key auto_increment, name varchar(100), data longblob);
insert into t (name, data) values ('one', 'x'), ('zwei ü', repeat('y', 100)), (null, '');
select id, name, length(data) from t order by id;
select nothing from nowhere;
start transaction; delete from t; rollback;
select count(*) from t;
insert into t (name, data) select concat('row ', seq), repeat(char(65 + seq mod 26), 1000) from seq_1_to_3000;
select count(*), sum(length(data)), md5(group_concat(md5(data) order by id)) from t;
select md5(repeat('long', 1000000)), length(repeat('x', 3000000));
prepare p from 'select name from t where id = ?'; set @id = 2; execute p using @id;
set @long = repeat('z', 2000000); select @long = repeat('z', 2000000);
show warnings;
";

fn start(stage: &Stage) -> Result<(Process, SocketAddr)> {
    let home = stage.subdir("mariadb")?;
    let user = User::from_name(USER)?.context("there is no user mysql: MariaDB is not installed")?;
    chown(&home, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let data = format!("--datadir={}", home.join("data").display());
    let mut install = Command::new("mariadb-install-db");
    install.args([
        "--no-defaults",
        "--user=mysql",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        &data,
    ]);
    install.args(["--skip-log-bin", "--innodb-log-file-size=8M", "--innodb-flush-method=nosync"]);
    must_run(&install, START)?;
    let address = stage.lease().local()?;
    let mut server = Command::new("mariadbd");
    server.args(["--no-defaults", "--user=mysql", "--bind-address=127.0.0.1", "--skip-name-resolve", &data]);
    server.args(["--innodb-log-file-size=8M", "--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0"]);
    server.args(["--max-allowed-packet=64M", "--group-concat-max-len=1000000", "--local-infile=1"]);
    server.arg(format!("--port={}", address.port()));
    server.arg(format!("--socket={}", home.join("socket").display()));
    server.arg(format!("--pid-file={}", home.join("pid").display()));
    let mut process = Process::start("mariadbd", &server, stage.dir())?;
    process.wait_for_port(address, START)?;
    Ok((process, address))
}

fn command(address: SocketAddr) -> Command {
    let mut command = Command::new("mariadb");
    command.args([
        "--no-defaults",
        "--protocol=tcp",
        "--user=root",
        "--max-allowed-packet=64M",
        "--connect-timeout=10",
    ]);
    command.arg(format!("--host={}", address.ip())).arg(format!("--port={}", address.port()));
    command
}

fn client(address: SocketAddr, dir: &Path) -> Result<Transcript> {
    let mut t = Transcript::new();
    for _ in 0..3 {
        let begin = Instant::now();
        let output = must_run(command(address).args(["-e", "select 'hello' as greeting"]), CLIENT)?;
        let took = begin.elapsed();
        ensure!(took < CONNECT, "connecting and one query took {took:?}: somebody waits for bytes that never come");
        t.step("connect", output.text());
    }
    must_run(command(address).args(["-e", "drop database if exists e2e"]), CLIENT)?;
    std::fs::write(dir.join("script.sql"), SCRIPT)?;
    let mut script = command(address);
    script.args(["--force", "--table", "--show-warnings", "--default-character-set=utf8mb4"]);
    let output = run_with(&script, None, Some(&dir.join("script.sql")), CLIENT)?;
    t.step("script", format_args!("{:?}\n{}{}", output.status.code(), output.text(), output.error_text()));
    let rows: String = (0..50_000).map(|row| format!("{}\trow {row}\tsome data for {row}\n", row + 100_000)).collect();
    let file = dir.join("rows.tsv");
    std::fs::write(&file, rows)?;
    let load = format!("load data local infile '{}' into table t; select count(*), sum(id) from t", file.display());
    let output = must_run(command(address).args(["--local-infile=1", "e2e", "-e", &load]), CLIENT)?;
    t.step("load", output.text());
    let output =
        must_run(command(address).args(["--batch", "--quick", "e2e", "-e", "select * from t order by id"]), CLIENT)?;
    let back = dir.join("back.tsv");
    std::fs::write(&back, &output.stdout)?;
    t.step("all of it", crate::curl::describe(&back)?);
    // Refused at the greeting: the server closes first.
    let mut stranger = command(address);
    stranger.args(["--user=nobody-knows", "-e", "select 1"]);
    t.step("refused", run(&stranger, CLIENT)?.error_text());
    Ok(t)
}

#[test]
fn mariadb() -> Result<()> {
    stage("mariadb", |stage| {
        let (_process, address) = start(stage)?;
        compare(stage, address, &[None, Some("mysql")], |address| client(address, stage.dir()))
    })
}
