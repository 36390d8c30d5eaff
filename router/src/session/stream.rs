//! Runs a session on a connection that only its own task writes to: an HTTP answer, or a WebSocket within TLS. On bare sockets
//! [`super::task`] does it, where the hub's workers write too.

use std::borrow::Cow;
use std::future::{Future, pending};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomring_proto::close::CloseCode;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::control::ControlFrames;
use super::questions::Questions;
use super::task::refusal;
use super::{Input, Machine, Output};
use crate::backend::Backend;
use crate::hub::queue::Slow;

/// Events handled before what they made is written.
const BATCH: usize = 64;

/// A client whose connection takes nothing for so long is slow.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Time for the last words.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// What a client sends.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A whole message. Text or binary: protocols that care are told.
    Message { data: Bytes, text: bool },
    /// A ping of the transport's own, which has been answered.
    Ping,
    /// The answer to one.
    Pong,
    /// It breaks the transport's rules, and is told so.
    Wrong(u16, Cow<'static, str>),
}

/// What a client is sent.
#[derive(Debug)]
pub(crate) enum Told {
    /// A whole message.
    Message {
        /// Its payload.
        data: Bytes,
        /// As a binary frame, where there are frames.
        binary: bool,
    },
    /// A ping of the transport's own.
    Ping,
    /// The end, and why.
    Close(u16, Cow<'static, str>),
}

/// A client's connection.
pub(crate) trait Line: Send {
    /// What the client sends next; `None` once it is gone. Safe to cancel.
    fn hear(&mut self) -> impl Future<Output = Option<Heard>> + Send;

    /// Sends what `all` has, in order. False if the client is gone.
    fn tell(&mut self, all: Vec<Told>) -> impl Future<Output = bool> + Send;
}

/// Runs a session until the client or the server ends it, and takes it out of the hub. When `stop` is cancelled the client is told
/// to come back elsewhere.
pub(crate) async fn run<M, B, L>(machine: Box<M>, backend: Arc<B>, line: L, stop: CancellationToken)
where
    M: Machine + Send,
    B: Backend,
    L: Line,
{
    let (outputs, questions, control) = (Vec::new(), Questions::default(), ControlFrames::default());
    let mut pump = Pump { machine, backend, line, outputs, questions, control };
    pump.machine.start(now(), &mut pump.outputs);
    let last = loop {
        if let ControlFlow::Break(last) = pump.perform().await {
            break last;
        }
        if let ControlFlow::Break(last) = pump.next(&stop).await {
            break last;
        }
    };
    // What was wanted before the end still goes out, but nobody waits for it for long.
    let Pump { machine, backend, mut line, .. } = pump;
    if let Some(client) = machine.client() {
        client.queue.close();
        backend.leave(client.clone(), machine.rooms()).await;
    }
    if let Some((code, reason)) = last {
        let _ = timeout(CLOSE_DEADLINE, line.tell(vec![Told::Close(code, reason)])).await;
    }
}

/// Code and reason, if there is somebody to be told.
type Last = Option<(u16, Cow<'static, str>)>;

struct Pump<M, B, L> {
    machine: Box<M>,
    backend: Arc<B>,
    line: L,
    outputs: Vec<Output>,
    questions: Questions,
    control: ControlFrames,
}

impl<M: Machine + Send, B: Backend, L: Line> Pump<M, B, L> {
    /// Waits for what comes next and hands it to the session.
    async fn next(&mut self, stop: &CancellationToken) -> ControlFlow<Last> {
        let Self { machine, line, outputs, questions, control, .. } = self;
        let client = machine.client().cloned();
        let mut told = Vec::new();
        let queue = async {
            match &client {
                Some(client) => client.queue.recv_many(&mut told, BATCH).await,
                None => pending().await,
            }
        };
        let deadline = machine.next_deadline().map(Instant::from_std);
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return closed(CloseCode::SHUTDOWN),
            heard = line.hear() => match heard {
                Some(Heard::Message { data, text }) => {
                    machine.handle(now(), Input::Message { data: &data, text }, outputs);
                }
                Some(Heard::Ping | Heard::Pong) if !control.take(now()) => return closed(CloseCode::TOO_MANY_REQUESTS),
                Some(Heard::Ping) => {}
                Some(Heard::Pong) => machine.handle(now(), Input::Pong, outputs),
                Some(Heard::Wrong(code, reason)) => return ControlFlow::Break(Some((code, reason))),
                None => return ControlFlow::Break(None),
            },
            count = queue => match count {
                Ok(1..) => told.into_iter().for_each(|event| machine.handle(now(), Input::Hub(event), outputs)),
                Ok(0) => return ControlFlow::Break(None),
                Err(Slow) => return closed(CloseCode::SLOW),
            },
            (room, verdict) = questions.answer() => machine.handle(now(), Input::Verdict(room, verdict), outputs),
            () = timer => machine.handle(now(), Input::Tick, outputs),
        }
        ControlFlow::Continue(())
    }

    /// Does what the session wants.
    async fn perform(&mut self) -> ControlFlow<Last> {
        let mut told = Vec::new();
        let mut end = None;
        while !self.outputs.is_empty() && end.is_none() {
            for output in std::mem::take(&mut self.outputs) {
                match output {
                    Output::Write(data) => told.push(Told::Message { data, binary: self.machine.binary() }),
                    Output::Ping => told.push(Told::Ping),
                    Output::Hub(command) => {
                        if let Err(command) = self.backend.send(command).known().await {
                            match refusal(command) {
                                Some(answer) => self.machine.handle(now(), Input::Hub(answer), &mut self.outputs),
                                // The client would go on being a member of a room that it has left.
                                None => end = Some(CloseCode::INTERNAL_SERVER_ERROR),
                            }
                        }
                    }
                    Output::Lookup(lookup) => {
                        let found = lookup.0.await;
                        self.machine.handle(now(), Input::Found(found), &mut self.outputs);
                    }
                    Output::Ask(question) => self.questions.ask(question),
                    Output::Close(code) => end = Some(code),
                }
                if end.is_some() {
                    break;
                }
            }
        }
        if !told.is_empty() {
            match timeout(WRITE_DEADLINE, self.line.tell(told)).await {
                Ok(true) => {}
                Ok(false) => return ControlFlow::Break(None),
                Err(_) => return closed(CloseCode::SLOW),
            }
        }
        end.map_or(ControlFlow::Continue(()), closed)
    }
}

fn closed(close: CloseCode) -> ControlFlow<Last> {
    ControlFlow::Break(Some((close.code, Cow::Borrowed(close.reason))))
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
