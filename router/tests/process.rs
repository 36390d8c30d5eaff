//! The binary as a process: what it says when it can't run, and that it stops when told.

#![allow(clippy::unwrap_used, reason = "a test fails where a helper of it does")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

fn router(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomring-router"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn refused(args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = router(args).output().unwrap();
    assert!(stdout.is_empty());
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    (status.code().unwrap(), stderr)
}

#[test]
fn settings_that_can_not_be_used_are_one_line_and_exit_code_2() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"id = 'a'\nping = 'often'\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (args, says) in [
        (&["--id", "a", "--ping", "3"][..], "--ping <PING>"),
        (&["--id", "a", "--nope"], "--nope"),
        (&["--id", "a", "--log", "info,a=loudly"], "`log`"),
        (&[], "`id`"),
        (&["--config", path], "`ping`: expected a duration such as 60s"),
        (&["--config", "/does/not/exist.toml"], "/does/not/exist.toml: can't be read"),
    ] {
        let (code, line) = refused(args);
        assert_eq!(code, 2, "{args:?}: {line}");
        assert!(line.starts_with("roomring-router: ") && line.contains(says), "{args:?}: {line}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, line) = refused(&["--id", "a", "--insecure-names=true", "--http", &address]);
    assert_eq!((code, line.starts_with(&format!("roomring-router: http: {address}: "))), (1, true), "{line}");
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn without_etcd_it_is_live_but_not_ready_says_so_and_stops_when_told() {
    // Nobody listens on either: the ports were free a moment ago.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (http, etcd) = (free(), free());
    let etcd = format!("http://{etcd}");
    let mut child = Running(router(&["--id=a", "--http", &http.to_string(), "--etcd", &etcd]).spawn().unwrap());
    let start = Instant::now();
    let readyz = loop {
        if let Some(answer) = get(http, "/readyz") {
            break answer;
        }
        assert!(start.elapsed() < SOON, "it never listened");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(readyz.starts_with("HTTP/1.1 503") && readyz.contains("starting: waiting for etcd"), "{readyz}");
    assert!(get(http, "/healthz").unwrap().starts_with("HTTP/1.1 200"));

    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let told = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(told.elapsed() < SOON, "it did not stop");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    let mut log = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains(&format!("etcd at {etcd}: not reachable")), "{log}");
    let mut stdout = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(stdout, "", "ready was said too early");
}
