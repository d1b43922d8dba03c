//! What README.md tells a new user to do with a cluster, done: each command as it stands there. Floor 6: imports `suite`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{install, viz};
use crate::{
    bin, cache,
    cluster::parts,
    http,
    process::{Process, run, until},
    suite::{Scenario, Scene},
};

/// The scenarios of this file. It comes after all others: it begins without a mesh, and ends so.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-readme",
    "every command of README.md's part on clusters does what stands there, from an empty cluster to an empty cluster",
    |scene| Box::pin(walk(scene)),
)
.within(240)];

/// The part of README.md.
const PART: &str = "## In a cluster";
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(120);
/// How long until something can be seen that happens all the time.
const SEEN: Duration = Duration::from_secs(45);
/// One answer takes at most this long.
const ANSWER: Duration = Duration::from_secs(10);

async fn walk(scene: Scene) -> Result<()> {
    // What an earlier run may have left.
    scene.kubectl(&["delete", "namespace", "shop", "--ignore-not-found"]).await?;
    install::images(&scene)?;
    viz::images(&scene)?;
    let readme = std::fs::read_to_string(cache::home().join("../README.md")).context("README.md")?;
    let walker = Walker::new(scene.provider.kubeconfig())?;
    // Its processes end with the thread that starts them: one thread for all.
    tokio::task::spawn_blocking(move || walker.all(&commands(&readme, PART))).await.context("the walk")??;
    install::nothing_left(&scene).await
}

/// The commands of a part, in their order, without what is said about them.
fn commands(readme: &str, part: &str) -> Vec<String> {
    let from = readme.lines().skip_while(|line| *line != part).skip(1);
    let lines = from.take_while(|line| !line.starts_with("## "));
    let mut inside = false;
    let mut commands = Vec::new();
    for line in lines {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            commands.push(command.split(" #").next().unwrap_or_default().trim().to_owned());
        }
    }
    commands
}

struct Walker {
    kubeconfig: PathBuf,
    path: std::ffi::OsString,
    dir: tempfile::TempDir,
}

impl Walker {
    fn new(kubeconfig: PathBuf) -> Result<Self> {
        let meshctl = bin::meshctl()?;
        let before = [meshctl.parent().context("an odd path")?.to_owned(), parts::kubernetes()?];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(before.into_iter().chain(std::env::split_paths(&path)))?;
        Ok(Self { kubeconfig, path, dir: tempfile::tempdir()? })
    }

    fn all(&self, commands: &[String]) -> Result<()> {
        let has = |what: &str| commands.iter().any(|command| command.starts_with(what));
        for what in
            ["meshctl check --pre", "meshctl install", "meshctl status", "meshctl viz install", "meshctl uninstall"]
        {
            ensure!(has(what), "README.md does not tell of `{what}`: {commands:#?}");
        }
        for command in commands {
            // What is built was built before the suite began.
            if command.starts_with("make ") {
                continue;
            }
            let begun = Instant::now();
            self.one(command).with_context(|| format!("`{command}`, as README.md has it"))?;
            println!("       {:5.1} s  {command}", begun.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn one(&self, command: &str) -> Result<()> {
        match command.strip_prefix("meshctl dashboard ") {
            Some("prometheus") => self.page(command, metrics),
            Some("jaeger") => self.page(command, traces),
            Some(other) => anyhow::bail!("nobody knows what {other} shows"),
            None => {
                let output = run(&self.shell(command), COMMAND)?;
                let said = format!("{}{}", output.text(), output.error_text());
                ensure!(output.status.success(), "it failed:\n{said}");
                ensure!(!said.contains("warning:"), "it complains:\n{said}");
                if command == "meshctl status" {
                    let good =
                        ["shop/web", "shop/api", "shop/stock", "grpc", "100.0%"].iter().all(|a| said.contains(a));
                    ensure!(good, "it does not tell who calls whom:\n{said}");
                }
                Ok(())
            }
        }
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        // In the shell's place, so that a signal meets the program.
        shell.args(["-c", &format!("exec {command}")]).env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.path);
        shell.current_dir(cache::home().join(".."));
        shell
    }

    /// A dashboard: it says where it is, and there it is.
    fn page(&self, command: &str, look: impl Fn(SocketAddr) -> Result<()>) -> Result<()> {
        let mut process = Process::start("dashboard", &self.shell(command), Path::new(self.dir.path()))?;
        let url = process.wait_for_line("http://", ANSWER)?;
        let address: SocketAddr = url.trim().trim_start_matches("http://").parse().with_context(|| url.clone())?;
        ensure!(http::get(address, "/", ANSWER)?.status.as_u16() < 400, "{url} has no page");
        let mut last = anyhow::anyhow!("nothing was seen");
        let seen = until("there is something to see", SEEN, || match look(address) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = error;
                Ok(None)
            }
        });
        seen.map_err(|error| error.context(format!("{last:#}")))?;
        process.stop().map(drop)
    }
}

/// What the customer of the shop calls is counted.
fn metrics(address: SocketAddr) -> Result<()> {
    let query = "sum(mesh_requests_total%7Bsource=%22web%22,destination=%22api%22,status=%222xx%22%7D)";
    let answer = json(address, &format!("/api/v1/query?query={query}"))?;
    let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str).unwrap_or_default();
    ensure!(value.parse::<f64>().is_ok_and(|value| value > 0.0), "no calls of api by web: {answer}");
    Ok(())
}

/// One of a hundred of the customer's orders is traced.
fn traces(address: SocketAddr) -> Result<()> {
    let answer = json(address, "/api/v3/services")?;
    let services: Vec<&str> = answer["services"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for service in ["customer", "web", "api", "stock", "audit"] {
        ensure!(services.contains(&service), "no traces of {service}, only of {services:?}");
    }
    Ok(())
}

fn json(address: SocketAddr, path: &str) -> Result<Value> {
    let answer = http::get(address, path, ANSWER)?;
    serde_json::from_slice(&answer.body).with_context(|| format!("{} {}", answer.status, answer.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_what_is_said_about_them() {
        let text = "## Before\n```console\n$ no\n```\n## It\nwords\n```console\n$ a --b   # why\noutput\n$ c\n```\n\
            ```text\n$ no\n```\n### Deeper\n```console\n$ d\n```\n## After\n```console\n$ no\n```\n";
        assert_eq!(commands(text, "## It"), ["a --b", "c", "d"]);
    }
}
