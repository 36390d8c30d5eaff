//! A client's one outbound queue: the hub puts in what the client is to be told, and it goes to the client's socket in order.
//!
//! Pushes are ready frames. Whoever holds the queue writes them, many in one write: the hub's worker after each of its
//! turns, or the client's task, which also turns the events in between into frames. Nobody waits for a socket: one that
//! takes no more is left to the client's task. Putting never waits either: a client that does not read in time is marked
//! slow instead, and everybody else goes on.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use roomring_proto::client::{Answer, Format, Reply};
use roomring_proto::close::ErrorCode;
use tokio::sync::Notify;

use super::api::{Published, ToClient};
use super::wire::{Wire, Written};
use crate::frame::Frame;

/// Most messages that wait for one client: small pushes cost more memory than their bytes.
const MESSAGES: usize = 16_384;

/// What a queued message counts beside its bytes: its place in the queue and its share of the frame header.
const OVERHEAD: usize = 64;

/// Room for messages that an emptied queue keeps; a burst's memory is given back.
const KEEP: usize = 64;

/// The same for a client to whom nobody has spoken for a while.
const KEEP_IDLE: usize = 4;

/// The client did not read fast enough: it is to be closed with [`roomring_proto::close::CloseCode::SLOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client does not read as fast as its rooms talk")]
pub struct Slow;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits in the queue.
    Queued,
    /// It waits in the queue until the caller calls [`ClientQueue::flush`], which it owes before it waits for anything.
    Owed,
    /// It did not fit: from now on the client is slow. Said once.
    Overflowed,
    /// Nothing is taken any more: the client is slow, or gone.
    Refused,
}

/// How far [`ClientQueue::pump`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Everything is out.
    All,
    /// The socket takes no more now.
    Full,
    /// The socket is gone.
    Broken,
    /// The caller wants no more of what waits.
    Enough,
}

/// The queue. Many put in; one task takes out.
#[derive(Debug)]
pub struct ClientQueue {
    state: Mutex<State>,
    wake: Notify,
    max_bytes: usize,
    /// Pushes are left to the client's task too.
    held: AtomicBool,
    /// How answers to publishes are made ready here; `None`: the client's task makes them.
    answers: Option<Format>,
    /// Requests of the client whose answer says that they were published, or why not, and nothing else.
    publishing: Mutex<Vec<u32>>,
}

#[derive(Debug)]
enum Item {
    Frame(Frame),
    // Boxed: most items are frames, which are far smaller.
    Event(Box<ToClient>),
}

impl Item {
    fn frame(&self) -> Option<&Frame> {
        match self {
            Self::Frame(frame) => Some(frame),
            Self::Event(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// How many of them are events.
    events: usize,
    pushes: usize,
    replies: usize,
    /// `None` before the client's task gave it, and after it took it back.
    wire: Option<Wire>,
    /// Somebody was told [`Pushed::Owed`] and has not flushed yet.
    owed: bool,
    /// The client's task was told to pump and has not yet.
    woken: bool,
    /// The socket took no more: the client's task waits for it.
    full: bool,
    slow: bool,
    closed: bool,
}

impl ClientQueue {
    /// A queue for at most `max_bytes` of pushes, and as much of replies. One message always fits into an empty queue, so
    /// that a recovery larger than the bound can be delivered at all.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            max_bytes,
            held: AtomicBool::new(false),
            answers: None,
            publishing: Mutex::default(),
        }
    }

    /// A queue that makes answers to publishes ready by itself, so that nobody wakes the client's task for them.
    #[must_use]
    pub fn answering(self, format: Format) -> Self {
        Self { answers: Some(format), ..self }
    }

    /// Notes that `request` publishes: see [`Self::answer`].
    pub fn publishing(&self, request: u32) {
        self.publishes().push(request);
    }

    /// How many publishes are not answered yet, and whether `request` is one of them.
    pub(crate) fn unanswered(&self, request: u32) -> (usize, bool) {
        let publishing = self.publishes();
        (publishing.len(), publishing.contains(&request))
    }

    /// Forgets a publish, which is answered; false if it was not noted.
    pub(crate) fn published(&self, request: u32) -> bool {
        let mut publishing = self.publishes();
        let place = publishing.iter().position(|p| *p == request);
        place.map(|place| publishing.swap_remove(place)).is_some()
    }

    /// Answers `request`: a publish that was noted at once, where the queue was told how; any other through the client's task.
    pub fn answer(&self, request: u32, result: Result<Published, ErrorCode>) -> Pushed {
        match self.answers {
            Some(format) if self.published(request) => {
                let reply = Reply { id: request, result: result.map(|_| Answer::Publish) };
                self.push(ToClient::Push(Frame::reply(format, &reply)))
            }
            _ => self.push(ToClient::Published { request, result }),
        }
    }

    /// From now on, and until [`Self::release`], pushes are handed to the client's task as events are: something has to go
    /// out before them.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// Pushes that come from now on may go straight to the socket.
    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::Relaxed);
    }

    /// Queues `message`. Never waits.
    pub fn push(&self, message: ToClient) -> Pushed {
        let cost = cost(&message);
        let mut state = self.lock();
        if state.slow || state.closed {
            return Pushed::Refused;
        }
        // Replies have a bound of their own: a large recovery must not make the next push overflow.
        let event = !matches!(message, ToClient::Push(_)) || self.held.load(Ordering::Relaxed);
        let fits = |state: &State| {
            let backlog = if event { state.replies } else { state.pushes };
            state.items.len() < MESSAGES && (backlog == 0 || backlog + cost <= self.max_bytes)
        };
        if !fits(&state) && state.events == 0 && !state.full {
            // Much came at once and nobody had a turn to write it: the client is not slow before its socket takes no more.
            match state.write() {
                None | Some(Written::All) => {}
                Some(Written::Full) => (state.full, state.woken) = (true, true),
                Some(Written::Broken) => state.woken = true,
            }
            if state.woken {
                self.wake.notify_one();
            }
        }
        if !fits(&state) {
            state.slow = true;
            state.clear();
            drop(state);
            self.wake.notify_one();
            return Pushed::Overflowed;
        }
        *(if event { &mut state.replies } else { &mut state.pushes }) += cost;
        state.items.push_back(match message {
            ToClient::Push(frame) if !event => Item::Frame(frame),
            message => Item::Event(Box::new(message)),
        });
        state.events += usize::from(event);
        // Whoever is to come anyway takes it along.
        if state.owed || state.woken || state.full {
            return Pushed::Queued;
        }
        if !event && state.wire.is_some() {
            state.owed = true;
            return Pushed::Owed;
        }
        state.woken = true;
        drop(state);
        self.wake.notify_one();
        Pushed::Queued
    }

    /// Writes what waits, as far as the socket takes it; leaves the rest, and events, to the client's task.
    pub fn flush(&self) {
        let mut state = self.lock();
        state.owed = false;
        if state.woken || state.full || state.items.is_empty() {
            return;
        }
        if state.events == 0 {
            match state.write() {
                None | Some(Written::All) => return,
                Some(Written::Full) => state.full = true,
                Some(Written::Broken) => {}
            }
        }
        state.woken = true;
        drop(state);
        self.wake.notify_one();
    }

    /// For the client's task, when it was woken or has something to say: writes the frames of `own`, then what waits, in
    /// order. Events are handed to `f`, which adds the frames that take their place, or ends it all.
    pub(crate) fn pump(
        &self,
        own: impl IntoIterator<Item = Frame>,
        mut f: impl FnMut(ToClient, &mut Vec<Frame>) -> ControlFlow<()>,
    ) -> Result<Pumped, Slow> {
        let mut state = self.lock();
        state.woken = false;
        if state.slow {
            return Err(Slow);
        }
        let state = &mut *state;
        let Some(wire) = &mut state.wire else { return Ok(Pumped::Broken) };
        own.into_iter().for_each(|frame| wire.push(frame));
        if state.full {
            // Not a word more is made ready until what is there has gone out.
            match state.write() {
                Some(Written::All) => state.full = false,
                Some(Written::Full) => return Ok(Pumped::Full),
                Some(Written::Broken) | None => return Ok(Pumped::Broken),
            }
        }
        let mut frames = Vec::new();
        while state.events > 0
            && let Some(item) = state.items.pop_front()
        {
            state.uncount(&item);
            let flow = match item {
                Item::Frame(frame) => {
                    frames.push(frame);
                    ControlFlow::Continue(())
                }
                Item::Event(event) => {
                    state.events -= 1;
                    f(*event, &mut frames)
                }
            };
            if let Some(wire) = &mut state.wire {
                frames.drain(..).for_each(|frame| wire.push(frame));
            }
            if flow.is_break() {
                state.closed = true;
                state.clear();
                return Ok(Pumped::Enough);
            }
        }
        Ok(match state.write() {
            Some(Written::All) => {
                // Not where deliveries come by: they find the room that the last ones had.
                state.items.shrink_to(0);
                Pumped::All
            }
            Some(Written::Full) => {
                state.full = true;
                Pumped::Full
            }
            Some(Written::Broken) | None => Pumped::Broken,
        })
    }

    /// Gives the queue its socket.
    pub(crate) fn attach(&self, wire: Wire) {
        self.lock().wire = Some(wire);
    }

    /// Takes the socket back; nothing more is taken, and what waits is dropped.
    pub(crate) fn detach(&self) -> Option<Wire> {
        self.close();
        self.lock().wire.take()
    }

    /// Waits until there is something to [`Self::pump`]. Safe to cancel.
    pub(crate) async fn woken(&self) {
        while !self.is_woken() {
            self.wake.notified().await;
        }
    }

    fn is_woken(&self) -> bool {
        let state = self.lock();
        state.woken || state.slow
    }

    /// Gives back memory that a busier time has left.
    pub(crate) fn shrink(&self) {
        let mut state = self.lock();
        if state.items.is_empty() {
            state.items.shrink_to(KEEP_IDLE);
        }
        drop(state);
        self.publishes().shrink_to(KEEP_IDLE);
    }

    /// Without a socket: waits for messages and appends at most `limit` of them to `out`, in order; none only if the queue
    /// was closed. Safe to cancel: what was not returned stays. One caller at a time.
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
        state.woken = false;
        if state.slow {
            return Some(Err(Slow));
        }
        let count = state.items.len().min(limit);
        if count == 0 {
            return state.closed.then_some(Ok(0));
        }
        for _ in 0..count {
            let Some(item) = state.items.pop_front() else { break };
            state.uncount(&item);
            out.push(match item {
                Item::Frame(frame) => ToClient::Push(frame),
                Item::Event(event) => {
                    state.events -= 1;
                    *event
                }
            });
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

    /// The queue overflowed.
    pub fn is_slow(&self) -> bool {
        self.lock().slow
    }

    fn publishes(&self) -> MutexGuard<'_, Vec<u32>> {
        // As below.
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the queue itself whole: no operation on it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes the frames at the front; `None` without a socket.
    fn write(&mut self) -> Option<Written> {
        let Self { items, wire, pushes, .. } = self;
        let written = wire.as_mut()?.write(items, Item::frame, |frame| *pushes = pushes.saturating_sub(cost_of(frame)));
        if items.is_empty() {
            items.shrink_to(KEEP);
        }
        Some(written)
    }

    fn uncount(&mut self, item: &Item) {
        match item {
            Item::Frame(frame) => self.pushes = self.pushes.saturating_sub(cost_of(frame)),
            Item::Event(event) => self.replies = self.replies.saturating_sub(cost(event)),
        }
    }

    fn clear(&mut self) {
        self.items = VecDeque::new();
        self.events = 0;
        self.pushes = 0;
        self.replies = 0;
    }
}

fn cost_of(frame: &Frame) -> usize {
    OVERHEAD + frame.len()
}

fn cost(message: &ToClient) -> usize {
    let publications = |list: &[roomring_proto::v1::Publication]| -> usize {
        list.iter().map(|p| OVERHEAD + p.data.len() + p.info.len()).sum()
    };
    OVERHEAD
        + match message {
            ToClient::Push(frame) => return cost_of(frame),
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
            | ToClient::Order(_)
            | ToClient::Published { .. }
            | ToClient::Retracted { .. } => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roomring_proto::close::ErrorCode;

    use super::*;

    fn push(bytes: usize) -> ToClient {
        ToClient::Push(Frame::text(&vec![b'x'; bytes]))
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
            out.iter().map(|m| if let ToClient::Push(f) = m { f.payload().len() } else { unreachable!() }).collect();
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
        while !queue.lock().items.is_empty() {
            tokio::task::yield_now().await;
        }
        queue.close();
        let ends = tokio::time::timeout(Duration::from_secs(5), reader).await.unwrap().unwrap();
        assert_eq!(ends, (Ok(1), Ok(0)));
        assert_eq!(queue.push(push(1)), Pushed::Refused);
    }

    async fn attached(max_bytes: usize) -> (ClientQueue, tokio::net::TcpStream, tokio::net::tcp::OwnedReadHalf) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (reader, writer) = server.into_split();
        let queue = ClientQueue::new(max_bytes);
        queue.attach(Wire::new(writer));
        (queue, client, reader)
    }

    #[tokio::test]
    async fn what_comes_at_once_is_written_before_anybody_is_called_slow() {
        use tokio::io::AsyncReadExt;
        const MOST: usize = 4_096;
        let (queue, mut client, _reader) = attached(MOST).await;
        // Ten times what may wait, in one turn.
        let frames = 10 * MOST / 512;
        for n in 0..frames {
            let pushed = queue.push(push(512));
            assert!(matches!((n, pushed), (0, Pushed::Owed) | (1.., Pushed::Queued)), "{n}: {pushed:?}");
        }
        queue.flush();
        let mut told = vec![0; frames * (512 + 4)];
        client.read_exact(&mut told).await.unwrap();
        assert!(!queue.is_woken(), "nothing is left for the task");
        // It is slow when its socket takes no more.
        let mut taken = 0;
        while queue.push(push(512)) != Pushed::Overflowed {
            taken += 516;
            assert!(taken < 1 << 28, "never full");
        }
        assert!(taken > MOST);
        let nothing = |_, _: &mut Vec<Frame>| ControlFlow::Continue(());
        assert_eq!(queue.pump([], nothing), Err(Slow));
    }

    #[tokio::test]
    async fn pushes_are_written_by_whoever_owes_it_and_many_at_once() {
        use tokio::io::AsyncReadExt;
        let (queue, mut client, _reader) = attached(1 << 20).await;
        assert_eq!(queue.push(push(3)), Pushed::Owed);
        assert_eq!(queue.push(push(4)), Pushed::Queued, "it is owed already");
        queue.flush();
        let mut told = [0; 11];
        client.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"\x81\x03xxx\x81\x04xxxx");
        assert!(!queue.is_woken(), "nothing is left for the task");
        assert_eq!(queue.push(push(1)), Pushed::Owed, "the debt is paid");
        // An answer makes it the task's.
        queue.push(ToClient::Published { request: 1, result: Err(ErrorCode::INTERNAL) });
        queue.push(push(2));
        queue.flush();
        queue.woken().await;
        let pumped = queue.pump([Frame::text(b"own")], |_, frames| {
            frames.push(Frame::text(b"answer"));
            ControlFlow::Continue(())
        });
        assert_eq!(pumped, Ok(Pumped::All));
        let mut told = [0; 20];
        client.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"\x81\x03own\x81\x01x\x81\x06answer\x81\x02xx");
    }

    /// The order and the borders of frames, through a socket that is full most of the time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn frames_stay_whole_and_in_order_through_a_full_socket() {
        use tokio::io::AsyncReadExt;
        const ROUNDS: u32 = 400;
        let (queue, mut client, reader) = attached(64 << 20).await;
        let queue = std::sync::Arc::new(queue);
        let task = tokio::spawn({
            let queue = queue.clone();
            async move {
                let (mut full, mut answered) = (0, 0);
                while answered < ROUNDS {
                    let pumped = queue.pump([], |event, frames| {
                        let ToClient::Published { request, .. } = event else { unreachable!("only answers are sent") };
                        frames.push(Frame::text(format!("a{request}").as_bytes()));
                        answered += 1;
                        ControlFlow::Continue(())
                    });
                    match pumped.unwrap() {
                        Pumped::All => queue.woken().await,
                        Pumped::Full => {
                            full += 1;
                            reader.as_ref().writable().await.unwrap();
                        }
                        other => panic!("{other:?}"),
                    }
                }
                while queue.pump([], |_, _| ControlFlow::Continue(())) == Ok(Pumped::Full) {
                    reader.as_ref().writable().await.unwrap();
                }
                full
            }
        });
        let hub = tokio::spawn({
            let queue = queue.clone();
            async move {
                for round in 0..ROUNDS {
                    for n in 0..3 {
                        let text = format!("p{round}.{n}{}", "y".repeat(20_000));
                        queue.push(ToClient::Push(Frame::text(text.as_bytes())));
                    }
                    queue.push(ToClient::Published { request: round, result: Err(ErrorCode::INTERNAL) });
                    queue.flush();
                    if round % 50 == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        });
        for round in 0..ROUNDS {
            for n in 0..4 {
                let mut header = [0; 2];
                client.read_exact(&mut header).await.unwrap();
                let length = match header[1] {
                    126 => usize::from(client.read_u16().await.unwrap()),
                    short => usize::from(short),
                };
                let mut payload = vec![0; length];
                client.read_exact(&mut payload).await.unwrap();
                let text = String::from_utf8(payload).unwrap();
                let expected = if n < 3 { format!("p{round}.{n}") } else { format!("a{round}") };
                assert_eq!((header[0], text.trim_end_matches('y')), (0x81, expected.as_str()));
            }
        }
        hub.await.unwrap();
        assert!(task.await.unwrap() > 0, "the socket was never full");
    }
}
