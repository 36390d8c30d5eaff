//! A client's one outbound queue: the hub and the session put messages in, the session's task takes them out and writes them.
//!
//! Putting never waits: a client that does not read in time is marked slow instead, and everybody else goes on.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::api::ToClient;

/// Most messages that wait for one client: small pushes cost more memory than their bytes.
const MESSAGES: usize = 16_384;

/// What a queued message counts beside its bytes: its place in the queue and its share of the frame header.
const OVERHEAD: usize = 64;

/// Room for messages that an emptied queue keeps; a burst's memory is given back.
const KEEP_CAPACITY: usize = 64;

/// The client did not read fast enough: it is to be closed with [`roomring_proto::close::CloseCode::SLOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client does not read as fast as its rooms talk")]
pub struct Slow;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits in the queue.
    Queued,
    /// It did not fit: from now on the client is slow. Said once.
    Overflowed,
    /// Nothing is taken any more: the client is slow, or gone.
    Refused,
}

/// The queue. Many put in, one takes out.
#[derive(Debug)]
pub struct ClientQueue {
    state: Mutex<State>,
    wake: Notify,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<ToClient>,
    pushes: usize,
    replies: usize,
    slow: bool,
    closed: bool,
}

impl ClientQueue {
    /// A queue for at most `max_bytes` of pushes, and as much of replies. One message always fits into an empty queue, so
    /// that a recovery larger than the bound can be delivered at all.
    pub fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), max_bytes }
    }

    /// Queues `message`. Never waits.
    pub fn push(&self, message: ToClient) -> Pushed {
        let cost = cost(&message);
        let mut state = self.lock();
        if state.slow || state.closed {
            return Pushed::Refused;
        }
        let full = state.messages.len() >= MESSAGES;
        // Replies have a bound of their own: a large recovery must not make the next push overflow.
        let backlog = if matches!(message, ToClient::Push(_)) { &mut state.pushes } else { &mut state.replies };
        if full || (*backlog > 0 && *backlog + cost > self.max_bytes) {
            state.slow = true;
            state.clear();
            drop(state);
            self.wake.notify_one();
            return Pushed::Overflowed;
        }
        *backlog += cost;
        state.messages.push_back(message);
        let first = state.messages.len() == 1;
        drop(state);
        if first {
            self.wake.notify_one();
        }
        Pushed::Queued
    }

    /// Waits for messages and appends at most `limit` of them to `out`, in order; none only if the queue was closed.
    /// Safe to cancel: what was not returned stays. One caller at a time.
    ///
    /// # Errors
    /// [`Slow`] once the queue overflowed, at once: what waited was dropped.
    pub async fn recv_many(&self, out: &mut Vec<ToClient>, limit: usize) -> Result<usize, Slow> {
        loop {
            if let Some(taken) = self.try_recv_many(out, limit) {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    /// Like [`Self::recv_many`]; `None` if there is nothing yet.
    pub fn try_recv_many(&self, out: &mut Vec<ToClient>, limit: usize) -> Option<Result<usize, Slow>> {
        let mut state = self.lock();
        if state.slow {
            return Some(Err(Slow));
        }
        let count = state.messages.len().min(limit);
        if count == 0 {
            return state.closed.then_some(Ok(0));
        }
        out.extend(state.messages.drain(..count));
        if state.messages.is_empty() {
            state.pushes = 0;
            state.replies = 0;
            if state.messages.capacity() > KEEP_CAPACITY {
                state.messages = VecDeque::new();
            }
        } else {
            for message in &out[out.len() - count..] {
                let cost = cost(message);
                let backlog = if matches!(message, ToClient::Push(_)) { &mut state.pushes } else { &mut state.replies };
                *backlog = backlog.saturating_sub(cost);
            }
        }
        Some(Ok(count))
    }

    /// The client is gone: nothing more is taken, what waits is dropped, and its rooms let go of it.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.clear();
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until the queue overflows, leaving what is in it. Safe to cancel; for the task that also receives.
    pub async fn overflowed(&self) {
        // A wake-up used up here is none lost: receiving looks at the queue before it waits.
        while !self.is_slow() {
            self.wake.notified().await;
        }
    }

    /// The queue overflowed.
    pub fn is_slow(&self) -> bool {
        self.lock().slow
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the queue itself whole: no operation on it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn clear(&mut self) {
        self.messages = VecDeque::new();
        self.pushes = 0;
        self.replies = 0;
    }
}

fn cost(message: &ToClient) -> usize {
    let publications = |list: &[roomring_proto::v1::Publication]| -> usize {
        list.iter().map(|p| OVERHEAD + p.data.len() + p.info.as_ref().map_or(0, |i| i.conn_info.len())).sum()
    };
    OVERHEAD
        + match message {
            ToClient::Push(bytes) => bytes.len(),
            ToClient::Subscribed { result: Ok(s), .. } => publications(&s.publications),
            ToClient::History { result: Ok(h), .. } => publications(&h.publications),
            ToClient::Presence { result: Ok(p), .. } => p
                .clients
                .iter()
                .map(|(id, info)| OVERHEAD + 2 * id.len() + info.user.len() + info.conn_info.len())
                .sum(),
            ToClient::Subscribed { .. }
            | ToClient::History { .. }
            | ToClient::Presence { .. }
            | ToClient::Unsubscribed { .. }
            | ToClient::Dropped { .. }
            | ToClient::Published { .. } => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use roomring_proto::close::ErrorCode;

    use super::*;

    fn push(bytes: usize) -> ToClient {
        ToClient::Push(Bytes::from(vec![b'x'; bytes]))
    }

    #[tokio::test]
    async fn hands_out_in_order_and_counts_down() {
        let queue = ClientQueue::new(1000);
        for size in [1, 2, 3] {
            assert_eq!(queue.push(push(size)), Pushed::Queued);
        }
        let mut out = Vec::new();
        assert_eq!(queue.recv_many(&mut out, 2).await, Ok(2));
        assert_eq!(queue.recv_many(&mut out, 9).await, Ok(1));
        let sizes: Vec<usize> =
            out.iter().map(|m| if let ToClient::Push(b) = m { b.len() } else { unreachable!() }).collect();
        assert_eq!(sizes, [1, 2, 3]);
        // The whole bound is free again.
        assert_eq!(queue.push(push(900)), Pushed::Queued);
    }

    #[tokio::test]
    async fn overflow_is_said_once_and_ends_the_queue() {
        let queue = ClientQueue::new(300);
        assert_eq!(queue.push(push(200)), Pushed::Queued);
        assert_eq!(queue.push(push(200)), Pushed::Overflowed);
        assert_eq!(queue.push(push(1)), Pushed::Refused);
        assert!(queue.is_slow());
        assert_eq!(queue.recv_many(&mut Vec::new(), 9).await, Err(Slow));
    }

    #[test]
    fn one_message_always_fits_and_replies_have_their_own_bound() {
        let queue = ClientQueue::new(100);
        assert_eq!(queue.push(push(5000)), Pushed::Queued);
        let refused = ToClient::Published { request: 1, result: Err(ErrorCode::INTERNAL) };
        assert_eq!(queue.push(refused), Pushed::Queued);
        assert_eq!(queue.push(push(1)), Pushed::Overflowed);
    }

    #[test]
    fn the_number_of_messages_is_bounded() {
        let queue = ClientQueue::new(usize::MAX);
        for _ in 0..MESSAGES {
            assert_eq!(queue.push(push(0)), Pushed::Queued);
        }
        assert_eq!(queue.push(push(0)), Pushed::Overflowed);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_for_a_message_and_for_the_end() {
        let queue = std::sync::Arc::new(ClientQueue::new(100));
        let reader = tokio::spawn({
            let queue = queue.clone();
            async move {
                let mut out = Vec::new();
                (queue.recv_many(&mut out, 9).await, queue.recv_many(&mut out, 9).await)
            }
        });
        tokio::task::yield_now().await;
        queue.push(push(1));
        while !queue.lock().messages.is_empty() {
            tokio::task::yield_now().await;
        }
        queue.close();
        let ends = tokio::time::timeout(Duration::from_secs(5), reader).await.unwrap().unwrap();
        assert_eq!(ends, (Ok(1), Ok(0)));
        assert_eq!(queue.push(push(1)), Pushed::Refused);
    }
}
