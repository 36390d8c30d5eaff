//! Pumps a WebSocket through a session.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use roomring_proto::close::{CloseCode, ErrorCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::{Input, Machine, Output};
use crate::backend::Backend;
use crate::hub::api::{Client, Command, ToClient};

/// Read buffer of a connection, in bytes. Allocated with the connection, so it is what an idle client costs; commands are
/// far smaller.
const READ_BUFFER: usize = 4 << 10;

/// What is gathered before it goes to the socket without waiting for the rest, in bytes: past this a larger write is no
/// cheaper per byte.
const WRITE_BUFFER: usize = 16 << 10;

/// Most messages taken from the client's queue at once: gathered into one write.
const GATHER: usize = 128;

/// Most frames taken from the socket at once, before what they caused is written.
const FRAMES: usize = 32;

/// A client whose socket takes nothing for so long is slow, whatever its queue holds.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Time for a close frame to go out.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Time that a closed socket is still read. Closing a socket with unread input resets it, and a reset may overtake the
/// close frame.
const LINGER: Duration = Duration::from_secs(1);

/// Close codes of the WebSocket protocol itself.
const PROTOCOL_ERROR: Ending = Ending::Close { code: 1002, reason: Cow::Borrowed("protocol error") };
const NOT_UTF8: Ending = Ending::Close { code: 1007, reason: Cow::Borrowed("text is not UTF-8") };
const TOO_BIG: u16 = 1009;

/// Makes a WebSocket of a connection whose handshake is done. `read` is what was read beyond the handshake;
/// `max_message` bounds the client's messages, in bytes.
pub async fn websocket<S>(stream: S, read: Bytes, max_message: usize) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    WebSocketStream::from_partially_read(stream, read.into(), Role::Server, Some(config)).await
}

/// Runs a session until the client or the server ends it, takes it out of the hub, and closes the socket. When `stop` is
/// cancelled the client is told to come back elsewhere.
pub async fn run<S, M, B>(ws: WebSocketStream<S>, machine: M, backend: Arc<B>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
    M: Machine,
    B: Backend,
{
    let mut pump = Pump { ws, machine, backend, outputs: Vec::new(), inbox: Vec::new() };
    let ending = pump.run(&stop).await;
    if let Some(client) = pump.machine.client() {
        client.queue.close();
        pump.backend.leave(client.clone(), pump.machine.rooms()).await;
    }
    finish(pump.ws, ending).await;
}

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// The socket is gone.
    Gone,
    /// The client closed; tungstenite has the answer ready.
    ByClient,
    /// The server closes.
    Close { code: u16, reason: Cow<'static, str> },
}

impl From<CloseCode> for Ending {
    fn from(close: CloseCode) -> Self {
        Self::Close { code: close.code, reason: Cow::Borrowed(close.reason) }
    }
}

struct Pump<S, M, B> {
    ws: WebSocketStream<S>,
    machine: M,
    backend: Arc<B>,
    outputs: Vec<Output>,
    inbox: Vec<ToClient>,
}

enum Event {
    Socket(Option<Result<Message, Error>>),
    Queue,
    Slow,
    Tick,
    Stop,
}

impl<S, M, B> Pump<S, M, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    M: Machine,
    B: Backend,
{
    async fn run(&mut self, stop: &CancellationToken) -> Ending {
        let mut stopped = pin!(stop.cancelled());
        let mut timer = pin!(sleep_until(Instant::now()));
        self.machine.start(now(), &mut self.outputs);
        loop {
            if let Err(ending) = self.perform(stopped.as_mut()).await {
                return ending;
            }
            let taken = match self.next(stopped.as_mut(), timer.as_mut()).await {
                Event::Socket(message) => self.on_socket(message),
                Event::Queue => {
                    let now = now();
                    for event in self.inbox.drain(..) {
                        self.machine.handle(now, Input::Hub(event), &mut self.outputs);
                    }
                    Ok(())
                }
                Event::Slow => Err(CloseCode::SLOW.into()),
                Event::Tick => {
                    self.machine.handle(now(), Input::Tick, &mut self.outputs);
                    Ok(())
                }
                Event::Stop => {
                    self.take_queued();
                    Err(CloseCode::SHUTDOWN.into())
                }
            };
            if let Err(ending) = taken {
                return self.settle(ending).await;
            }
        }
    }

    /// What waits in the client's queue goes to the machine.
    fn take_queued(&mut self) {
        let client = self.machine.client();
        let queued = client.and_then(|client| client.queue.try_recv_many(&mut self.inbox, usize::MAX));
        if let Some(Ok(_)) = queued {
            for event in self.inbox.drain(..) {
                self.machine.handle(now(), Input::Hub(event), &mut self.outputs);
            }
        }
    }

    /// Does what was wanted before the end: a publish right before a close still counts.
    async fn settle(&mut self, ending: Ending) -> Ending {
        if matches!(ending, Ending::Close { .. }) {
            return self.perform(pin!(std::future::pending::<()>())).await.err().unwrap_or(ending);
        }
        // Nobody is there to be told.
        for output in std::mem::take(&mut self.outputs) {
            if let Output::Hub(command) = output
                && !matches!(self.send(command, false).await, Ok(true))
            {
                break;
            }
        }
        ending
    }

    async fn next(&mut self, stopped: Pin<&mut impl Future>, mut timer: Pin<&mut Sleep>) -> Event {
        let deadline = self.machine.next_deadline().map(Instant::from_std);
        if let Some(deadline) = deadline
            && timer.deadline() != deadline
        {
            timer.as_mut().reset(deadline);
        }
        let client = self.machine.client();
        let inbox = &mut self.inbox;
        let received = async {
            match client {
                Some(client) => client.queue.recv_many(inbox, GATHER).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = self.ws.next() => Event::Socket(message),
            received = received => if received.is_ok() { Event::Queue } else { Event::Slow },
            () = timer, if deadline.is_some() => Event::Tick,
            _ = stopped => Event::Stop,
        }
    }

    /// Feeds what the socket has to the machine.
    fn on_socket(&mut self, first: Option<Result<Message, Error>>) -> Result<(), Ending> {
        let now = now();
        let mut message = Some(first);
        for _ in 0..FRAMES {
            match message {
                None => break,
                Some(None) => return Err(Ending::Gone),
                Some(Some(Err(e))) => return Err(broken(e)),
                Some(Some(Ok(message))) => self.on_message(now, message)?,
            }
            message = self.ws.next().now_or_never();
        }
        Ok(())
    }

    fn on_message(&mut self, now: std::time::Instant, message: Message) -> Result<(), Ending> {
        let text = message.is_text();
        let input = match &message {
            Message::Text(data) => Input::Message { data: data.as_ref(), text },
            Message::Binary(data) => Input::Message { data, text },
            Message::Pong(_) => Input::Pong,
            Message::Close(_) => return Err(Ending::ByClient),
            // Answered by tungstenite; a bare frame is never read.
            Message::Ping(_) | Message::Frame(_) => return Ok(()),
        };
        self.machine.handle(now, input, &mut self.outputs);
        Ok(())
    }

    /// Does what the machine wants, and writes it out.
    async fn perform(&mut self, mut stopped: Pin<&mut impl Future>) -> Result<(), Ending> {
        let mut outputs = std::mem::take(&mut self.outputs);
        // Who has waited for the hub in vain does not wait for it again with every command of a long frame.
        let mut overloaded = false;
        for output in outputs.drain(..) {
            let frame = match output {
                Output::Write(bytes) => text(bytes),
                Output::Ping => Message::Ping(Bytes::new()),
                Output::Hub(command) => {
                    overloaded = !self.send(command, overloaded).await?;
                    continue;
                }
                Output::Close(code) => {
                    self.write(stopped.as_mut(), None).await?;
                    return Err(code.into());
                }
            };
            self.write(stopped.as_mut(), Some(frame)).await?;
        }
        // Commands that the hub refused were answered meanwhile.
        outputs.append(&mut self.outputs);
        for output in outputs.drain(..) {
            if let Output::Write(bytes) = output {
                self.write(stopped.as_mut(), Some(text(bytes))).await?;
            }
        }
        self.outputs = outputs;
        self.write(stopped, None).await
    }

    /// Hands a command to the hub, unless it is `overloaded`. Says whether the hub took it; if not, it was refused.
    async fn send(&mut self, command: Command, overloaded: bool) -> Result<bool, Ending> {
        let refusal = refusal(&command);
        if !overloaded && self.backend.send(command).await.is_ok() {
            return Ok(true);
        }
        match refusal {
            Some(answer) => {
                self.machine.handle(now(), Input::Hub(answer), &mut self.outputs);
                Ok(false)
            }
            // The client would go on being a member of a room that it has left.
            None => Err(CloseCode::INTERNAL_SERVER_ERROR.into()),
        }
    }

    /// Writes `frame`, or flushes what was written.
    async fn write(&mut self, stopped: Pin<&mut impl Future>, frame: Option<Message>) -> Result<(), Ending> {
        let ws = &mut self.ws;
        let mut writing = pin!(async {
            match frame {
                Some(frame) => ws.feed(frame).await,
                None => ws.flush().await,
            }
        });
        // The socket almost always takes it at once: then no timer is set up.
        if let Some(written) = writing.as_mut().now_or_never() {
            return written.map_err(broken);
        }
        tokio::select! {
            written = timeout(WRITE_DEADLINE, writing) => match written {
                Ok(written) => written.map_err(broken),
                Err(_) => Err(CloseCode::SLOW.into()),
            },
            () = overflowed(self.machine.client()) => Err(CloseCode::SLOW.into()),
            _ = stopped => Err(CloseCode::SHUTDOWN.into()),
        }
    }
}

async fn overflowed(client: Option<&Arc<Client>>) {
    match client {
        Some(client) => client.queue.overflowed().await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// A text frame whose bytes are known to be UTF-8 and are shared with other clients: not checked again for each.
fn text(bytes: Bytes) -> Message {
    Message::Frame(Frame::message(bytes, OpCode::Data(Data::Text), true))
}

/// The answer to a command that the hub did not take.
fn refusal(command: &Command) -> Option<ToClient> {
    let result = ErrorCode::INTERNAL;
    Some(match command {
        Command::Subscribe { request, room, .. } => {
            ToClient::Subscribed { request: *request, room: room.clone(), result: Err(result) }
        }
        Command::Publish { request, .. } => ToClient::Published { request: *request, result: Err(result) },
        Command::History { request, .. } => ToClient::History { request: *request, result: Err(result) },
        Command::Presence { request, .. } => ToClient::Presence { request: *request, result: Err(result) },
        Command::Unsubscribe { .. } => return None,
    })
}

fn broken(error: Error) -> Ending {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
            Ending::Close { code: TOO_BIG, reason: Cow::Owned(format!("message over {max_size} bytes")) }
        }
        Error::Utf8(_) => NOT_UTF8,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ending::Gone,
        Error::Protocol(_) | Error::Capacity(_) => PROTOCOL_ERROR,
        _ => Ending::Gone,
    }
}

/// Closes the socket so that the client gets the close frame.
async fn finish<S>(mut ws: WebSocketStream<S>, ending: Ending)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let closing = async {
        match ending {
            Ending::Gone => return Err(io::ErrorKind::NotConnected.into()),
            Ending::ByClient => ws.flush().await.map_err(io::Error::other)?,
            Ending::Close { code, reason } => {
                let frame = CloseFrame { code: code.into(), reason: reason.into_owned().into() };
                ws.send(Message::Close(Some(frame))).await.map_err(io::Error::other)?;
            }
        }
        ws.get_mut().shutdown().await
    };
    if let Ok(Ok(())) = timeout(CLOSE_DEADLINE, closing).await {
        let mut scratch = [0; 1024];
        let drained = async { while matches!(ws.get_mut().read(&mut scratch).await, Ok(1..)) {} };
        // Whoever does not close by then is cut off.
        let _cut = timeout(LINGER, drained).await;
    }
}
