//! One process of a `dev` cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::plan::{Role, Spec};
use crate::USAGE;
use crate::cli::Usage;

/// After SIGTERM a process has this long before SIGKILL: the cluster ends as a whole, so there is nowhere to drain to.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Longest ready line taken, in bytes.
const READY_BYTES: u64 = 4096;

/// How much of a log is shown when its process died: as much as a person reads.
const LAST_LINES: usize = 8;
const LAST_BYTES: u64 = 8 << 10;

/// Variables that mean one process and not the whole cluster.
const NOT_SHARED: [&str; 4] = ["ROOMRING_ADMIN", "ROOMRING_ADVERTISE", "ROOMRING_CONFIG", "ROOMRING_ID"];

/// What is known of a started process.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub(super) role: Role,
    pub(super) id: String,
    pub(super) pid: u32,
    /// What its ready line told, e.g. `http`, `grpc`.
    pub(super) told: BTreeMap<String, String>,
    log: PathBuf,
}

/// A started process.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) info: Info,
    process: tokio::process::Child,
    stdout: Option<BufReader<ChildStdout>>,
}

/// How a process ended. Displays as what a person should know.
#[derive(Debug)]
pub(super) struct Ended {
    info: Info,
    status: std::io::Result<ExitStatus>,
}

impl Child {
    /// Starts it through `roomctl launch`, so that it ends when this process does.
    pub(super) fn spawn(spec: &Spec) -> anyhow::Result<Self> {
        let log = File::create(&spec.log).with_context(|| format!("making {}", spec.log.display()))?;
        let mut command = Command::new(std::env::current_exe().context("finding this program's own file")?);
        command.args(["launch", "--parent"]).arg(std::process::id().to_string()).arg("--");
        command.arg(&spec.program).args(&spec.args);
        for variable in NOT_SHARED {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // A group of its own: Ctrl-C is for this process, which then ends the others in order.
        command.process_group(0).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("starting {}", spec.id))?;
        let stdout = process.stdout.take().map(BufReader::new);
        let pid = process.id().with_context(|| format!("{} ended at once", spec.id))?;
        let info = Info { role: spec.role, id: spec.id.clone(), pid, told: BTreeMap::new(), log: spec.log.clone() };
        Ok(Self { info, process, stdout })
    }

    /// Waits for the ready line.
    pub(super) async fn ready(&mut self, within: Duration) -> anyhow::Result<()> {
        let stdout = self.stdout.as_mut().context("the ready line was read before")?;
        let mut line = String::new();
        let mut limited = stdout.take(READY_BYTES);
        match tokio::time::timeout(within, limited.read_line(&mut line)).await {
            Ok(read) => read.with_context(|| format!("reading what {} says", self.info.id))?,
            Err(_) => {
                let lines = last_lines(&self.info.log);
                bail!("{} is not ready after {}s; its last log lines:\n{lines}", self.info.id, within.as_secs())
            }
        };
        match parse_ready(&line) {
            Some(told) => {
                self.info.told = told;
                Ok(())
            }
            None if line.is_empty() => Err(self.ended_early().await),
            None => Err(anyhow!("{} says {:?} instead of its ready line", self.info.id, line.trim())),
        }
    }

    /// It closed its stdout without a word: it is ending.
    async fn ended_early(&mut self) -> anyhow::Error {
        let status = match tokio::time::timeout(STOP_GRACE, self.process.wait()).await {
            Ok(status) => status,
            Err(_) => return anyhow!("{} closed its stdout before it was ready", self.info.id),
        };
        // What it says of a bad setting is one whole line.
        if let Ok(status) = &status
            && status.code() == Some(i32::from(USAGE))
            && let Some(line) = last_lines(&self.info.log).lines().last()
        {
            return Usage(line.trim().to_owned()).into();
        }
        anyhow!("{}", Ended { info: self.info.clone(), status })
    }

    /// Waits until it ends, by itself or because of `end`.
    pub(super) async fn run(mut self, end: CancellationToken) -> Ended {
        // Nothing more is expected there, but a full pipe would stop it.
        let drain = async {
            if let Some(stdout) = self.stdout.as_mut() {
                let _ = tokio::io::copy_buf(stdout, &mut tokio::io::sink()).await;
            }
            std::future::pending::<()>().await;
        };
        let status = tokio::select! {
            status = self.process.wait() => Some(status),
            () = drain => None,
            () = end.cancelled() => None,
        };
        let status = match status {
            Some(status) => status,
            None => stop(&mut self.process).await,
        };
        Ended { info: self.info, status }
    }
}

async fn stop(process: &mut tokio::process::Child) -> std::io::Result<ExitStatus> {
    // The id is gone once it was waited for, so this can't hit another process.
    if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    match tokio::time::timeout(STOP_GRACE, process.wait()).await {
        Ok(status) => status,
        Err(_) => {
            process.start_kill()?;
            process.wait().await
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}) ended: ", self.info.id, self.info.pid)?;
        match &self.status {
            Ok(status) => write!(f, "{status}")?,
            Err(e) => write!(f, "{e}")?,
        }
        write!(f, "; its last log lines in {}:\n{}", self.info.log.display(), last_lines(&self.info.log))
    }
}

/// `ready id=node-1 grpc=127.0.0.1:41001` as a map.
fn parse_ready(line: &str) -> Option<BTreeMap<String, String>> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    (words.next() == Some("ready")).then_some(())?;
    words.map(|word| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}

/// The end of a log, each line indented.
fn last_lines(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(LAST_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
        }
        Err(e) => format!("  ({e})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines_are_read() {
        let told = parse_ready("ready id=router-1 http=127.0.0.1:8000 grpc=[::1]:2\n").unwrap();
        assert_eq!(told["http"], "127.0.0.1:8000");
        assert_eq!(told["grpc"], "[::1]:2");
        for bad in ["", "ready id=a", "steady id=a\n", "ready id\n"] {
            assert_eq!(parse_ready(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, (0..10_000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let shown = last_lines(&log);
        assert_eq!(shown.lines().count(), LAST_LINES);
        assert!(shown.ends_with("  line 9999"));
    }
}
