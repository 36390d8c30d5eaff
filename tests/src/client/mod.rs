//! A client of the Centrifuge protocol in JSON that records everything it is told, in order.
//!
//! It behaves as the SDKs do where that matters to the server: answers pings, keeps its position in each room, and
//! subscribes again with `recover` after an unsubscribe of 2500 or more. What it does not do is reconnect: that a socket
//! stayed open is one of the things to be shown.

mod log;
mod notes;
mod pump;
pub(crate) mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::checker::Line;
use crate::expect::within;
pub use log::{Event, Member, RoomLog};
use notes::{Asked, Notes};
pub use wire::Error;

/// Where clients connect.
const PATH: &str = "/connection/websocket";
/// Longer than any answer may take (the server owes one within 5 s), also on a busy machine.
const CALL: Duration = Duration::from_secs(30);
/// Commands on their way to the socket.
const OUTGOING: usize = 256;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The close frame's code; `None` if there was none.
    pub code: Option<u16>,
    /// Its reason, or the transport's error.
    pub reason: String,
}

/// One connection. Dropping it cuts the connection without a goodbye; see [`Client::close`].
#[derive(Debug)]
pub struct Client {
    name: String,
    router: SocketAddr,
    outgoing: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    pump: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rises with everything received.
    changed: watch::Sender<u64>,
    /// Nothing is read from the socket.
    paused: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    name: String,
    /// The connection's.
    id: String,
    last_id: u32,
    waiting: HashMap<u32, Waiting>,
    rooms: HashMap<String, RoomLog>,
    closed: Option<Closed>,
    /// What was done and told, for the checker.
    notes: Notes,
    /// Replies that nobody asked for, pushes that could not be read: always a fault of the server.
    faults: Vec<String>,
    keep_position: bool,
}

#[derive(Debug)]
struct Waiting {
    method: String,
    room: Option<String>,
    /// What is to be recorded of the answer.
    asked: Asked,
    answer: Option<oneshot::Sender<Result<Value, Error>>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

impl Client {
    /// Connects to a router as the user `name`.
    pub async fn connect(router: SocketAddr, name: &str) -> Self {
        let client = Self::open(router, name).await;
        client.greet().await.unwrap_or_else(|e| panic!("connect of {name}: {e}"));
        client
    }

    /// As [`Client::connect`], where the router may not be there; `None` then.
    pub async fn try_connect(router: SocketAddr, name: &str) -> Option<Self> {
        let client = Self::try_open(router, name).await.ok()?;
        client.greet().await.ok()?;
        Some(client)
    }

    async fn greet(&self) -> Result<(), Error> {
        let result = self.call(json!({"connect": {"data": {"user": self.name}, "name": "test"}})).await?;
        let id = result["client"].as_str().unwrap_or_default().to_owned();
        assert!(!id.is_empty(), "a client id in {result}");
        let mut state = self.shared.state();
        state.notes.opened(&id, &self.name);
        state.id = id;
        Ok(())
    }

    /// Opens the WebSocket and says nothing.
    pub async fn open(router: SocketAddr, name: &str) -> Self {
        Self::try_open(router, name).await.unwrap_or_else(|e| panic!("{name} to {router}: {e}"))
    }

    async fn try_open(router: SocketAddr, name: &str) -> Result<Self, String> {
        let connecting = tokio::time::timeout(CALL, TcpStream::connect(router)).await;
        let stream = connecting.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let url = format!("ws://{router}{PATH}");
        let shaking = tokio::time::timeout(CALL, tokio_tungstenite::client_async(url, stream)).await;
        let (socket, _) = shaking.map_err(|e| e.to_string())?.map_err(|e| format!("handshake: {e}"))?;
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let state = State { name: name.to_owned(), keep_position: true, ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            paused: watch::Sender::new(false),
        });
        let pump = tokio::spawn(pump::Pump::new(socket, queue, shared.clone()).run());
        Ok(Self { name: name.to_owned(), router, outgoing, shared, pump })
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The router that it is connected to.
    pub fn router(&self) -> SocketAddr {
        self.router
    }

    /// The connection's id, as the server gave it.
    pub fn id(&self) -> String {
        self.shared.state().id.clone()
    }

    /// Do not subscribe again after an unsubscribe by the server.
    pub fn stay_out(&self) {
        self.shared.state().keep_position = false;
    }

    /// Stops reading, as a client whose network is stuck.
    pub fn pause(&self) {
        self.shared.paused.send_replace(true);
    }

    /// Reads again.
    pub fn resume(&self) {
        self.shared.paused.send_replace(false);
    }

    /// Sends a text frame as it is.
    pub async fn send_text(&self, text: impl Into<String>) {
        self.send_frame(Message::text(text.into())).await;
    }

    /// Sends a frame as it is. On a closed connection nothing happens; [`Client::closed`] tells.
    pub async fn send_frame(&self, frame: Message) {
        let _ = self.outgoing.send(frame).await;
    }

    /// Sends a command such as `{"publish": {...}}` under the next id and waits for its answer.
    pub async fn call(&self, mut command: Value) -> Result<Value, Error> {
        let (answer, answered) = oneshot::channel();
        let method = command.as_object().and_then(|o| o.keys().next()).expect("a command").clone();
        let room = command[&method]["channel"].as_str().map(str::to_owned);
        // A place in the queue comes first, so that what several tasks say through this client goes out as it is recorded.
        let place = self.outgoing.reserve().await;
        {
            let mut state = self.shared.state();
            if let Some(closed) = &state.closed {
                return Err(Error::closed(closed));
            }
            state.last_id += 1;
            let id = state.last_id;
            let asked = state.notes.asked(id, &method, &command[&method]);
            command["id"] = id.into();
            state.waiting.insert(id, Waiting { method, room, asked, answer: Some(answer) });
            if let Ok(place) = place {
                place.send(Message::text(command.to_string()));
            }
        }
        match within(&format!("the answer to {command}"), CALL, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::closed(&self.closed().await)),
        }
    }

    /// Joins a room from its top on, with join and leave events.
    pub async fn subscribe(&self, room: &str) -> Value {
        let result = self.call(json!({"subscribe": {"channel": room, "join_leave": true, "flag": 1}})).await;
        result.unwrap_or_else(|e| panic!("subscribe of {} to {room}: {e}", self.name))
    }

    /// Joins a room from a position on.
    pub async fn recover(&self, room: &str, epoch: &str, offset: u64) -> Result<Value, Error> {
        let request = json!({"channel": room, "recover": true, "epoch": epoch, "offset": offset, "join_leave": true});
        self.call(json!({"subscribe": request})).await
    }

    /// Leaves a room.
    pub async fn unsubscribe(&self, room: &str) {
        let result = self.call(json!({"unsubscribe": {"channel": room}})).await;
        result.unwrap_or_else(|e| panic!("unsubscribe of {} from {room}: {e}", self.name));
    }

    /// Publishes a JSON value.
    pub async fn publish(&self, room: &str, data: impl Into<Value>) -> Result<(), Error> {
        let data: Value = data.into();
        self.call(json!({"publish": {"channel": room, "data": data}})).await.map(|_| ())
    }

    /// Publishes under an id that makes a retry harmless. The answer has `offset`, `epoch` and `duplicate`.
    pub async fn publish_once(&self, room: &str, id: &str, data: impl Into<Value>) -> Result<Value, Error> {
        let data: Value = data.into();
        let request = json!({"method": "room.publish", "data": {"channel": room, "id": id, "data": data}});
        self.call(json!({"rpc": request})).await.map(|answer| answer["data"].clone())
    }

    /// The page of history that `request` (without the channel) asks for.
    pub async fn history(&self, room: &str, mut request: Value) -> Result<Value, Error> {
        request["channel"] = room.into();
        self.call(json!({"history": request})).await
    }

    /// Who is there, by connection id.
    pub async fn presence(&self, room: &str) -> Result<Value, Error> {
        self.call(json!({"presence": {"channel": room}})).await.map(|r| r["presence"].clone())
    }

    /// How many are there.
    pub async fn presence_stats(&self, room: &str) -> Result<Value, Error> {
        self.call(json!({"presence_stats": {"channel": room}})).await
    }

    /// What was recorded of a room.
    pub fn log(&self, room: &str) -> RoomLog {
        let log = self.shared.state().rooms.get(room).cloned();
        log.unwrap_or_else(|| RoomLog::new(&self.name))
    }

    /// Everything this client did and was told, each with its place among what all clients of this process did.
    pub fn notes(&self) -> Vec<(u64, Line)> {
        self.shared.state().notes.all().to_vec()
    }

    /// Waits until what was recorded of a room fits.
    pub async fn wait_log<T>(&self, room: &str, what: &str, fits: impl Fn(&RoomLog) -> Option<T>) -> T {
        self.wait_log_for(room, what, CALL, fits).await
    }

    /// As [`Client::wait_log`], with a limit.
    pub async fn wait_log_for<T>(
        &self,
        room: &str,
        what: &str,
        limit: Duration,
        fits: impl Fn(&RoomLog) -> Option<T>,
    ) -> T {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changed.mark_unchanged();
                if let Some(value) = self.shared.state().rooms.get(room).and_then(&fits) {
                    return Some(value);
                }
                if self.is_closed() || changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(Some(value)) => value,
            Ok(None) => {
                panic!("{} was closed ({:?}) while it waited in {room} for {what}", self.name, self.now_closed())
            }
            Err(_) => {
                panic!("{} waited {limit:?} in {room} for {what}; it has {:#?}", self.name, self.log(room).brief())
            }
        }
    }

    /// Waits for the message with the text `data` in a room.
    pub async fn wait_message(&self, room: &str, data: &str) {
        let data = Value::from(data).to_string();
        let has = |log: &RoomLog| log.messages().any(|m| m == data).then_some(());
        self.wait_log(room, &format!("message {data}"), has).await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.now_closed().is_some()
    }

    /// How it ended, if it has.
    pub fn now_closed(&self) -> Option<Closed> {
        self.shared.state().closed.clone()
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) -> Closed {
        self.closed_for(CALL).await
    }

    /// As [`Client::closed`], with a limit.
    pub async fn closed_for(&self, limit: Duration) -> Closed {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changed.mark_unchanged();
                if let Some(closed) = self.now_closed() {
                    return closed;
                }
                // The sender is as old as this client.
                changed.changed().await.expect("the client is here");
            }
        };
        within(&format!("the connection of {} to end", self.name), limit, waiting).await
    }

    /// What the server did that it never may, whatever the test does; empty in a good run.
    pub fn faults(&self) -> Vec<String> {
        self.shared.state().faults.clone()
    }

    /// Closes with a proper goodbye and waits for the server's.
    pub async fn close(self) {
        self.shared.state().notes.close_wanted();
        self.send_frame(Message::Close(None)).await;
        self.closed().await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.pump.abort();
    }
}
