//! When a server that fails is left alone for a while. Pure.

use std::time::{Duration, Instant};

/// Failures in a row after which the server is left alone.
const FAILURES: u32 = 5;

/// For how long. Then one request finds out.
const PAUSE: Duration = Duration::from_secs(2);

/// A circuit breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    until: Option<Instant>,
}

impl Breaker {
    /// Whether a request may be made. Of those that come when the pause is over one may.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        match self.until {
            Some(until) if now < until => false,
            Some(_) => {
                self.until = Some(now + PAUSE);
                true
            }
            None => true,
        }
    }

    /// How a request ended. Says whether the server is left alone from now on.
    pub(super) fn ended(&mut self, now: Instant, well: bool) -> bool {
        if well {
            *self = Self::default();
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let opened = self.failures >= FAILURES;
        if opened {
            self.until = Some(now + PAUSE);
        }
        opened && self.failures == FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_stop_requests_for_a_while() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        for n in 1..=FAILURES {
            assert!(breaker.admits(now));
            assert_eq!(breaker.ended(now, false), n == FAILURES);
        }
        assert!(!breaker.admits(now) && !breaker.admits(now + PAUSE - Duration::from_millis(1)));
        now += PAUSE;
        assert!(breaker.admits(now) && !breaker.admits(now), "one finds out");
        assert!(!breaker.ended(now, false) && !breaker.admits(now));
        now += PAUSE;
        assert!(breaker.admits(now));
        breaker.ended(now, true);
        assert!(breaker.admits(now) && breaker.admits(now));
        // A success in between begins the count anew.
        for _ in 1..FAILURES {
            breaker.ended(now, false);
        }
        breaker.ended(now, true);
        breaker.ended(now, false);
        assert!(breaker.admits(now));
    }
}
