//! Many clients in many rooms, spread evenly over rooms and routers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::checker::Recording;
use crate::client::Client;
use crate::expect::eventually;
use crate::oracle::Oracle;
use crate::traffic::Sent;

/// Until members that were sent out of a room are back in it.
const BACK: Duration = Duration::from_secs(60);

/// Clients that come at the same time: a router takes far more, two cores with everything on them do not.
const AT_ONCE: usize = 32;

/// The clients, and who is where.
#[derive(Debug)]
pub struct Crowd {
    clients: Vec<Arc<Client>>,
    rooms: BTreeMap<String, Vec<Arc<Client>>>,
}

impl Crowd {
    /// `rooms` rooms `NAME-0` ... of `members` members each; each client is in `each` rooms. Members of a room sit on
    /// all routers. Returns when everybody is in.
    pub async fn gather(name: &str, routers: &[SocketAddr], rooms: usize, members: usize, each: usize) -> Self {
        assert_eq!(rooms % each, 0, "clients are in groups of rooms");
        let groups = rooms / each;
        let coming = (0..groups * members).map(|n| {
            let (group, seat) = (n % groups, n / groups);
            let router = routers[seat % routers.len()];
            let names: Vec<String> = (0..each).map(|k| format!("{name}-{}", group * each + k)).collect();
            async move {
                let client = Client::connect(router, &format!("user-{n}")).await;
                for room in &names {
                    client.subscribe(room).await;
                }
                (Arc::new(client), names)
            }
        });
        let came: Vec<_> = stream::iter(coming).buffer_unordered(AT_ONCE).collect().await;
        let mut crowd = Self { clients: Vec::new(), rooms: BTreeMap::new() };
        for (client, names) in came {
            for room in names {
                crowd.rooms.entry(room).or_default().push(client.clone());
            }
            crowd.clients.push(client);
        }
        // In a stable order, so that the same members speak in each run.
        crowd.rooms.values_mut().for_each(|members| members.sort_by(|a, b| a.name().cmp(b.name())));
        crowd
    }

    /// Everybody.
    pub fn clients(&self) -> &[Arc<Client>] {
        &self.clients
    }

    /// The rooms' names.
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.rooms.keys().map(String::as_str)
    }

    /// Who is in a room.
    pub fn members(&self, room: &str) -> &[Arc<Client>] {
        &self.rooms[room]
    }

    /// The first `count` members of each room, with the room.
    pub fn speakers(&self, count: usize) -> Vec<(Arc<Client>, String)> {
        let pairs = self.rooms.iter().flat_map(|(room, m)| m.iter().take(count).map(|c| (c.clone(), room.clone())));
        pairs.collect()
    }

    /// Waits until every member of every room is in and has everything up to the room's top.
    pub async fn catch_up(&self) {
        for (room, members) in &self.rooms {
            // Refused while the member is on its way back in.
            let what = format!("the position of {room}");
            let top = eventually(&what, BACK, async || members[0].history(room, json!({"limit": 0})).await.ok()).await;
            let (epoch, offset) = (top["epoch"].as_str().unwrap_or_default(), top["offset"].as_u64().unwrap_or(0));
            for member in members {
                let there =
                    |log: &crate::RoomLog| (log.subscribed && log.epoch == epoch && log.offset >= offset).then_some(());
                member.wait_log(room, &format!("position {epoch}/{offset}"), there).await;
            }
        }
    }

    /// Checks that every connection is open still, and that no server said anything it never may.
    pub fn check_open(&self) {
        for client in &self.clients {
            assert_eq!(client.now_closed(), None, "the connection of {} was to stay open", client.name());
            assert_eq!(client.faults(), Vec::<String>::new(), "what {} was told", client.name());
        }
    }

    /// What everybody did and was told.
    pub fn recording(&self) -> Recording {
        Recording::gather(self.clients.iter().map(|c| c.notes()))
    }

    /// Everything known about a room.
    pub fn oracle(&self, room: &str, sent: &[Sent]) -> Oracle {
        let recording = Recording::gather(self.members(room).iter().map(|m| m.notes())).room(room);
        let oracle = Oracle::new(room, recording);
        oracle.expect_sent(sent);
        oracle
    }

    /// Says `text` in each room and waits until every member heard it.
    pub async fn roll_call(&self, text: &str) {
        for (room, members) in &self.rooms {
            let said = members[0].publish(room, text).await;
            said.unwrap_or_else(|e| panic!("{text:?} in {room}: {e}"));
            for member in members {
                member.wait_message(room, text).await;
            }
        }
    }
}
