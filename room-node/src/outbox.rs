//! What waits to be sent on one connection: in order, bounded, gathered into batches, with heartbeats between.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use roomring_proto::limits;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::metrics::OUTBOX_BYTES;

/// Bytes that may wait for one connection. A router or peer that stops reading costs no more than this before its
/// connection is closed; it holds the replay of a few hundred busy rooms, sent at once after a failover.
const WAITING_BYTES: usize = 64 << 20;

/// Room for messages that an empty queue keeps: more was needed by a burst, and a burst may leave megabytes.
const MESSAGES_KEPT: usize = 1024;

/// How often the other side hears from us, whatever else is sent: a dozen beats within the silence that ends a connection.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);

/// The queue of one connection. Workers and the connection's reader push; the stream made by [`Outbox::stream`] takes.
#[derive(Debug)]
pub(crate) struct Outbox<M> {
    shared: Arc<Shared<M>>,
}

impl<M> Clone for Outbox<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<M> {
    queue: Mutex<Queue<M>>,
    wake: Notify,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Queue<M> {
    waiting: VecDeque<(M, usize)>,
    bytes: usize,
    /// Set once: nothing is taken any more; how the stream ends when what waits has gone out.
    end: Option<Option<Status>>,
}

impl<M> Drop for Queue<M> {
    fn drop(&mut self) {
        OUTBOX_BYTES.sub(self.bytes as u64);
    }
}

impl<M: prost::Message> Outbox<M> {
    pub(crate) fn new() -> Self {
        let queue = Queue { waiting: VecDeque::new(), bytes: 0, end: None };
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(queue),
                wake: Notify::new(),
                closed: CancellationToken::new(),
            }),
        }
    }

    /// Puts `messages` at the end, all or none. When too much waits already the connection is given up: what waits is
    /// dropped and the stream ends with an error. Pushing to a closed queue does nothing.
    pub(crate) fn push(&self, messages: impl IntoIterator<Item = M>) {
        let mut queue = self.lock();
        if queue.end.is_some() {
            return;
        }
        if queue.bytes > WAITING_BYTES {
            queue.waiting.clear();
            OUTBOX_BYTES.sub(std::mem::take(&mut queue.bytes) as u64);
            drop(queue);
            self.close(Some(Status::resource_exhausted(format!(
                "over {WAITING_BYTES} bytes wait: reading is too slow"
            ))));
            return;
        }
        let before = queue.bytes;
        for message in messages {
            let bytes = message.encoded_len();
            queue.bytes += bytes;
            queue.waiting.push_back((message, bytes));
        }
        OUTBOX_BYTES.add((queue.bytes - before) as u64);
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Takes nothing more; the stream ends with `status` (none: in good order) after what waits. The first call counts.
    pub(crate) fn close(&self, status: Option<Status>) {
        self.lock().end.get_or_insert(status);
        self.shared.closed.cancel();
        self.shared.wake.notify_one();
    }

    /// Waits until the queue is closed.
    pub(crate) async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// What goes out: batches made by `batch`, the very first message alone in its own (it is the hello), and from then
    /// on a `beat` every [`HEARTBEAT`]. Called once. Dropping the stream closes the queue: nobody sends any more.
    pub(crate) fn stream<B>(
        &self,
        batch: impl Fn(Vec<M>) -> B + Send + 'static,
        beat: impl Fn() -> M + Send + Sync + 'static,
    ) -> impl Stream<Item = Result<B, Status>> + Send + 'static
    where
        M: 'static,
    {
        let pump = Pump { outbox: self.clone(), beats: None, ended: false };
        futures_util::stream::unfold((pump, batch, beat), |(mut pump, batch, beat)| async move {
            let item = pump.next(&beat).await?;
            Some((item.map(&batch), (pump, batch, beat)))
        })
    }

    fn take(&self, most: usize) -> Option<Result<Vec<M>, Option<Status>>> {
        let mut queue = self.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < most && bytes < limits::BATCH_BYTES {
            let Some((message, size)) = queue.waiting.pop_front() else { break };
            queue.bytes -= size;
            bytes += size;
            batch.push(message);
        }
        OUTBOX_BYTES.sub(bytes as u64);
        if queue.waiting.is_empty() && queue.waiting.capacity() > MESSAGES_KEPT {
            queue.waiting = VecDeque::new();
        }
        if !batch.is_empty() { Some(Ok(batch)) } else { queue.end.clone().map(Err) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue<M>> {
        // The queue is whole between any two statements above, so a panic elsewhere leaves it usable.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending half.
struct Pump<M: prost::Message> {
    outbox: Outbox<M>,
    /// `None` until the hello has gone out.
    beats: Option<Interval>,
    ended: bool,
}

impl<M: prost::Message> Pump<M> {
    async fn next(&mut self, beat: &impl Fn() -> M) -> Option<Result<Vec<M>, Status>> {
        while !self.ended {
            let most = if self.beats.is_some() { usize::MAX } else { 1 };
            match self.outbox.take(most) {
                Some(Ok(batch)) => {
                    self.beats.get_or_insert_with(|| {
                        let mut beats = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
                        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        beats
                    });
                    return Some(Ok(batch));
                }
                Some(Err(status)) => {
                    self.ended = true;
                    return status.map(Err);
                }
                None => {}
            }
            tokio::select! {
                () = self.outbox.shared.wake.notified() => {}
                () = tick(&mut self.beats) => return Some(Ok(vec![beat()])),
            }
        }
        None
    }
}

impl<M: prost::Message> Drop for Pump<M> {
    fn drop(&mut self) {
        self.outbox.close(None);
    }
}

async fn tick(beats: &mut Option<Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;
    use roomring_proto::v1;

    use super::*;

    fn message(bytes: usize) -> v1::NodeMessage {
        v1::NodeMessage { kind: Some(v1::node_message::Kind::Placement(vec![0; bytes].into())) }
    }

    fn beat() -> v1::NodeMessage {
        v1::NodeMessage { kind: None }
    }

    #[tokio::test]
    async fn the_hello_goes_alone_then_batches_then_beats() {
        let outbox = Outbox::new();
        let mut stream = pin!(outbox.stream(|b| b.len(), beat));
        // No beat may come before the hello.
        assert!(tokio::time::timeout(HEARTBEAT * 2, stream.next()).await.is_err());
        outbox.push([message(1), message(2), message(3)]);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        assert_eq!(stream.next().await.unwrap().unwrap(), 2);
        let start = Instant::now();
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        assert!(start.elapsed() > HEARTBEAT / 2, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn batches_end_at_their_size() {
        let outbox = Outbox::new();
        let mut stream = pin!(outbox.stream(|b| b.len(), beat));
        outbox.push([message(1)]);
        outbox.push((0..10).map(|_| message(limits::BATCH_BYTES / 2)));
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < 11 {
            sizes.push(stream.next().await.unwrap().unwrap());
        }
        assert_eq!(sizes, [1, 2, 2, 2, 2, 2]);
    }

    #[tokio::test]
    async fn one_that_does_not_read_is_given_up() {
        let outbox = Outbox::new();
        let mut stream = pin!(outbox.stream(|b| b.len(), beat));
        let mut pushed = 0;
        while outbox.lock().end.is_none() {
            outbox.push([message(1 << 20)]);
            pushed += 1;
            assert!(pushed < 100, "never full");
        }
        outbox.closed().await;
        assert_eq!(outbox.lock().waiting.len(), 0);
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::ResourceExhausted);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn closing_sends_what_waits_first() {
        let outbox = Outbox::new();
        let mut stream = pin!(outbox.stream(|b| b.len(), beat));
        outbox.push([message(1)]);
        outbox.close(Some(Status::unavailable("stopping")));
        outbox.push([message(1)]);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        assert_eq!(stream.next().await.unwrap().unwrap_err().message(), "stopping");
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_dropped_stream_closes_the_queue() {
        let outbox = Outbox::<v1::NodeMessage>::new();
        drop(outbox.stream(|b| b.len(), beat));
        outbox.closed().await;
    }
}
