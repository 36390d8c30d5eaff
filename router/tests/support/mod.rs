//! An edge on a free port with rooms in memory behind it, and clients for it.

#![allow(clippy::unwrap_used, reason = "a test fails where a helper of it does")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use roomring_proto::client::{Format, Push, plain};
use roomring_proto::close::CloseCode;
use roomring_proto::{Epoch, Generation, Lsn, NodeId, RoomId, Seq, Uid, v1};
use roomring_router::auth::Auth;
use roomring_router::http::{App, AppConfig, Readiness, bind, serve};
use roomring_router::hub::api::{Client, Codec, Command, History, Position, Presence, Published, Subscribed, ToClient};
use roomring_router::session::{Limits, Policy};
use roomring_router::{Backend, Frame, Sent, Whereabouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Far above what anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const EPOCH: Epoch = Epoch { uid: Uid(7), generation: Generation(1), created: Lsn(1) };

/// Rooms in memory: no order across commands is at stake here, so one lock does.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    rooms: Mutex<BTreeMap<RoomId, Room>>,
    refusing: AtomicBool,
    /// Subscribes to the room `late`, which are answered by [`Rooms::admit_late`].
    late: Mutex<Vec<Command>>,
}

#[derive(Debug, Default)]
struct Room {
    seq: u64,
    members: BTreeMap<String, Arc<Client>>,
}

impl Rooms {
    pub(crate) fn members(&self, room: &str) -> usize {
        self.rooms.lock().unwrap().get(room).map_or(0, |r| r.members.len())
    }

    pub(crate) fn memberships(&self) -> usize {
        self.rooms.lock().unwrap().values().map(|r| r.members.len()).sum()
    }

    /// From now on no command is taken.
    pub(crate) fn refuse(&self) {
        self.refusing.store(true, Ordering::Relaxed);
    }

    /// Ends all memberships of `room` as a lost position does.
    pub(crate) fn drop_members(&self, room: &str) {
        let id = RoomId::new(room).unwrap();
        let mut rooms = self.rooms.lock().unwrap();
        let Some(r) = rooms.get_mut(&id) else { return };
        for client in std::mem::take(&mut r.members).into_values() {
            let code = CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE;
            let position = Some(Position { epoch: EPOCH, seq: Seq(r.seq) });
            client.queue.push(ToClient::Dropped { room: id.clone(), code, position });
        }
    }

    /// Answers those who wait for the room `late`; how many there were.
    pub(crate) fn admit_late(&self) -> usize {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        let mut rooms = self.rooms.lock().unwrap();
        let count = late.len();
        for command in late {
            let Command::Subscribe { request, room, client, .. } = command else { unreachable!("only those wait") };
            let r = rooms.entry(room.clone()).or_default();
            let result = Ok(r.admit(&client, false, false));
            client.queue.push(ToClient::Subscribed { request, room, result });
        }
        count
    }

    /// Publishes on behalf of a server.
    pub(crate) fn publish(&self, room: &str, data: &str) {
        let id = RoomId::new(room).unwrap();
        self.rooms.lock().unwrap().entry(id.clone()).or_default().publish(&id, None, data.to_owned().into(), "");
    }
}

impl Room {
    fn admit(&mut self, client: &Arc<Client>, was_recovering: bool, recovered: bool) -> Subscribed {
        self.members.insert(client.id.clone(), client.clone());
        Subscribed { position: self.position(), was_recovering, recovered, publications: vec![] }
    }

    fn position(&self) -> Position {
        Position { epoch: EPOCH, seq: Seq(self.seq) }
    }

    fn publish(&mut self, room: &RoomId, by: Option<&Client>, data: bytes::Bytes, id: &str) {
        self.seq += 1;
        let info = |c: &Client| v1::ClientInfo { user: c.user.clone(), client: c.id.clone(), ..Default::default() };
        let info = by.map(|c| info(c).packed()).unwrap_or_default();
        let publication = v1::Publication { seq: self.seq, data, info, id: id.to_owned(), ..Default::default() };
        let push = Push::Publication(&publication);
        let line = plain::message(room.as_str(), EPOCH, &publication);
        for member in self.members.values() {
            let frame = match member.codec {
                Codec::Centrifuge(Format::Json) => Frame::text(&Format::Json.push(room.as_str(), &push)),
                Codec::Centrifuge(Format::Protobuf) => Frame::binary(&Format::Protobuf.push(room.as_str(), &push)),
                Codec::Plain => Frame::text(&line),
            };
            member.queue.push(ToClient::Push(frame));
            member.queue.flush();
        }
    }
}

impl Backend for Rooms {
    fn send(&self, command: Command) -> Sent {
        if self.refusing.load(Ordering::Relaxed) {
            return Sent::Refused(command);
        }
        let mut rooms = self.rooms.lock().unwrap();
        match command {
            Command::Subscribe { ref room, .. } if room.as_str() == "late" => self.late.lock().unwrap().push(command),
            Command::Subscribe { request, room, client, recover, .. } => {
                let r = rooms.entry(room.clone()).or_default();
                let recovered = recover.as_ref().is_some_and(|p| p.seq.0 == r.seq && p.epoch == EPOCH.to_string());
                let result = Ok(r.admit(&client, recover.is_some(), recovered));
                client.queue.push(ToClient::Subscribed { request, room, result });
            }
            Command::Unsubscribe { request, room, client } => {
                rooms.entry(room.clone()).or_default().members.remove(&client.id);
                if let Some(request) = request {
                    client.queue.push(ToClient::Unsubscribed { request, room });
                }
            }
            Command::Publish { request, room, client, data, id } => {
                let r = rooms.entry(room.clone()).or_default();
                r.publish(&room, Some(&client), data, &id);
                let result = Ok(Published { position: r.position(), duplicate: false });
                client.queue.push(ToClient::Published { request, result });
            }
            Command::Retract { .. } => panic!("the edge retracts nothing"),
            Command::History { request, room, client, .. } => {
                let top = rooms.entry(room).or_default().position();
                client.queue.push(ToClient::History { request, result: Ok(History { top, publications: vec![] }) });
            }
            Command::Presence { request, room, client, .. } => {
                let members = &rooms.entry(room).or_default().members;
                let info =
                    |c: &Client| v1::ClientInfo { user: c.user.clone(), client: c.id.clone(), ..Default::default() };
                let clients: BTreeMap<_, _> = members.iter().map(|(id, c)| (id.clone(), info(c))).collect();
                let num = u32::try_from(clients.len()).unwrap();
                let result = Ok(Presence { clients, num_clients: num, num_users: num });
                client.queue.push(ToClient::Presence { request, result });
            }
        }
        Sent::Taken
    }

    async fn leave(&self, client: Arc<Client>, left: Vec<RoomId>) {
        let mut rooms = self.rooms.lock().unwrap();
        for room in left {
            rooms.entry(room).or_default().members.remove(&client.id);
        }
    }

    fn whereabouts(&self, room: &RoomId) -> Option<Whereabouts> {
        Some(Whereabouts { slot: room.slot(1024), node: NodeId::new("node-1").unwrap() })
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        ping: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(8),
        connect_timeout: SOON,
        queue_bytes: 1 << 20,
        rooms: 3,
        commands: None,
    }
}

/// Everybody is who they say they are.
pub(crate) fn insecure() -> Policy {
    Policy { auth: Auth::insecure(), ..Policy::default() }
}

pub(crate) const MAX_MESSAGE: usize = 65_536;

/// An edge under test.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) app: Arc<App<Rooms>>,
    pub(crate) rooms: Arc<Rooms>,
}

impl Edge {
    pub(crate) async fn start(limits: Limits) -> Self {
        Self::start_with(limits, SOON).await
    }

    pub(crate) async fn start_with(limits: Limits, handshake_timeout: Duration) -> Self {
        let edge = Self::start_empty(limits, handshake_timeout).await;
        edge.app.set_backend(edge.rooms.clone());
        edge.app.set_readiness(Readiness::Ready);
        edge
    }

    /// Without rooms behind it yet.
    pub(crate) async fn start_empty(limits: Limits, handshake_timeout: Duration) -> Self {
        Self::bare(limits, insecure(), handshake_timeout).await
    }

    /// One with rules of its own.
    pub(crate) async fn with_policy(policy: Policy) -> Self {
        let edge = Self::bare(limits(), policy, SOON).await;
        edge.app.set_backend(edge.rooms.clone());
        edge.app.set_readiness(Readiness::Ready);
        edge
    }

    async fn bare(limits: Limits, policy: Policy, handshake_timeout: Duration) -> Self {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Arc::new(App::new(AppConfig {
            limits,
            policy: Arc::new(policy),
            max_message: MAX_MESSAGE,
            handshake_timeout,
            page: true,
            proxy: None,
            api: None,
            guards: Arc::default(),
        }));
        tokio::spawn(serve(listener, app.clone()));
        Self { address, app, rooms: Arc::default() }
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn open(&self, path: &str) -> Ws {
        self.open_as(path, None).await
    }

    /// Offers a subprotocol, which must be agreed to.
    pub(crate) async fn open_as(&self, path: &str, protocol: Option<&'static str>) -> Ws {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some(protocol) = protocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        }
        let (ws, _) = tokio_tungstenite::client_async(request, self.tcp().await).await.unwrap();
        Ws(ws)
    }

    /// A client that has connected as `user`.
    pub(crate) async fn client(&self, user: &str) -> Ws {
        let mut ws = self.open("/connection/websocket").await;
        ws.send(&format!(r#"{{"id":1,"connect":{{"data":{{"user":"{user}"}}}}}}"#)).await;
        assert!(ws.line().await.starts_with(r#"{"id":1,"connect":{"client":""#));
        ws
    }

    /// A client that has joined `room`.
    pub(crate) async fn member(&self, user: &str, room: &str) -> Ws {
        let mut ws = self.client(user).await;
        ws.send(&format!(r#"{{"id":2,"subscribe":{{"channel":"{room}"}}}}"#)).await;
        assert!(ws.line().await.starts_with(r#"{"id":2,"subscribe":{"recoverable":true"#));
        ws
    }

    /// Sends `request` as it is and gives everything that comes until the server closes.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut tcp = self.tcp().await;
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, tcp.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Status line and body of the answer to a request that is no handshake.
    pub(crate) async fn http(&self, method: &str, path: &str) -> (u16, String) {
        let answer = self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        status_and_body(&answer)
    }

    /// Waits until no session and no membership is left.
    pub(crate) async fn assert_empty(&self) {
        self.wait(|| self.app.connections() == 0 && self.rooms.memberships() == 0).await;
    }

    pub(crate) async fn wait(&self, holds: impl Fn() -> bool) {
        timeout(SOON, async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it comes to hold");
    }
}

pub(crate) fn status_and_body(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, body.trim_end().to_owned())
}

/// A handshake with `headers` (each ended by CRLF) added.
pub(crate) fn handshake(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// A client's WebSocket.
pub(crate) struct Ws(pub(crate) WebSocketStream<TcpStream>);

impl Ws {
    pub(crate) async fn send(&mut self, text: &str) {
        self.message(Message::text(text)).await;
    }

    pub(crate) async fn message(&mut self, message: Message) {
        timeout(SOON, self.0.send(message)).await.expect("sent in time").unwrap();
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            match timeout(SOON, self.0.next()).await.expect("something comes in time") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(e)) => panic!("the connection broke: {e}"),
                None => return None,
            }
        }
    }

    /// The next text frame.
    pub(crate) async fn line(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("a text frame, not {other:?}"),
        }
    }

    /// The next binary frame.
    pub(crate) async fn binary(&mut self) -> Vec<u8> {
        match self.next().await {
            Some(Message::Binary(bytes)) => bytes.to_vec(),
            other => panic!("a binary frame, not {other:?}"),
        }
    }

    /// Code and reason of the close, which is what comes next.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        match self.next().await {
            Some(Message::Close(Some(frame))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("a close frame, not {other:?}"),
        }
    }

    pub(crate) async fn ask(&mut self, frame: &str) -> String {
        self.send(frame).await;
        self.line().await
    }
}
