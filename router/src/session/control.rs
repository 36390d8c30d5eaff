//! How often a client may ping.

use std::time::{Duration, Instant};

/// One of these a time, in the long run: nobody needs as many.
const EACH: Duration = Duration::from_millis(100);

/// As long as these take may come at once: 100.
const AT_ONCE: Duration = EACH.saturating_mul(100);

/// What a client sends of pings and pongs of the WebSocket's own, which nothing but this bounds: each ping is answered.
#[derive(Debug, Default)]
pub(super) struct ControlFrames {
    /// When they all were in time, had they come one by one.
    until: Option<Instant>,
}

impl ControlFrames {
    /// Another one at `now`; false if there are too many.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let until = self.until.map_or(now, |until| until.max(now)) + EACH;
        let taken = until - now <= AT_ONCE;
        if taken {
            self.until = Some(until);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_at_once_and_ten_a_second() {
        let (mut control, begin) = (ControlFrames::default(), Instant::now());
        assert!((0..100).all(|_| control.take(begin)) && !control.take(begin));
        let later = begin + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| control.take(later)).count(), 10);
        let rested = later + Duration::from_secs(60);
        assert_eq!((0..200).filter(|_| control.take(rested)).count(), 100);
    }
}
