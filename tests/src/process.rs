//! One child process: started, watched, signalled and ended by its pid.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::sync::mpsc;

use crate::expect::{eventually, within};

/// Lines of standard output kept for the test; the rest is only in the log. Programs here print a few.
const LINES: usize = 1024;

/// Lines of a log shown when a test fails.
const TAIL: usize = 60;

/// A running child. Dropping it kills it and whatever it started, and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    lines: mpsc::Receiver<String>,
    exited: Option<ExitStatus>,
}

/// What a finished program left.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Where cargo put the binaries of this build: beside the test that runs. `ROOMRING_BIN_DIR` names another place.
pub(crate) fn binary_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("ROOMRING_BIN_DIR") {
        return dir.into();
    }
    let exe = std::env::current_exe().expect("path of this test");
    let deps = exe.parent().expect("a test lies in a directory");
    if deps.ends_with("deps") { deps.parent().unwrap_or(deps).into() } else { deps.into() }
}

/// Whether a process runs. One that has ended and was not yet collected by whoever inherited it does not.
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).is_some_and(|state| !"ZX".contains(state))
}

/// Path of a binary of this workspace.
///
/// # Panics
/// If it was not built.
pub fn binary(name: &str) -> PathBuf {
    let path = binary_dir().join(name);
    assert!(path.is_file(), "{} is missing: run `make test`, or `cargo build --bins` first", path.display());
    path
}

/// Runs a program to its end.
///
/// # Panics
/// If it does not start, or is not done after `limit`.
pub async fn run<S: AsRef<OsStr>>(program: &Path, args: &[S], limit: Duration) -> Ran {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(&format!("{} to end", program.display()), limit, command.output()).await;
    let output = output.unwrap_or_else(|e| panic!("start {}: {e}", program.display()));
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Process {
    /// Starts `program`; standard error, and a copy of standard output, go to `log`. Call it from the test's own
    /// thread: the child is told by the kernel to end when the thread that started it does.
    pub fn start<S: AsRef<OsStr>>(name: &str, program: &Path, args: &[S], log: &Path) -> Self {
        Self::start_with(name, program, args, log, Stdio::null())
    }

    /// As [`Process::start`], with a standard input.
    pub fn start_with<S: AsRef<OsStr>>(name: &str, program: &Path, args: &[S], log: &Path, stdin: Stdio) -> Self {
        let file = File::options().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|e| panic!("open log {}: {e}", log.display()));
        let mut copy = file.try_clone().expect("second handle of a log");
        // setpriv becomes the program itself, under the same pid, so that a killed test leaves nothing behind.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(file).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {name} (setpriv, of util-linux): {e}"));
        let stdout = child.stdout.take().expect("piped");
        let (tx, lines) = mpsc::channel(LINES);
        // Ends with the child, whose end of the pipe closes then.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // A log that can't be written must not stop the reading, or the child would block.
                let _ = writeln!(copy, "[stdout] {line}");
                if tx.try_send(line).is_err() && tx.is_closed() {
                    break;
                }
            }
        });
        Self { name: name.to_owned(), child, log: log.to_owned(), lines, exited: None }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Standard input, if one was piped; once.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The next line of standard output.
    ///
    /// # Panics
    /// If none comes in time, or the program ends first; with its last words.
    pub async fn line(&mut self, what: &str, limit: Duration) -> String {
        let line = tokio::time::timeout(limit, self.lines.recv()).await;
        match line {
            Ok(Some(line)) => line,
            Ok(None) => panic!("{} ended before {what}:\n{}", self.name, self.tail()),
            Err(_) => panic!("{}: waited {limit:?} for {what}:\n{}", self.name, self.tail()),
        }
    }

    /// Every line of standard output that has come and was not read yet.
    pub fn lines_so_far(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If there is no such process any more.
    pub fn signal(&self, signal: Signal) {
        let pid = self.raw_pid();
        kill(pid, signal).unwrap_or_else(|e| panic!("{signal} to {} (pid {pid}): {e}", self.name));
    }

    /// SIGKILL, and waits for the end; checks that the pid is gone.
    pub fn kill(&mut self) {
        assert!(self.is_running(), "{} had ended before it was killed:\n{}", self.name, self.tail());
        self.signal(Signal::SIGKILL);
        let status = self.child.wait().expect("wait for a child");
        self.exited = Some(status);
        let pid = self.raw_pid();
        assert!(kill(pid, None).is_err(), "pid {pid} is still there after SIGKILL");
        crate::evidence(format!("{} (pid {pid}) is gone: {status}", self.name));
    }

    /// Still running, as far as the kernel says.
    pub fn is_running(&mut self) -> bool {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("look at a child");
        }
        self.exited.is_none()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it has not ended after `limit`, with its last words.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        eventually(&what, limit, async || if self.is_running() { None } else { self.exited }).await
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL);
        format!("--- {} ({}), last lines\n{}", self.name, self.log.display(), lines[from..].join("\n"))
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The whole group: what it started ends with it. Nobody may be left; then there is nothing to do.
        let _ = killpg(self.raw_pid(), Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}

/// Resident bytes of a process.
///
/// # Panics
/// If there is no such process.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("the kernel tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
}
