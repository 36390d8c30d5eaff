//! Pumps a WebSocket through a session.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use roomring_proto::RoomId;
use roomring_proto::close::{CloseCode, ErrorCode};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_util::sync::CancellationToken;

use super::control::ControlFrames;
use super::frames::{Frames, Incoming};
use super::questions::Questions;
use super::{Input, Machine, Output};
use crate::auth::{Lookup, Verdict};
use crate::backend::{Backend, Sent};
use crate::frame::Frame;
use crate::hub::api::{Command, ToClient};
use crate::hub::queue::{Pumped, Slow};
use crate::hub::wire::{Wire, Written};
use crate::metrics::{self, Ended};

/// Most bytes read at once. One buffer a thread: no connection has one of its own.
const READ_BYTES: usize = 16 << 10;

/// A client whose socket takes nothing for so long is slow, whatever its queue holds.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Time for a close frame to go out.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Time that a closed socket stays. Closing a socket with unread input resets it, and a reset may overtake the close frame.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read of it meanwhile. Whoever goes on sending then waits in vain, at no cost.
const LINGER_BYTES: usize = 64 << 10;

/// Close codes of the WebSocket protocol itself.
const PROTOCOL_ERROR: Ending = Ending::Close { code: 1002, reason: Cow::Borrowed("protocol error") };
const NOT_UTF8: Ending = Ending::Close { code: 1007, reason: Cow::Borrowed("text is not UTF-8") };
const TOO_BIG: u16 = 1009;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Runs a session on a connection whose handshake is done until the client or the server ends it, takes it out of the hub,
/// and closes the socket. `read` is what was read beyond the handshake; `max_message` bounds the client's messages, in bytes.
/// When `stop` is cancelled the client is told to come back elsewhere.
pub fn run<M, B>(
    stream: TcpStream,
    read: Bytes,
    max_message: usize,
    machine: Box<M>,
    backend: Arc<B>,
    stop: CancellationToken,
) -> impl Future<Output = ()>
where
    M: Machine,
    B: Backend,
{
    let (reader, writer) = stream.into_split();
    let mut pump = Pump {
        reader,
        wire: Some(Wire::new(writer)),
        frames: Frames::new(max_message),
        control: ControlFrames::default(),
        machine,
        backend,
        outputs: Vec::new(),
        answers: Vec::new(),
        questions: Questions::default(),
        full: None,
    };
    // Not the function itself, as its arguments would be kept; and boxed, here and below, is what comes once: a connection's
    // future holds room for its largest part all its life.
    async move {
        let ending = pump.run(read, &stop).await;
        Box::pin(pump.end(ending)).await;
    }
}

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// The socket is gone.
    Gone,
    /// The client closed; the answer is among the pump's.
    ByClient,
    /// The server closes.
    Close { code: u16, reason: Cow<'static, str> },
}

impl From<CloseCode> for Ending {
    fn from(close: CloseCode) -> Self {
        Self::Close { code: close.code, reason: Cow::Borrowed(close.reason) }
    }
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
                Self::Close { code: TOO_BIG, reason: Cow::Owned(format!("message over {max_size} bytes")) }
            }
            Error::Utf8(_) => NOT_UTF8,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            Error::Protocol(_) | Error::Capacity(_) => PROTOCOL_ERROR,
            _ => Self::Gone,
        }
    }
}

struct Pump<M, B> {
    reader: OwnedReadHalf,
    /// The sending half, until the client is known: then its queue has it.
    wire: Option<Wire>,
    frames: Frames,
    control: ControlFrames,
    // Boxed: it is handed on twice, and a future holds room for what it was given and for what it made of it.
    machine: Box<M>,
    backend: Arc<B>,
    outputs: Vec<Output>,
    /// What the WebSocket protocol wants answered, as whole frames.
    answers: Vec<u8>,
    /// What the business server is asked.
    questions: Questions,
    /// Since when the socket has taken nothing.
    full: Option<Instant>,
}

enum Event {
    /// The socket was read, and what it said taken in. `more`: it had at least as much as is read at once.
    Read {
        taken: Result<(), Ending>,
        more: bool,
    },
    Queue,
    Answer(RoomId, Verdict),
    Writable,
    Tick,
    Stop,
}

/// What of an output is to be waited for.
enum Begun {
    /// Nothing.
    Done(Result<(), Ending>),
    /// Room at the hub.
    Hub(Pin<Box<dyn Future<Output = Result<(), Command>> + Send>>),
    Lookup(Lookup),
}

impl<M, B> Pump<M, B>
where
    M: Machine,
    B: Backend,
{
    async fn run(&mut self, read: Bytes, stop: &CancellationToken) -> Ending {
        let mut stopped = pin!(stop.cancelled());
        let mut timer = pin!(sleep_until(Instant::now()));
        self.machine.start(now(), &mut self.outputs);
        let mut taken = if read.is_empty() { Ok(()) } else { self.take(&mut read.to_vec()) };
        drop(read);
        // What waits in the client's queue is to be written too.
        let mut woken = true;
        loop {
            if let Err(ending) = taken {
                return Box::pin(self.settle(ending)).await;
            }
            if let Err(ending) = self.perform(woken).await {
                return ending;
            }
            let event = self.next(stopped.as_mut(), timer.as_mut()).await;
            woken = !matches!(event, Event::Read { .. });
            taken = match event {
                Event::Read { taken, more } => {
                    if more {
                        // Whoever sends without a pause is read in turn with others, and with all that this thread does beside.
                        yield_now().await;
                    }
                    taken
                }
                Event::Queue => Ok(()),
                Event::Answer(room, verdict) => {
                    self.machine.handle(now(), Input::Verdict(room, verdict), &mut self.outputs);
                    Ok(())
                }
                Event::Writable => {
                    self.full = Some(Instant::now());
                    Ok(())
                }
                Event::Tick if self.full.is_some_and(|since| since.elapsed() >= WRITE_DEADLINE) => {
                    return CloseCode::SLOW.into();
                }
                Event::Tick => {
                    self.machine.handle(now(), Input::Tick, &mut self.outputs);
                    if let Some(client) = self.machine.client() {
                        client.queue.shrink();
                    }
                    Ok(())
                }
                // What waits for the client still goes out.
                Event::Stop => Err(CloseCode::SHUTDOWN.into()),
            };
        }
    }

    /// Does what was wanted before the end: a publish right before a close still counts.
    async fn settle(&mut self, ending: Ending) -> Ending {
        if matches!(ending, Ending::Close { .. }) {
            return self.perform(true).await.err().unwrap_or(ending);
        }
        // Nobody is there to be told.
        for output in std::mem::take(&mut self.outputs) {
            if let Output::Hub(command) = output
                && self.backend.send(command).known().await.is_err()
            {
                break;
            }
        }
        ending
    }

    async fn next(&mut self, stopped: Pin<&mut impl Future>, mut timer: Pin<&mut Sleep>) -> Event {
        // A socket that takes nothing is told nothing and not read: only its own deadline counts.
        let stuck = self.full.map(|since| since + WRITE_DEADLINE);
        let deadline = stuck.or(self.machine.next_deadline().map(Instant::from_std));
        if let Some(deadline) = deadline
            && timer.deadline() != deadline
        {
            timer.as_mut().reset(deadline);
        }
        let mut questions = std::mem::take(&mut self.questions);
        let client = self.machine.client().cloned();
        let woken = async {
            match &client {
                Some(client) => client.queue.woken().await,
                None => pending().await,
            }
        };
        let socket = poll_fn(|cx| {
            if stuck.is_none() {
                return self.poll_read(cx);
            }
            // Both halves are one socket.
            self.reader.as_ref().poll_write_ready(cx).map(|_| Event::Writable)
        });
        let event = tokio::select! {
            event = socket => event,
            () = woken => Event::Queue,
            (room, verdict) = questions.answer() => Event::Answer(room, verdict),
            () = timer, if deadline.is_some() => Event::Tick,
            _ = stopped => Event::Stop,
        };
        self.questions = questions;
        event
    }

    /// Reads the socket and takes in what it said.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        READ.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            let read = ready!(Pin::new(&mut self.reader).poll_read(cx, &mut buffer));
            let more = buffer.remaining() == 0;
            let taken = match read {
                Ok(()) if !buffer.filled().is_empty() => self.take(buffer.filled_mut()),
                Ok(()) | Err(_) => Err(Ending::Gone),
            };
            Poll::Ready(Event::Read { taken, more })
        })
    }

    /// Feeds what was read to the machine.
    fn take(&mut self, read: &mut [u8]) -> Result<(), Ending> {
        let Self { frames, control, machine, outputs, answers, .. } = self;
        let now = now();
        frames.take(read, answers, |message| {
            let input = match message {
                Incoming::Data { data, text } => Input::Message { data, text },
                Incoming::Ping | Incoming::Pong if !control.take(now) => {
                    return Err(CloseCode::TOO_MANY_REQUESTS.into());
                }
                Incoming::Ping => return Ok(()),
                Incoming::Pong => Input::Pong,
                Incoming::Close => return Err(Ending::ByClient),
            };
            machine.handle(now, input, outputs);
            Ok(())
        })
    }

    /// Does what the machine wants, and writes it and, if so or if `woken`, what waits in the client's queue.
    async fn perform(&mut self, woken: bool) -> Result<(), Ending> {
        // Who has waited for the hub in vain does not wait for it again with every command of a long frame.
        let mut overloaded = false;
        loop {
            let mut own = Vec::new();
            if !self.answers.is_empty() {
                own.push(Frame::encoded(std::mem::take(&mut self.answers)));
            }
            let mut end = Ok(());
            let mut outputs = std::mem::take(&mut self.outputs);
            for output in outputs.drain(..) {
                end = match self.begin(output, &mut own, &mut overloaded) {
                    Begun::Done(end) => end,
                    Begun::Hub(taken) => match taken.await {
                        Ok(()) => Ok(()),
                        Err(command) => {
                            overloaded = true;
                            self.refuse(command)
                        }
                    },
                    Begun::Lookup(lookup) => {
                        let found = lookup.0.await;
                        self.machine.handle(now(), Input::Found(found), &mut self.outputs);
                        Ok(())
                    }
                };
                if end.is_err() {
                    break;
                }
            }
            // Commands that the hub refused were answered meanwhile.
            outputs.append(&mut self.outputs);
            self.outputs = outputs;
            // As a rule a publish has nothing to write: its answer is the hub's.
            if woken || !own.is_empty() || self.wire.is_some() {
                self.write(own)?;
            }
            end?;
            if self.outputs.is_empty() {
                // A connection is idle most of its life.
                self.outputs = Vec::new();
                return Ok(());
            }
        }
    }

    /// Does what can be done at once. What is to be written goes to `own`; `overloaded`: the hub has no time for commands.
    fn begin(&mut self, output: Output, own: &mut Vec<Frame>, overloaded: &mut bool) -> Begun {
        match output {
            Output::Write(message) => own.push(frame(&*self.machine, &message)),
            Output::Ping => own.push(Frame::PING),
            Output::Hub(command) if *overloaded => return Begun::Done(self.refuse(command)),
            Output::Hub(command) => match self.backend.send(command) {
                Sent::Taken => {}
                Sent::Refused(command) => {
                    *overloaded = true;
                    return Begun::Done(self.refuse(command));
                }
                Sent::Waiting(taken) => return Begun::Hub(taken),
            },
            Output::Lookup(lookup) => return Begun::Lookup(lookup),
            Output::Ask(question) => self.questions.ask(question),
            Output::Close(code) => return Begun::Done(Err(code.into())),
        }
        Begun::Done(Ok(()))
    }

    /// Tells the machine that the hub did not take a command.
    fn refuse(&mut self, command: Command) -> Result<(), Ending> {
        // The client would go on being a member of a room that it has left.
        let answer = refusal(command).ok_or(CloseCode::INTERNAL_SERVER_ERROR)?;
        self.machine.handle(now(), Input::Hub(answer), &mut self.outputs);
        Ok(())
    }

    /// Writes `own` and what waits in the client's queue, as far as the socket takes it. What the machine makes of events in
    /// the queue is written in their place; what else it wants is left in the outputs.
    fn write(&mut self, own: Vec<Frame>) -> Result<(), Ending> {
        let Self { wire, machine, outputs, full, .. } = self;
        let Some(client) = machine.client().cloned() else {
            let Some(wire) = wire else { return Err(Ending::Gone) };
            own.into_iter().for_each(|frame| wire.push(frame));
            // What a socket does not take now goes out with the close: before it is known a client is told errors only.
            return match wire.write(&mut VecDeque::<()>::new(), |()| None, |_| {}) {
                Written::All | Written::Full => Ok(()),
                Written::Broken => Err(Ending::Gone),
            };
        };
        if let Some(wire) = wire.take() {
            client.queue.attach(wire);
        }
        let now = now();
        let mut close = None;
        let pumped = client.queue.pump(own, |event, frames| {
            let before = outputs.len();
            machine.handle(now, Input::Hub(event), outputs);
            for output in outputs.split_off(before) {
                match output {
                    Output::Write(message) => frames.push(frame(&**machine, &message)),
                    Output::Ping => frames.push(Frame::PING),
                    Output::Hub(_) | Output::Lookup(_) | Output::Ask(_) => outputs.push(output),
                    Output::Close(code) => {
                        close = Some(code);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        });
        match pumped {
            Ok(Pumped::All) => *full = None,
            Ok(Pumped::Full) => {
                full.get_or_insert_with(Instant::now);
            }
            Ok(Pumped::Broken) => return Err(Ending::Gone),
            Ok(Pumped::Enough) => return Err(close.map_or(Ending::Gone, Ending::from)),
            Err(Slow) => return Err(CloseCode::SLOW.into()),
        }
        Ok(())
    }

    /// Takes the client out of the hub and closes the socket so that the client gets the close frame.
    async fn end(mut self, ending: Ending) {
        metrics::ended(match &ending {
            Ending::Gone => Ended::Gone,
            Ending::ByClient => Ended::ByClient,
            Ending::Close { code, .. } => Ended::Close(*code),
        });
        let mut wire = self.wire.take();
        if let Some(client) = self.machine.client() {
            wire = wire.or(client.queue.detach());
            self.backend.leave(client.clone(), self.machine.rooms()).await;
        }
        let Some(mut wire) = wire.filter(|_| ending != Ending::Gone) else { return };
        if !self.answers.is_empty() {
            wire.push(Frame::encoded(self.answers));
        }
        if let Ending::Close { code, reason } = ending {
            wire.push(Frame::close(code, &reason));
        }
        if let Ok(Ok(())) = timeout(CLOSE_DEADLINE, wire.finish()).await {
            // Whoever does not close by then is cut off.
            let _cut = timeout(LINGER, drained(&mut self.reader)).await;
        }
    }
}

/// Ends when the client has closed, if it sends little until then.
async fn drained(reader: &mut OwnedReadHalf) {
    let (mut scratch, mut left) = ([0; 1024], LINGER_BYTES);
    while let Ok(read @ 1..) = reader.read(&mut scratch).await {
        left = left.saturating_sub(read);
        if left == 0 {
            pending().await
        }
    }
}

/// A message of the machine, as it goes out.
fn frame(machine: &impl Machine, message: &[u8]) -> Frame {
    if machine.binary() { Frame::binary(message) } else { Frame::text(message) }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The answer to a command that the hub did not take; `None`: it must not be refused.
pub(crate) fn refusal(command: Command) -> Option<ToClient> {
    let result = ErrorCode::INTERNAL;
    Some(match command {
        Command::Subscribe { request, room, .. } => ToClient::Subscribed { request, room, result: Err(result) },
        Command::Publish { request, .. } => ToClient::Published { request, result: Err(result) },
        Command::Retract { request, .. } => ToClient::Retracted { request, result: Err(result) },
        Command::History { request, .. } => ToClient::History { request, result: Err(result) },
        Command::Presence { request, .. } => ToClient::Presence { request, result: Err(result) },
        Command::Unsubscribe { .. } => return None,
    })
}
