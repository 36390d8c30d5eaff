//! A launched program ends when its parent does, even by SIGKILL.
#![allow(clippy::unwrap_used)] // A test may.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The state letter of a process; `None` once it is gone.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

#[test]
fn it_dies_with_its_parent() {
    // A shell stands for the parent: it starts the program, tells its pid and waits.
    let script = "\"$ROOMCTL\" launch --parent $$ -- sleep 600 & echo $!; wait";
    let mut parent = Command::new("sh")
        .args(["-c", script])
        .env("ROOMCTL", env!("CARGO_BIN_EXE_roomctl"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();

    let deadline = Instant::now() + Duration::from_secs(20);
    let name = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    while name().trim() != "sleep" {
        assert!(Instant::now() < deadline, "process {pid} is {:?}, not sleep", name());
        std::thread::sleep(Duration::from_millis(10));
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    while state(pid).is_some_and(|s| !"ZX".contains(s)) {
        assert!(Instant::now() < deadline, "process {pid} outlives its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_does_not_start_for_a_parent_that_is_gone() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let ran = Command::new(env!("CARGO_BIN_EXE_roomctl"))
        .args(["launch", "--parent", &gone.id().to_string(), "--", "echo", "started"])
        .output()
        .unwrap();
    assert_eq!((ran.status.code(), ran.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("is gone already"));
}
