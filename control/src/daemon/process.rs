//! What the system knows of this process.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::metrics::{Sink, Source};

/// Tells the metrics that every Prometheus client tells of its process.
#[derive(Debug)]
pub(super) struct Process {
    /// Unix time, s.
    started: f64,
}

impl Process {
    /// To be made when the process starts.
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: started.as_secs_f64() }
    }
}

impl Source for Process {
    fn tell(&self, sink: &mut Sink<'_>) -> fmt::Result {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| field(&status, name);
        sink.gauge(
            "process_resident_memory_bytes",
            "Resident memory.",
            field("VmRSS:").unwrap_or(0).saturating_mul(1024),
        )?;
        sink.gauge(
            "process_virtual_memory_bytes",
            "Virtual memory.",
            field("VmSize:").unwrap_or(0).saturating_mul(1024),
        )?;
        sink.gauge("process_threads", "Threads.", field("Threads:").unwrap_or(0))?;
        sink.seconds_counter("process_cpu_seconds", "CPU time, the kernel's on our behalf included.", cpu_seconds())?;
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64);
        sink.gauge("process_open_fds", "Open file descriptors.", open)?;
        let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        sink.gauge("process_max_fds", "File descriptors that may be open.", most)?;
        sink.seconds("process_start_time_seconds", "Unix time of the start.", self.started)
    }
}

/// Resident memory of this process, in bytes. From `status`, which gives kB: `statm` counts pages, of a size it does not tell.
pub fn resident_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")?.checked_mul(1024)
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
    let seconds = |t: nix::sys::time::TimeVal| {
        #[allow(clippy::cast_precision_loss)] // Both are small.
        let seconds = t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        seconds
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_read() {
        let bytes = resident_bytes().unwrap();
        assert!((1 << 20..1 << 36).contains(&bytes), "{bytes}");
        assert!(cpu_seconds() > 0.0);
    }
}
