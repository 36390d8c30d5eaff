//! What a process uses, as the kernel counts it.

use nix::sys::time::TimeValLike;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU seconds of a process since it began, kernel time and ended threads included.
///
/// # Panics
/// If it has ended: what is measured must not.
pub(crate) fn cpu(pid: u32) -> f64 {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()));
    let time = clock.and_then(clock_gettime).unwrap_or_else(|e| panic!("CPU time of process {pid}: {e}"));
    time.num_nanoseconds() as f64 / 1e9
}

/// Resident bytes of a process; what it shares with others is divided among them.
///
/// # Panics
/// If it has ended.
pub(crate) fn memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let rollup = rollup.unwrap_or_else(|e| panic!("memory of process {pid}: {e}"));
    let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).expect("the kernel tells Pss");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number of kB") * 1024
}

/// A process and all that it started.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}
