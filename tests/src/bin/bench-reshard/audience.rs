//! Who is on the cluster: clients that are each in several rooms, and rooms that are full of history.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt, stream};
use roomring_proto::RoomId;
use roomring_tests::checker::{self, Claim, Recording, Verdict, What};
use roomring_tests::{Client, RoomLog};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Clients that come at the same time.
const AT_ONCE: usize = 64;

/// Publishes in one frame of the filler, and frames under way.
const FRAME: usize = 100;
const AHEAD: usize = 10;

/// The clients, and the rooms `reshard-0` ...
pub(crate) struct Audience {
    clients: Vec<Arc<Client>>,
    rooms: usize,
    members: usize,
    each: usize,
}

/// The name of a room.
pub(crate) fn room(n: usize) -> String {
    format!("reshard-{n}")
}

/// The slot of a room.
pub(crate) fn slot_of(n: usize, slots: usize) -> usize {
    let slots = u32::try_from(slots).expect("few slots");
    RoomId::new(&room(n)).expect("a room's name").slot(slots).0 as usize
}

impl Audience {
    /// Connects `members` clients that are in `each` rooms, spread evenly over rooms and routers.
    pub(crate) async fn gather(routers: &[SocketAddr], rooms: usize, members: usize, each: usize) -> Self {
        let coming = (0..members).map(|n| async move {
            let client = Client::connect(routers[n % routers.len()], &format!("user-{n}")).await;
            for room in rooms_of(n, rooms, each) {
                client.subscribe(&self::room(room)).await;
            }
            Arc::new(client)
        });
        let clients = stream::iter(coming).buffered(AT_ONCE).collect().await;
        Self { clients, rooms, members, each }
    }

    /// A member of each room, in the order of the rooms; `None` for a room without.
    pub(crate) fn speakers(&self) -> Vec<Option<Arc<Client>>> {
        let mut speakers = vec![None; self.rooms];
        for n in 0..self.members {
            for room in rooms_of(n, self.rooms, self.each) {
                speakers[room].get_or_insert_with(|| self.clients[n].clone());
            }
        }
        speakers
    }

    /// Sockets that ended.
    pub(crate) fn dropped(&self) -> usize {
        self.clients.iter().filter(|c| c.is_closed()).count()
    }

    /// Waits until every member of every room heard a last word, and applies the checker to everything that was told.
    pub(crate) async fn judge(&self) -> (Recording, Vec<Verdict>) {
        let last = |(n, client): (usize, Option<Arc<Client>>)| async move {
            if let Some(client) = client {
                let said = client.publish(&room(n), format!("the end {n}")).await;
                said.unwrap_or_else(|e| panic!("the last word in {}: {e}", room(n)));
            }
        };
        let speakers = self.speakers().into_iter().enumerate().map(last);
        stream::iter(speakers).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        for (n, client) in self.clients.iter().enumerate() {
            for room in rooms_of(n, self.rooms, self.each) {
                let has = |log: &RoomLog| log.messages().any(|m| m.starts_with("\"the end")).then_some(());
                client.wait_log(&self::room(room), "the last word", has).await;
            }
        }
        let mut recording = Recording::gather(self.clients.iter().map(|c| c.notes()));
        recording.say(What::Claimed { claim: Claim::NoLoss });
        recording.say(What::Claimed { claim: Claim::SocketsStay });
        let verdicts = checker::check(&recording);
        (recording, verdicts)
    }
}

/// Rooms of client `n`: neighbours, so that the members of a room sit on different routers.
fn rooms_of(n: usize, rooms: usize, each: usize) -> impl Iterator<Item = usize> {
    (0..each).map(move |k| (n * 2 + k * (rooms / each + 1)) % rooms)
}

/// Fills every room's history with `count` messages of `bytes` bytes each, through a socket at each router.
pub(crate) async fn fill(routers: &[SocketAddr], rooms: usize, count: usize, bytes: usize) {
    let filling = routers.iter().enumerate().map(|(k, router)| {
        let mine: Vec<usize> = (0..rooms).filter(|n| n % routers.len() == k).collect();
        fill_through(*router, mine, count, bytes)
    });
    futures_util::future::join_all(filling).await;
}

async fn fill_through(router: SocketAddr, rooms: Vec<usize>, count: usize, bytes: usize) {
    let stream = TcpStream::connect(router).await.expect("a router that listens");
    let url = format!("ws://{router}/connection/websocket");
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
    let (mut sink, mut stream) = socket.split();
    let connect = r#"{"id":1,"connect":{"data":{"user":"filler"}}}"#;
    sink.send(Message::text(connect)).await.expect("a router that reads");
    let text = "x".repeat(bytes.saturating_sub(2));
    // Ids tell the room; one that was refused for the moment is said again under its id.
    let command = |id: usize| {
        let room = room(rooms[id % rooms.len()]);
        format!(r#"{{"id":{id},"publish":{{"channel":"{room}","data":"{text}"}}}}"#)
    };
    let total = rooms.len() * count + 1;
    let (mut ids, mut again) = (2..=total, Vec::<usize>::new());
    let (mut sent, mut answered) = (1, 0);
    while answered < total {
        while sent < total && sent - answered < FRAME * AHEAD {
            let first = again.split_off(again.len().saturating_sub(FRAME));
            let frame: Vec<String> = first.into_iter().chain(ids.by_ref()).take(FRAME).map(command).collect();
            sent += frame.len();
            sink.send(Message::text(frame.join("\n"))).await.expect("a router that reads");
        }
        let message = stream.next().await.expect("a socket that stays open").expect("a WebSocket message");
        for line in message.to_text().unwrap_or_default().split('\n').filter(|l| !l.is_empty()) {
            if line == "{}" {
                sink.send(Message::text("{}")).await.expect("a router that reads");
                continue;
            }
            if line.contains(r#""error""#) {
                let id = line.split([':', ',']).nth(1).and_then(|id| id.parse().ok());
                let temporary = line.contains(r#""temporary":true"#);
                again.push(id.filter(|_| temporary).unwrap_or_else(|| panic!("filling: {line}")));
                sent -= 1;
                continue;
            }
            answered += 1;
        }
    }
}
