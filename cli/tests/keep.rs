//! Real processes, kept running by the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it should be")]

use std::{path::Path, time::Duration};

use mesh_cli::local::{
    keep::{Doing, Kept, Wanted},
    process::{Launcher, Program, Spec},
    report::{Notices, reporter},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{sync::watch, time::timeout};

const SOON: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    kept: Kept,
    notices: Notices,
    changes: watch::Receiver<()>,
}

fn keep(script: &str, grace: Duration) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let spec = Spec {
        name: "the program".into(),
        program: Program::Other(["/bin/sh", "-c", script].map(Into::into).into()),
        env: vec![("SAID".into(), "hello".into())],
        dir: Some(dir.path().into()),
        log: dir.path().join("log"),
        grace,
    };
    let (reporter, notices) = reporter();
    let (changed, changes) = watch::channel(());
    let launcher = Launcher::at(env!("CARGO_BIN_EXE_meshctl").into());
    let kept = Kept::new(launcher, spec, Wanted::Up, reporter, changed);
    Bench { dir, kept, notices, changes }
}

impl Bench {
    async fn until(&mut self, good: impl Fn(&Doing) -> bool) -> Doing {
        let search = async {
            loop {
                let doing = self.kept.doing();
                if good(&doing) {
                    return doing;
                }
                self.changes.changed().await.unwrap();
            }
        };
        timeout(SOON, search).await.expect("it takes too long")
    }

    async fn running(&mut self) -> u32 {
        self.until(|doing| doing.pid().is_some()).await.pid().unwrap()
    }
}

fn alive(pid: u32) -> bool {
    // A process that ended and was not waited for is no more alive than one that is gone.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

async fn until_file(path: &Path, wanted: &str) {
    let search = async {
        while !std::fs::read_to_string(path).unwrap_or_default().contains(wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, search).await.expect("the file does not say so");
}

#[tokio::test]
async fn a_killed_process_is_started_again() {
    let mut bench = keep("echo $SAID; exec sleep 60", Duration::from_secs(5));
    let first = bench.running().await;
    until_file(&bench.dir.path().join("log"), "hello").await;
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    let second = bench.until(|doing| doing.pid().is_some_and(|pid| pid != first)).await.pid().unwrap();
    let notice = timeout(SOON, bench.notices.next()).await.unwrap().unwrap();
    assert!(notice.text.contains("the program was killed by signal 9 (SIGKILL); starting it again in"), "{notice:?}");
    timeout(SOON, bench.kept.stop()).await.unwrap();
    assert!(!alive(second) && bench.kept.doing() == Doing::Down);
}

#[tokio::test]
async fn the_last_words_of_a_program_are_told() {
    let mut bench = keep("echo $SAID; exit 3", Duration::from_secs(5));
    let notice = timeout(SOON, bench.notices.next()).await.unwrap().unwrap();
    assert!(notice.text.contains("the program ended with code 3; starting it again"), "{notice:?}");
    assert!(notice.text.contains("it said: hello"), "{notice:?}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let spec = Spec {
        name: "the program".into(),
        program: Program::Other(vec!["/no/such/program".into()]),
        env: Vec::new(),
        dir: None,
        log: dir.path().join("log"),
        grace: Duration::from_secs(1),
    };
    let (reporter, mut notices) = reporter();
    let (changed, _changes) = watch::channel(());
    let launcher = Launcher::at(env!("CARGO_BIN_EXE_meshctl").into());
    let _kept = Kept::new(launcher, spec, Wanted::Up, reporter, changed);
    let notice = timeout(SOON, notices.next()).await.unwrap().unwrap();
    assert!(notice.text.contains("could not be started") && notice.text.contains("/no/such/program"), "{notice:?}");
}

#[tokio::test]
async fn who_does_not_end_in_time_is_killed_with_its_children() {
    let script = "trap '' TERM; sleep 60 & echo child=$! > child; echo up > up; while :; do wait; done";
    let mut bench = keep(script, Duration::from_millis(300));
    let pid = bench.running().await;
    until_file(&bench.dir.path().join("up"), "up").await;
    let child: u32 = std::fs::read_to_string(bench.dir.path().join("child")).unwrap().trim()[6..].parse().unwrap();
    timeout(SOON, bench.kept.stop()).await.unwrap();
    let gone = async {
        while alive(pid) || alive(child) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, gone).await.expect("they live on");
}

#[tokio::test]
async fn a_process_that_is_left_alone_is_not_started_again() {
    let mut bench = keep("exec sleep 60", Duration::from_secs(5));
    let first = bench.running().await;
    bench.kept.want(Wanted::Left);
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    bench.until(|doing| matches!(doing, Doing::Broken(_))).await;
    // Longer than the first wait before a process is started again.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(bench.kept.doing(), Doing::Broken(_)));
    bench.kept.want(Wanted::Up);
    bench.running().await;
    bench.kept.want(Wanted::Left);
    timeout(SOON, bench.kept.stop()).await.unwrap();
}

#[tokio::test]
async fn children_die_with_their_parent_however_it_dies() {
    let dir = tempfile::tempdir().unwrap();
    let exe = env!("CARGO_BIN_EXE_meshctl");
    // A shell stands for the parent; it is killed in a way that it cannot notice.
    let script = format!("{exe} exec --parent $$ -- sleep 60 & echo $! > child; wait");
    let mut parent = tokio::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .current_dir(dir.path())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let file = dir.path().join("child");
    until_file(&file, "\n").await;
    let child: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let became_sleep = async {
        while std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default().trim() != "sleep" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, became_sleep).await.unwrap();
    parent.kill().await.unwrap();
    let gone = async {
        while alive(child) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, gone).await.expect("the child lives on");
}
