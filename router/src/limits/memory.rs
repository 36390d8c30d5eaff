//! When there is too little memory for anything new.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// How often it is looked at: what comes in meanwhile must fit into what is left.
const EVERY: Duration = Duration::from_millis(250);

/// The part of what the machine or the container has that a router may use, in percent. The rest is for sockets, whose
/// buffers are the kernel's and counted too.
const SHARE: u64 = 80;

/// Below the limit by this part it goes on, so that it does not flicker: 1/16.
const SLACK: u64 = 16;

/// Whether new work is refused.
#[derive(Debug, Default)]
pub struct Memory {
    short: AtomicBool,
}

impl Memory {
    /// There is too little for anything new.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Looks at what the process uses, every now and then. Never returns.
    pub async fn watch(&self, most: u64) {
        loop {
            self.look(used().unwrap_or(0), most);
            sleep(EVERY).await;
        }
    }

    fn look(&self, used: u64, most: u64) {
        let short = self.is_short();
        if !short && used > most {
            tracing::warn!(used, most, "too little memory: nothing new is taken");
            self.short.store(true, Ordering::Relaxed);
        } else if short && used < most - most / SLACK {
            tracing::warn!(used, most, "enough memory again");
            self.short.store(false, Ordering::Relaxed);
        }
    }
}

/// Resident memory of this process, in bytes.
fn used() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&status, "VmRSS:")
}

/// What a router may use: most of what the machine has, or the container.
pub fn most_memory() -> u64 {
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse::<u64>().ok());
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    container.into_iter().chain(machine).min().map_or(u64::MAX, |all| all / 100 * SHARE)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_refused_until_there_is_memory_again() {
        let memory = Memory::default();
        let short = [1_600, 1_601, 1_550, 1_500, 1_499, 1_600].map(|used| {
            memory.look(used, 1_600);
            memory.is_short()
        });
        assert_eq!(short, [false, true, true, true, false, false]);
        assert!(used().is_some_and(|used| used > 1 << 20) && most_memory() > 1 << 20);
    }
}
