//! Nodes that die, and how long their rooms take to answer again.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use roomring_proto::v1;
use roomring_tests::{Cluster, Times, eventually, holder};

use crate::audience::{Audience, Failed, persist};

/// Until a process that was killed is gone.
const GONE: Duration = Duration::from_secs(20);

/// How a node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// The process ends.
    Kill,
    /// The process hangs.
    Stop,
    /// The process is cut off from all others, and from etcd.
    Cut,
    /// The process ends, within the window of another death: half of the members of then are gone, and its lease decides.
    Second,
}

/// What came of the deaths of one mode.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    /// From the death to the first acknowledgement, one a room.
    pub(crate) rooms: Times,
    /// The slowest room of each death.
    pub(crate) slowest: Times,
    /// From the last word of the dead to its eviction, as the evictor says.
    pub(crate) silence: Times,
    /// Publishes to the rooms of the dead that failed at first.
    pub(crate) failed: Failed,
    /// Deaths.
    pub(crate) count: usize,
}

impl Mode {
    /// Lets a node die in this way.
    fn strike(self, cluster: &Cluster, victim: &str) {
        match self {
            Self::Kill | Self::Second => cluster.node(victim).process.signal(Signal::SIGKILL),
            Self::Stop => cluster.node(victim).process.signal(Signal::SIGSTOP),
            Self::Cut => {
                let others = cluster.nodes.keys().chain(cluster.routers.keys()).map(String::as_str);
                others.chain(["etcd"]).filter(|o| *o != victim).for_each(|other| cluster.net().cut(victim, other));
            }
        }
    }
}

/// One node after the other dies, and a new one takes its place; each death comes at full redundancy, `window` after the last
/// eviction.
pub(crate) async fn kill(
    cluster: &mut Cluster,
    audience: &Audience,
    mode: Mode,
    kills: usize,
    window: Duration,
    newcomer: &mut usize,
) -> Deaths {
    let mut deaths = Deaths::default();
    for n in 0..kills {
        cluster.settled().await;
        if mode == Mode::Second {
            let first = oldest(cluster);
            let incarnation = cluster.registration(&first).await.expect("a registration").incarnation;
            cluster.kill_node(&first);
            eviction(cluster, incarnation).await;
        }
        // With every copy that can be there: of a first death nothing is missing any more.
        let placement = cluster.settled().await;
        let victim = oldest(cluster);
        let incarnation = cluster.registration(&victim).await.expect("a registration").incarnation;
        let speakers: Vec<_> =
            audience.speakers().into_iter().filter(|(_, room)| holder(&placement, room) == victim).collect();
        assert!(!speakers.is_empty(), "{victim} holds no room");
        let died = Instant::now();
        mode.strike(cluster, &victim);
        let asked = speakers.iter().map(|(client, room)| {
            let (client, room) = (client.clone(), room.clone());
            let task = tokio::spawn(async move {
                let failed = persist(&client, &room, "after").await;
                (died.elapsed(), failed)
            });
            async { task.await.expect("has not panicked") }
        });
        let answers = join_all(asked.collect::<Vec<_>>()).await;
        let taken: Times = answers.iter().map(|(took, _)| *took).collect();
        for (took, failed) in &answers {
            deaths.failed.refused += failed.refused;
            deaths.failed.unknown += failed.unknown;
            deaths.rooms.extend([*took]);
        }
        deaths.slowest.extend([taken.percentile(100.0)]);
        let eviction = eviction(cluster, incarnation).await;
        deaths.silence.extend(eviction.silent_ms.map(Duration::from_millis));
        println!(
            "{mode:?} {n}: {victim}, {} rooms: p50 p99 max{} ms; {:?} after {} ms of silence",
            answers.len(),
            taken.columns(),
            eviction.cause(),
            eviction.silent_ms(),
        );
        let mut dead = cluster.nodes.remove(&victim).expect("runs");
        if matches!(mode, Mode::Stop | Mode::Cut) {
            dead.process.signal(Signal::SIGKILL);
        }
        dead.process.exit(GONE).await;
        if mode == Mode::Cut {
            cluster.net().heal();
        }
        for _ in 0..if mode == Mode::Second { 2 } else { 1 } {
            *newcomer += 1;
            cluster.start_node(&format!("node-{newcomer}")).await;
        }
        cluster.settled().await;
        tokio::time::sleep(window).await;
        deaths.count += 1;
    }
    deaths
}

async fn eviction(cluster: &Cluster, incarnation: u64) -> v1::Eviction {
    eventually("the eviction", GONE, async || {
        let now = cluster.placement().await?;
        now.recent.iter().flat_map(|r| &r.evictions).find(|e| e.incarnation == incarnation).cloned()
    })
    .await
}

/// Names rise.
fn oldest(cluster: &Cluster) -> String {
    cluster.nodes.keys().min_by_key(|id| number(id)).expect("a node").clone()
}

fn number(id: &str) -> usize {
    id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}
