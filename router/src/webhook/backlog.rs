//! What waits to be told, and when it is tried again. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most events that wait: a minute of joins and leaves of a busy router.
const EVENTS: usize = 10_000;

/// Most bytes of them: publications may be large.
const BYTES: usize = 16 << 20;

/// Most events in one request.
const BATCH_EVENTS: usize = 100;

/// Most bytes of events in one request, unless one alone has more: servers' usual limit on bodies.
const BATCH_BYTES: usize = 1 << 20;

/// First wait after a failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Longest wait between two tries: a server that is back is told within that time.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Events in their order, until they are taken or too old.
#[derive(Debug)]
pub(super) struct Backlog {
    deadline: Duration,
    waiting: VecDeque<(Instant, Box<[u8]>)>,
    bytes: usize,
    failures: u32,
    not_before: Option<Instant>,
}

impl Backlog {
    /// What is older than `deadline` is told no more.
    pub(super) fn new(deadline: Duration) -> Self {
        Self { deadline, waiting: VecDeque::new(), bytes: 0, failures: 0, not_before: None }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes an event; false if there is no room for it.
    pub(super) fn push(&mut self, now: Instant, event: Vec<u8>) -> bool {
        let fits = self.waiting.len() < EVENTS && self.bytes + event.len() <= BYTES;
        if fits {
            self.bytes += event.len();
            self.waiting.push_back((now, event.into()));
        }
        fits
    }

    /// Drops what is too old; how much that was.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let old = self.waiting.iter().take_while(|(at, _)| now.saturating_duration_since(*at) >= self.deadline).count();
        self.remove(old);
        old
    }

    /// When the next request is due; `None` if there is nothing to be told.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.not_before.unwrap_or(now))
    }

    /// The oldest events, as many as go into one request: how many, and what they are with commas between them.
    pub(super) fn batch(&self) -> (usize, Vec<u8>) {
        let (mut count, mut batch) = (0, Vec::new());
        for (_, event) in self.waiting.iter().take(BATCH_EVENTS) {
            if count > 0 && batch.len() + event.len() >= BATCH_BYTES {
                break;
            }
            if count > 0 {
                batch.push(b',');
            }
            batch.extend_from_slice(event);
            count += 1;
        }
        (count, batch)
    }

    /// The first `count` are done with: they were taken, or never will be.
    pub(super) fn done(&mut self, count: usize) {
        self.remove(count);
        (self.failures, self.not_before) = (0, None);
    }

    /// A request failed: the next is made after a while, `jitter` (0 to 1) of which is by chance. True for the first in a row.
    pub(super) fn failed(&mut self, now: Instant, jitter: f64) -> bool {
        let wait = (FIRST_WAIT * 2_u32.saturating_pow(self.failures.min(10))).min(LONGEST_WAIT);
        self.not_before = Some(now + wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    /// The last request failed.
    pub(super) fn fails(&self) -> bool {
        self.failures > 0
    }

    fn remove(&mut self, count: usize) {
        self.bytes -= self.waiting.drain(..count).map(|(_, event)| event.len()).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog() -> (Backlog, Instant) {
        (Backlog::new(Duration::from_secs(60)), Instant::now())
    }

    #[test]
    fn events_go_out_in_order_and_in_batches() {
        let (mut backlog, now) = backlog();
        assert_eq!(backlog.due(now), None);
        for n in 0..BATCH_EVENTS + 1 {
            assert!(backlog.push(now, n.to_string().into_bytes()));
        }
        assert_eq!(backlog.due(now), Some(now));
        let (count, batch) = backlog.batch();
        assert!(count == BATCH_EVENTS && batch.starts_with(b"0,1,2,") && batch.ends_with(b",98,99"));
        // What comes meanwhile is behind, and the same goes out again if it was not taken.
        backlog.push(now, b"101".to_vec());
        backlog.failed(now, 0.0);
        assert_eq!(backlog.batch(), (count, batch));
        backlog.done(count);
        assert_eq!(backlog.batch(), (2, b"100,101".to_vec()));
        backlog.done(2);
        assert_eq!((backlog.len(), backlog.bytes, backlog.due(now)), (0, 0, None));
    }

    #[test]
    fn a_batch_is_no_larger_than_servers_take() {
        let (mut backlog, now) = backlog();
        for bytes in [BATCH_BYTES + 1, BATCH_BYTES / 2, BATCH_BYTES / 2 - 2, 1] {
            backlog.push(now, vec![b'1'; bytes]);
        }
        assert_eq!(backlog.batch().0, 1, "one alone has more");
        backlog.done(1);
        let (count, batch) = backlog.batch();
        assert!(count == 2 && batch.len() < BATCH_BYTES);
    }

    #[test]
    fn what_waits_is_bounded_in_number_bytes_and_time() {
        let (mut backlog, now) = backlog();
        assert!((0..EVENTS).all(|_| backlog.push(now, vec![b'1'])) && !backlog.push(now, vec![b'1']));
        let later = now + Duration::from_secs(60);
        assert_eq!((backlog.expire(later - Duration::from_millis(1)), backlog.expire(later)), (0, EVENTS));
        assert!(backlog.push(later, vec![b'1'; BYTES]) && !backlog.push(later, vec![b'1']));
        assert_eq!((backlog.expire(later), backlog.len()), (0, 1));
    }

    #[test]
    fn failures_space_out_the_tries() {
        let (mut backlog, now) = backlog();
        backlog.push(now, vec![b'1']);
        let mut wait = |jitter| {
            let first = backlog.failed(now, jitter);
            (first, backlog.due(now).unwrap() - now)
        };
        assert_eq!(wait(1.0), (true, FIRST_WAIT));
        assert_eq!(wait(1.0), (false, FIRST_WAIT * 2));
        assert_eq!(wait(0.0), (false, FIRST_WAIT * 2));
        assert_eq!((0..100).map(|_| wait(1.0)).last(), Some((false, LONGEST_WAIT)));
        assert!(backlog.fails());
        backlog.done(0);
        assert_eq!((backlog.fails(), backlog.due(now)), (false, Some(now)));
    }
}
