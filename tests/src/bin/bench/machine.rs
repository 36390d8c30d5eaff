//! Where something was measured.

use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::peers;

/// A machine, and the versions of what ran on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Cores.
    pub(crate) cores: usize,
    /// Model of the CPU.
    pub(crate) cpu: String,
    /// Memory in GiB.
    pub(crate) memory_gib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Descriptors that a process may have.
    pub(crate) descriptors: u64,
    /// Of the servers compared, and of what they are made with.
    pub(crate) versions: Vec<String>,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: String, name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name).map(str::to_owned));
            line.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned()
        };
        let memory = field(read("/proc/meminfo"), "MemTotal");
        let (descriptors, _) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(read("/proc/cpuinfo"), "model name"),
            memory_gib: memory.trim_end_matches(" kB").trim().parse::<u64>().unwrap_or_default() >> 20,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            descriptors,
            versions: versions(),
        }
    }
}

fn versions() -> Vec<String> {
    let ours = format!("roomring {}{}", env!("CARGO_PKG_VERSION"), commit());
    let centrifugo = peers::peers_dir().join("bin/centrifugo");
    let centrifugo = centrifugo.to_string_lossy();
    let programs: [(&str, &[&str]); 6] = [
        ("/usr/bin/etcd", &["--version"]),
        ("/usr/sbin/nginx", &["-v"]),
        ("/usr/sbin/nats-server", &["--version"]),
        (&centrifugo, &["version"]),
        ("/usr/bin/node", &["--version"]),
        ("/usr/bin/redis-server", &["--version"]),
    ];
    let says = |(program, args): (&str, &[&str])| {
        let ran = Command::new(program).args(args).output().ok()?;
        let text = if ran.stdout.is_empty() { ran.stderr } else { ran.stdout };
        let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        let name = program.rsplit('/').next().unwrap_or(program);
        Some(if line.to_lowercase().contains(name) { line } else { format!("{name} {line}") })
    };
    let modules = ["socket.io", "@socket.io/redis-adapter"].into_iter().filter_map(|module| {
        let package = std::fs::read(peers::peers_dir().join("node_modules").join(module).join("package.json")).ok()?;
        let package: serde_json::Value = serde_json::from_slice(&package).ok()?;
        Some(format!("{module} {}", package["version"].as_str()?))
    });
    let nchan = Command::new("dpkg-query").args(["-W", "-f", "nchan ${Version}", "libnginx-mod-nchan"]).output();
    let nchan =
        nchan.ok().filter(|ran| ran.status.success()).map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned());
    std::iter::once(ours).chain(programs.into_iter().filter_map(says)).chain(nchan).chain(modules).collect()
}

/// The commit that is checked out, if git knows.
fn commit() -> String {
    let ran = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = ran.ok().filter(|r| r.status.success()).map(|r| String::from_utf8_lossy(&r.stdout).trim().to_owned());
    commit.map_or_else(String::new, |commit| format!(" ({commit})"))
}
