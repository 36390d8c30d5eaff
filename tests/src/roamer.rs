//! Somebody who comes back through another router when the socket ends, as the SDKs do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Client, Error};
use crate::expect::within;
use crate::traffic::{Outcome, Sent};

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(3600);

/// Before another try to come back.
const AGAIN: Duration = Duration::from_millis(100);

/// Until somebody is back in every room.
const BACK: Duration = Duration::from_secs(60);

/// The addresses that routers are reached at, as a balancer in front of them knows them.
pub type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// A user with one connection at a time. Ends when dropped.
#[derive(Debug)]
pub struct Roamer {
    name: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Every connection that there was; the last is the one in use.
    connections: Mutex<Vec<Arc<Client>>>,
    /// How many of them are in all their rooms, or were.
    settled: watch::Sender<usize>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.connections.lock().expect("not poisoned")
    }
}

impl Roamer {
    /// Comes in through one of `routers` and joins `rooms`.
    pub async fn come(name: &str, routers: &Addresses, turn: usize, rooms: Vec<String>) -> Self {
        let first = connect(name.to_owned(), routers.clone(), turn).await;
        for room in &rooms {
            first.subscribe(room).await;
        }
        let shared =
            Arc::new(Shared { connections: Mutex::new(vec![Arc::new(first)]), settled: watch::Sender::new(1) });
        let task = tokio::spawn(roam(name.to_owned(), routers.clone(), turn, rooms, shared.clone()));
        Self { name: name.to_owned(), shared, task }
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every connection that there was, in order.
    pub fn connections(&self) -> Vec<Arc<Client>> {
        self.shared.connections().clone()
    }

    /// The connection in use, once it is in all its rooms.
    pub async fn settled(&self) -> Arc<Client> {
        let mut settled = self.shared.settled.subscribe();
        let waiting = async {
            loop {
                let now = *settled.borrow_and_update();
                let (count, last) = {
                    let connections = self.shared.connections();
                    (connections.len(), connections.last().expect("there is one").clone())
                };
                if now == count && !last.is_closed() {
                    return last;
                }
                let _ = tokio::time::timeout(AGAIN, settled.changed()).await;
            }
        };
        within(&format!("{} to be back", self.name), BACK, waiting).await
    }

    /// Publishes, with `pause` after each answer, until `stop` says so. What a connection that ended left unanswered is of
    /// unknown outcome, and not said again.
    pub async fn talk(&self, room: &str, pause: Duration, mut stop: watch::Receiver<bool>) -> Vec<Sent> {
        let mut all = Vec::new();
        while !*stop.borrow() {
            let client = self.settled().await;
            let text = format!("{} {}", client.id(), all.len());
            let outcome = match client.publish(room, text.clone()).await {
                Ok(()) => Outcome::Acked,
                Err(Error { code: 0 | 1000, .. }) => Outcome::Unknown,
                Err(error) => Outcome::Refused(error),
            };
            let data = serde_json::Value::from(text).to_string();
            all.push(Sent { room: room.to_owned(), publisher: client.id(), data, outcome });
            let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await;
        }
        all
    }
}

impl Drop for Roamer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects to the first router that takes it, `turn` says where to begin.
async fn connect(name: String, routers: Addresses, mut turn: usize) -> Client {
    let start = Instant::now();
    loop {
        let router = {
            let routers = routers.lock().expect("not poisoned");
            routers[turn % routers.len()]
        };
        if let Some(client) = Client::try_connect(router, &name).await {
            return client;
        }
        assert!(start.elapsed() < BACK, "no router took {name} for {BACK:?}");
        turn += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn roam(name: String, routers: Addresses, turn: usize, rooms: Vec<String>, shared: Arc<Shared>) {
    let mut turn = turn;
    let mut positions: BTreeMap<String, (String, u64)> = BTreeMap::new();
    loop {
        let client = shared.connections().last().expect("there is one").clone();
        client.closed_for(LONG).await;
        for room in &rooms {
            let log = client.log(room);
            if !log.epoch.is_empty() {
                positions.insert(room.clone(), (log.epoch, log.offset));
            }
        }
        // As SDKs do: not all in the same moment.
        tokio::time::sleep(rand::random_range(Duration::from_millis(1)..AGAIN)).await;
        turn += 1;
        let next = Arc::new(connect(name.clone(), routers.clone(), turn).await);
        shared.connections().push(next.clone());
        for room in &rooms {
            let Some((epoch, offset)) = positions.get(room) else { continue };
            while next.recover(room, epoch, *offset).await.is_err() && !next.is_closed() {
                tokio::time::sleep(AGAIN).await;
            }
        }
        if !next.is_closed() {
            let count = shared.connections().len();
            shared.settled.send_replace(count);
        }
    }
}
