//! Waiting longer and longer between attempts.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);

/// The longest wait: how late an etcd that came back may be noticed, and how often its absence is logged.
const LONGEST: Duration = Duration::from_secs(3);

/// Delays between attempts: doubling, less a random fifth.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts += 1;
        // Many processes lose the same etcd at once: they should not all come back in the same instant.
        wait - wait.mul_f64(rand::random::<f64>() / 5.0)
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Failures in a row.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }
}
