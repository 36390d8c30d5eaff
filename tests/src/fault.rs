//! Faults that are done to a running cluster, each with what shows that it took effect, and its end.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use roomring_proto::v1;
use roomring_proto::v1::eviction::Cause;

use crate::cluster::{Cluster, primary};
use crate::expect::{eventually, evidence};

/// Until a fault shows, or its end does, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What is done. Those of the network need [`crate::Options::net`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to a node; a successor starts in its directory.
    Kill(String),
    /// SIGSTOP to a node until it is evicted, then SIGCONT: it must come back as the process it was.
    Hang(String),
    /// A node hears and is heard by no other node and no router, but has etcd; until it is evicted.
    Isolate(String),
    /// A cut between two processes, or a process and `etcd`, for a time.
    Cut {
        /// One end.
        from: String,
        /// The other end.
        to: String,
        /// Only what goes from the one to the other is held back.
        one_way: bool,
        /// How long.
        lasts: Duration,
    },
    /// SIGKILL to etcd; it starts again on its data after a time.
    EtcdDown(Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(node) => write!(f, "kill {node}"),
            Self::Hang(node) => write!(f, "stop {node} and let it go on"),
            Self::Isolate(node) => write!(f, "cut {node} off from nodes and routers"),
            Self::Cut { from, to, one_way: true, lasts } => {
                write!(f, "hold back what {from} sends to {to} for {lasts:?}")
            }
            Self::Cut { from, to, one_way: false, lasts } => write!(f, "cut {from} and {to} apart for {lasts:?}"),
            Self::EtcdDown(lasts) => write!(f, "etcd down for {lasts:?}"),
        }
    }
}

impl Fault {
    /// Does it, shows that it took effect, ends it, and waits until every slot is where it belongs again.
    ///
    /// # Panics
    /// If it took no effect, or the cluster does not mend.
    pub async fn strike(&self, cluster: &mut Cluster) {
        evidence(format!("fault: {self}"));
        match self {
            Self::Kill(node) => {
                let before = Before::of(cluster, node).await;
                cluster.kill_node(node);
                // Behind a network its port still answers: then it is the silence.
                before.evicted(cluster, &[Cause::Refused, Cause::Silent]).await;
                cluster.start_node(node).await;
            }
            Self::Hang(node) => {
                let before = Before::of(cluster, node).await;
                cluster.node(node).process.signal(Signal::SIGSTOP);
                before.evicted(cluster, &[Cause::Silent]).await;
                cluster.node(node).process.signal(Signal::SIGCONT);
                before.returned(cluster).await;
            }
            Self::Isolate(node) => {
                let before = Before::of(cluster, node).await;
                let others: Vec<String> = cluster.nodes.keys().chain(cluster.routers.keys()).cloned().collect();
                for other in others.iter().filter(|o| *o != node) {
                    cluster.net().cut(node, other);
                }
                before.evicted(cluster, &[Cause::Silent]).await;
                cluster.net().heal();
                before.returned(cluster).await;
            }
            Self::Cut { from, to, one_way, lasts } => {
                let until = Instant::now() + *lasts;
                if *one_way {
                    cluster.net().cut_one_way(from, to);
                } else {
                    cluster.net().cut(from, to);
                    cluster.net().felt(to, from).await;
                }
                cluster.net().felt(from, to).await;
                tokio::time::sleep_until(until.into()).await;
                cluster.net().heal();
            }
            Self::EtcdDown(lasts) => {
                let until = Instant::now() + *lasts;
                cluster.etcd.kill();
                let node = cluster.nodes.keys().next().expect("a node").clone();
                out_of_contact(cluster, &node, *lasts / 2).await;
                tokio::time::sleep_until(until.into()).await;
                cluster.etcd.start().await;
            }
        }
        cluster.settled().await;
    }
}

/// Waits until a node has had no contact with etcd for so long, by its own account.
pub async fn out_of_contact(cluster: &Cluster, node: &str, least: Duration) {
    let age = eventually(&format!("{node} to miss etcd"), LIMIT, async || {
        let age = Duration::from_millis(cluster.node_status(node).await.contact_age_ms);
        (age >= least).then_some(age)
    })
    .await;
    evidence(format!("{node} has had no contact with etcd for {age:?}"));
}

/// How things stood before something was done to a node.
#[derive(Debug)]
pub struct Before {
    node: String,
    incarnation: u64,
    placement: v1::Placement,
    led: Vec<usize>,
    since: Instant,
}

impl Before {
    /// Looks, once the node leads slots: one that was out of reach may still be on its way back, and while its registration
    /// is gone the others count as settled without it.
    pub async fn of(cluster: &Cluster, node: &str) -> Self {
        let leads = |p: &v1::Placement| (0..p.slots.len()).filter(|&s| primary(p, s) == node).collect::<Vec<_>>();
        eventually(&format!("{node} to lead slots"), LIMIT, async || {
            let registered = cluster.registration(node).await.is_some();
            let placement = cluster.placement().await?;
            (registered && !leads(&placement).is_empty()).then_some(())
        })
        .await;
        cluster.settled().await;
        let placement = cluster.placement().await.expect("a placement");
        let incarnation = cluster.registration(node).await.expect("a registration").incarnation;
        let led = leads(&placement);
        assert!(!led.is_empty(), "{node} leads no slot, so its loss would show nothing");
        Self { node: node.to_owned(), incarnation, placement, led, since: Instant::now() }
    }

    /// The placement then.
    pub fn placement(&self) -> &v1::Placement {
        &self.placement
    }

    /// Waits until the process is evicted, and checks why. Gives the placement, and its silence before.
    pub async fn evicted(&self, cluster: &Cluster, causes: &[Cause]) -> v1::Placement {
        let (now, eviction) = eventually(&format!("the eviction of {}", self.node), LIMIT, async || {
            let now = cluster.placement().await?;
            let mut evictions = now.recent.iter().flat_map(|r| &r.evictions);
            let eviction = evictions.find(|e| e.incarnation == self.incarnation)?.clone();
            Some((now, eviction))
        })
        .await;
        assert!(causes.contains(&eviction.cause()), "{causes:?} expected: {eviction:?}");
        let rose = self.led.iter().filter(|&&s| now.slots[s].term > self.placement.slots[s].term).count();
        assert!(rose > 0, "the term of some slot of {} rose", self.node);
        evidence(format!(
            "{} (i{}) was evicted: {:?}, {} ms after it was last heard, seen after {:?}; the term of {rose} of its {} slots rose",
            self.node,
            self.incarnation,
            eviction.cause(),
            eviction.silent_ms(),
            self.since.elapsed(),
            self.led.len(),
        ));
        now
    }

    /// Waits until the same process is a member again.
    pub async fn returned(&self, cluster: &Cluster) {
        eventually(&format!("the return of {}", self.node), LIMIT, async || {
            let now = cluster.placement().await?;
            now.members.iter().any(|m| m.incarnation == self.incarnation && m.active).then_some(())
        })
        .await;
        evidence(format!("{} is a member again, as the process that it was (i{})", self.node, self.incarnation));
    }

    /// Waits until other nodes lead every slot that this one led, without loss.
    pub async fn led_elsewhere(&self, cluster: &Cluster) {
        eventually(&format!("others to lead the slots of {}", self.node), LIMIT, async || {
            let now = cluster.placement().await?;
            self.led.iter().all(|&s| primary(&now, s) != self.node).then_some(())
        })
        .await;
        evidence(format!("others lead the {} slots of {} after {:?}", self.led.len(), self.node, self.since.elapsed()));
    }
}
