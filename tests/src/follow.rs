//! Follows the placement in etcd, as the processes do, and notes when what moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, WatchOptions};
use prost::Message;
use roomring_proto::{NodeId, v1};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, primary};

/// Until a change of membership has settled.
const SETTLE: Duration = Duration::from_secs(120);

/// Placements on their way to whoever publishes where slots move.
const NEWS: usize = 1024;

/// Before another try to reach etcd.
const AGAIN: Duration = Duration::from_millis(50);

/// For etcd to take a watch.
const ANSWER: Duration = Duration::from_secs(5);

/// A slot whose primary changed.
#[derive(Debug, Clone, Copy)]
pub struct Switch {
    /// Which.
    pub slot: usize,
    /// When the write was seen here.
    pub at: Instant,
}

/// Follows until dropped.
#[derive(Debug)]
pub struct Follow {
    latest: watch::Receiver<Arc<v1::Placement>>,
    task: JoinHandle<()>,
}

impl Follow {
    /// Begins with the placement that there is. Slots that switch are told to the receiver, those of one write together.
    pub async fn start(cluster: &Cluster) -> (Self, mpsc::Receiver<Vec<Switch>>) {
        let (key, first) = cluster.placement_key().await.expect("a placement");
        let first = Arc::new(first);
        let (latest_to, latest) = watch::channel(first.clone());
        let (news_to, news) = mpsc::channel(NEWS);
        let url = cluster.etcd.url().to_owned();
        let access = cluster.etcd.let_in(ConnectOptions::new());
        let task = tokio::spawn(async move {
            let mut known = first;
            let mut from = 1;
            loop {
                // Also after etcd was restarted.
                let Ok(Ok(mut stream)) = timeout(ANSWER, watch_from(&url, &access, &key, from)).await else {
                    sleep(AGAIN).await;
                    continue;
                };
                while let Ok(Some(response)) = stream.message().await {
                    let at = Instant::now();
                    for kv in response.events().iter().filter_map(|e| e.kv()) {
                        from = kv.mod_revision() + 1;
                        let next = v1::Placement::decode(kv.value()).expect("a placement in etcd");
                        if next.version <= known.version {
                            continue;
                        }
                        let next = Arc::new(next);
                        let slots = 0..next.slots.len();
                        let switches: Vec<Switch> = slots
                            .filter(|&s| primary(&known, s) != primary(&next, s))
                            .map(|slot| Switch { slot, at })
                            .collect();
                        known = next;
                        latest_to.send_replace(known.clone());
                        if !switches.is_empty() {
                            // Nobody may be interested.
                            let _ = news_to.try_send(switches);
                        }
                    }
                }
            }
        });
        (Self { latest, task }, news)
    }

    /// The placement last seen.
    pub fn latest(&self) -> Arc<v1::Placement> {
        self.latest.borrow().clone()
    }

    /// Waits for a placement that fits, and gives it.
    ///
    /// # Panics
    /// If none comes in time, naming `what`.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&v1::Placement) -> bool) -> Arc<v1::Placement> {
        let waited = timeout(SETTLE, self.latest.wait_for(|p| fits(p))).await;
        waited.unwrap_or_else(|_| panic!("waited {SETTLE:?} for: {what}")).expect("the follower runs").clone()
    }

    /// Waits until every slot has just the seats that the ring of the nodes `ids` wants.
    pub async fn settled(&mut self, wish: &[Vec<NodeId>]) -> Arc<v1::Placement> {
        self.until("the slots to settle", |p| is_settled(p, wish)).await
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch_from(
    url: &str,
    access: &ConnectOptions,
    key: &str,
    revision: i64,
) -> Result<etcd_client::WatchStream, etcd_client::Error> {
    let mut client = Client::connect([url], Some(access.clone())).await?;
    // What is older than the placement known is skipped by the reader. Much history at once is more than one message may hold.
    client.watch(key, Some(WatchOptions::new().with_start_revision(revision).with_fragment())).await
}

fn is_settled(placement: &v1::Placement, wish: &[Vec<NodeId>]) -> bool {
    let name = |seat: &v1::Seat| placement.members[seat.member as usize].node_id.as_str();
    placement.slots.iter().zip(wish).enumerate().all(|(number, (slot, wanted))| {
        slot.learners.is_empty()
            && slot.in_sync.len() == wanted.len()
            && slot.in_sync.iter().all(|seat| wanted.iter().any(|w| w.as_str() == name(seat)))
            && primary(placement, number) == wanted[0].as_str()
    })
}

/// How many slots each node is primary of.
pub fn primaries(placement: &v1::Placement) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for slot in 0..placement.slots.len() {
        *counts.entry(primary(placement, slot).to_owned()).or_default() += 1;
    }
    counts
}

/// Whether `node` has a seat in some slot.
pub fn has_seats(placement: &v1::Placement, node: &str) -> bool {
    let name = |seat: &v1::Seat| placement.members[seat.member as usize].node_id.as_str();
    placement.slots.iter().any(|s| s.in_sync.iter().chain(&s.learners).any(|seat| name(seat) == node))
}
