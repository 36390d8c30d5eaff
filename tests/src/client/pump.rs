//! The task that owns one client's socket.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::log::{Event, Member, RoomLog};
use super::wire::{Error, Publication, Push, Reply, SubscribeReply};
use super::{Closed, Shared, State, Waiting};

/// Before a subscribe that met a temporary error is sent again; the SDKs' shortest.
const RETRY: Duration = Duration::from_millis(100);

pub(super) struct Pump {
    socket: WebSocketStream<TcpStream>,
    queue: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    /// Rooms to subscribe to again, and when.
    retries: Vec<(Instant, String)>,
}

impl Pump {
    pub(super) fn new(socket: WebSocketStream<TcpStream>, queue: mpsc::Receiver<Message>, shared: Arc<Shared>) -> Self {
        Self { socket, queue, shared, retries: Vec::new() }
    }

    /// Runs until the connection ends.
    pub(super) async fn run(mut self) {
        let mut paused = self.shared.paused.subscribe();
        let closed = loop {
            // The sender is in what this task holds too.
            paused.wait_for(|paused| !paused).await.expect("the client is here");
            let retry = self.retries.iter().map(|(at, _)| *at).min();
            tokio::select! {
                frame = self.socket.next() => if let Err(closed) = self.on_frame(frame).await { break closed },
                Some(message) = self.queue.recv() => if let Err(closed) = self.send(message).await { break closed },
                _ = paused.changed() => {}
                () = sleep_until(retry) => if let Err(closed) = self.on_retry().await { break closed },
            }
        };
        let mut state = self.shared.state();
        let waiting: Vec<_> = state.waiting.drain().collect();
        for (id, waiting) in &waiting {
            state.notes.unanswered(*id, &waiting.asked);
        }
        state.notes.closed(closed.code);
        state.closed = Some(closed);
        // Dropping the answers wakes those who wait for them.
        drop(waiting);
        drop(state);
        self.shared.touch();
    }

    async fn send(&mut self, message: Message) -> Result<(), Closed> {
        match self.socket.send(message).await {
            Ok(()) => Ok(()),
            // What the server said before it closed is still to be read.
            Err(_) => loop {
                let frame = self.socket.next().await;
                self.read(frame)?;
            },
        }
    }

    async fn on_frame(&mut self, frame: Option<Result<Message, tungstenite::Error>>) -> Result<(), Closed> {
        for message in self.read(frame)? {
            self.send(message).await?;
        }
        self.shared.touch();
        Ok(())
    }

    async fn on_retry(&mut self) -> Result<(), Closed> {
        let now = Instant::now();
        let due: Vec<String> = self.retries.extract_if(.., |(at, _)| *at <= now).map(|(_, room)| room).collect();
        for room in due {
            let command = subscribe_again(&mut self.shared.state(), &room);
            self.send(command).await?;
        }
        Ok(())
    }

    /// Records a frame; gives what is to be sent in answer.
    fn read(&mut self, frame: Option<Result<Message, tungstenite::Error>>) -> Result<Vec<Message>, Closed> {
        let text = match frame {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err(Closed { code: Some(frame.code.into()), reason: frame.reason.to_string() });
            }
            Some(Ok(Message::Close(None))) => return Err(Closed { code: None, reason: "no code".into() }),
            Some(Ok(Message::Binary(_))) => {
                self.shared.state().faults.push("a binary frame to a JSON client".into());
                return Ok(Vec::new());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => return Ok(Vec::new()),
            Some(Err(error)) => return Err(Closed { code: None, reason: error.to_string() }),
            None => return Err(Closed { code: None, reason: "end of stream".into() }),
        };
        let mut answers = Vec::new();
        let mut state = self.shared.state();
        for line in text.trim_end_matches('\n').split('\n') {
            match serde_json::from_str::<Reply>(line) {
                Ok(Reply { id: 0, error: None, push: Some(push) }) => {
                    if let Some(room) = on_push(&mut state, push, line) {
                        self.retries.push((Instant::now(), room));
                    }
                }
                Ok(Reply { id: 0, error: None, push: None }) if line == "{}" => answers.push(Message::text("{}")),
                Ok(Reply { id, error, push: None }) if id > 0 => {
                    if let Some(room) = on_reply(&mut state, id, error, line) {
                        self.retries.push((Instant::now() + RETRY, room));
                    }
                }
                Ok(_) => state.faults.push(format!("a reply of no known kind: {line}")),
                Err(error) => state.faults.push(format!("unreadable ({error}): {line}")),
            }
        }
        Ok(answers)
    }
}

/// Gives the room to subscribe to again at once.
fn on_push(state: &mut State, push: Push, line: &str) -> Option<String> {
    let member = |info: super::wire::Info| Member { user: info.user, client: info.client };
    let keep_position = state.keep_position;
    state.notes.pushed(&push);
    let log = log_of(state, &push.channel);
    if let Some(publication) = push.publication {
        log.push(message(publication));
    } else if let Some(join) = push.join {
        log.push(Event::Joined(member(join.info)));
    } else if let Some(leave) = push.leave {
        log.push(Event::Left(member(leave.info)));
    } else if let Some(unsubscribe) = push.unsubscribe {
        log.push(Event::Unsubscribed(unsubscribe.code));
        return (keep_position && unsubscribe.code >= 2500).then_some(push.channel);
    } else {
        state.faults.push(format!("a push of no known kind: {line}"));
    }
    None
}

/// Gives the room to subscribe to again, later.
fn on_reply(state: &mut State, id: u32, error: Option<Error>, line: &str) -> Option<String> {
    let Some(Waiting { method, room, asked, answer }) = state.waiting.remove(&id) else {
        state.faults.push(format!("a reply that nobody waits for: {line}"));
        return None;
    };
    let result = match error {
        Some(error) => Err(error),
        None => match serde_json::from_str::<Value>(line).map(|mut reply| reply[&method].take()) {
            Ok(Value::Null) | Err(_) => {
                state.faults.push(format!("no {method} in the reply to one: {line}"));
                return None;
            }
            Ok(result) => Ok(result),
        },
    };
    state.notes.answered(id, &asked, &result, line);
    let mut again = None;
    if let Some(room) = room {
        match (method.as_str(), &result) {
            ("subscribe", Ok(_)) => on_subscribed(state, &room, line),
            ("unsubscribe", Ok(_)) => log_of(state, &room).push(Event::Gone),
            ("subscribe", Err(e)) if answer.is_none() && (e.temporary || e.code < 100) => again = Some(room),
            ("subscribe", Err(e)) if answer.is_none() => state.faults.push(format!("no way back into {room}: {e}")),
            _ => {}
        }
    }
    if let Some(answer) = answer {
        // Who asked may have given up.
        let _ = answer.send(result);
    }
    again
}

fn on_subscribed(state: &mut State, room: &str, line: &str) {
    // From the text, so that payloads stay as they came.
    let subscribed = match serde_json::from_str(line) {
        Ok(SubscribeReply { subscribe }) => subscribe,
        Err(error) => return state.faults.push(format!("unreadable ({error}): {line}")),
    };
    if !subscribed.recoverable {
        state.faults.push(format!("a subscription that can't recover: {line}"));
    }
    let log = log_of(state, room);
    log.push(Event::Subscribed {
        epoch: subscribed.epoch,
        offset: subscribed.offset,
        was_recovering: subscribed.was_recovering,
        recovered: subscribed.recovered,
    });
    for publication in subscribed.publications {
        log.push(message(publication));
    }
}

fn log_of<'a>(state: &'a mut State, room: &str) -> &'a mut RoomLog {
    let name = &state.name;
    state.rooms.entry(room.to_owned()).or_insert_with(|| RoomLog::new(name))
}

fn message(publication: Publication) -> Event {
    let from = publication.info.map(|info| Member { user: info.user, client: info.client });
    Event::Message { offset: publication.offset, data: publication.data.get().to_owned(), from, tags: publication.tags }
}

/// The subscribe with which an SDK comes back after an unsubscribe by the server.
fn subscribe_again(state: &mut State, room: &str) -> Message {
    let (epoch, offset) = state.rooms.get(room).map(|log| (log.epoch.clone(), log.offset)).unwrap_or_default();
    state.last_id += 1;
    let id = state.last_id;
    let request = json!({"channel": room, "recover": true, "epoch": epoch, "offset": offset, "join_leave": true});
    let asked = state.notes.asked(id, "subscribe", &request);
    state.waiting.insert(id, Waiting { method: "subscribe".into(), room: Some(room.into()), asked, answer: None });
    Message::text(json!({"id": id, "subscribe": request}).to_string())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
