//! What waits to be sent on one link. Workers put in, the link's stream takes out in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use roomring_proto::{limits, v1};
use tokio::sync::Notify;
use v1::router_message::Kind;

use crate::metrics::OUTBOX_BYTES;

/// Most bytes that wait for one node. Attachments of a busy router's slots fit several times; a node that lets more wait
/// than this does not read, and the link is given up.
const BYTES: usize = 64 << 20;

/// What a message counts beside its bytes.
const OVERHEAD: usize = 64;

/// More waits for the node than it is allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node does not read")]
pub(super) struct Overflow;

/// The queue of one link.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<(Kind, usize)>,
    bytes: usize,
    closed: bool,
    finished: bool,
}

impl Drop for State {
    fn drop(&mut self) {
        OUTBOX_BYTES.sub(self.bytes as u64);
    }
}

impl Outbox {
    /// Queues messages, in order; never waits. On overflow, and once closed, nothing is taken, and the stream ends.
    pub(super) fn push(&self, messages: impl IntoIterator<Item = Kind>) -> Result<(), Overflow> {
        let mut state = self.lock();
        for message in messages {
            if state.closed || state.finished {
                return Err(Overflow);
            }
            let cost = OVERHEAD + message.encoded_len();
            // One message always fits: an attach may be large.
            if state.bytes > 0 && state.bytes + cost > BYTES {
                drop(state);
                self.close();
                return Err(Overflow);
            }
            state.bytes += cost;
            OUTBOX_BYTES.add(cost as u64);
            state.messages.push_back((message, cost));
        }
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes nothing more, and ends the stream after what waits.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.wake.notify_one();
    }

    /// Drops what waits and ends the stream.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        *state = State { messages: VecDeque::new(), bytes: 0, closed: true, finished: false };
        drop(state);
        self.wake.notify_one();
    }

    /// The batches, as the link sends them. Ends when the outbox is closed. One reader.
    pub(super) fn batches(self: Arc<Self>) -> impl Stream<Item = v1::RouterBatch> + Send + 'static {
        futures_util::stream::unfold(self, |outbox| async move {
            loop {
                match outbox.take() {
                    Taken::Batch(batch) => return Some((batch, outbox)),
                    Taken::Nothing => outbox.wake.notified().await,
                    Taken::Closed => return None,
                }
            }
        })
    }

    fn take(&self) -> Taken {
        let mut state = self.lock();
        if state.closed {
            return Taken::Closed;
        }
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes < limits::BATCH_BYTES
            && let Some((message, cost)) = state.messages.pop_front()
        {
            bytes += cost;
            messages.push(v1::RouterMessage { kind: Some(message) });
        }
        state.bytes -= bytes;
        OUTBOX_BYTES.sub(bytes as u64);
        match messages.is_empty() {
            false => Taken::Batch(v1::RouterBatch { messages }),
            true if state.finished => Taken::Closed,
            true => Taken::Nothing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No operation on it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    Batch(v1::RouterBatch),
    Nothing,
    Closed,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt;

    use super::*;

    fn message(bytes: usize) -> Kind {
        Kind::Placement(Bytes::from(vec![0; bytes]))
    }

    #[tokio::test]
    async fn gathers_up_to_a_batch_in_order() {
        let outbox = Arc::new(Outbox::default());
        let sizes = [1, 2, limits::BATCH_BYTES, 3];
        outbox.push(sizes.map(message)).unwrap();
        let mut batches = Box::pin(outbox.clone().batches());
        assert_eq!(batches.next().await.unwrap().messages.len(), 3);
        assert_eq!(batches.next().await.unwrap().messages.len(), 1);
        assert_eq!(outbox.lock().bytes, 0);
        outbox.close();
        assert_eq!(batches.next().await, None);
        assert_eq!(outbox.push([message(1)]), Err(Overflow));
    }

    #[tokio::test]
    async fn what_waits_goes_out_before_the_end() {
        let outbox = Arc::new(Outbox::default());
        outbox.push([message(1)]).unwrap();
        outbox.finish();
        assert_eq!(outbox.push([message(1)]), Err(Overflow));
        let mut batches = Box::pin(outbox.batches());
        assert_eq!(batches.next().await.unwrap().messages.len(), 1);
        assert_eq!(batches.next().await, None);
    }

    #[test]
    fn a_node_that_does_not_read_costs_a_bounded_amount() {
        let outbox = Outbox::default();
        outbox.push([message(BYTES - 1000)]).unwrap();
        assert_eq!(outbox.push([message(2000)]), Err(Overflow));
        assert!(outbox.lock().closed);
        assert_eq!(outbox.lock().bytes, 0);
    }
}
