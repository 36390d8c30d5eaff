//! Planned moves of real processes, interrupted at each phase by the loss of each participant: nothing is lost, and the move
//! ends. The simulation has the same table with exact phases; here a phase is what etcd or the newcomer shows, and the fault
//! follows at once. All of it: `make interruptions`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roomring_proto::v1;
use roomring_tests::sim::Victim;
use roomring_tests::{Cluster, Follow, Options, Process, Roamers, Weight, evidence, primary};

/// Until a phase is seen.
const SEEN: Duration = Duration::from_secs(60);
/// History that makes a snapshot last: messages of each room, and bytes of each.
const MESSAGES: usize = 40;
const BYTES: usize = 8 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    LearnerAdded,
    Snapshot,
    InSync,
    Switched,
    Removed,
}

const PHASES: [Phase; 5] = [Phase::LearnerAdded, Phase::Snapshot, Phase::InSync, Phase::Switched, Phase::Removed];

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LearnerAdded => "learner added",
            Self::Snapshot => "snapshot under way",
            Self::InSync => "in sync",
            Self::Switched => "switched",
            Self::Removed => "removed",
        })
    }
}

/// A slice for `make test`: each phase and each victim once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_interruptions_of_moves() {
    let some = [
        (Phase::LearnerAdded, Victim::Proposer),
        (Phase::Snapshot, Victim::OldPrimary),
        (Phase::InSync, Victim::NewNode),
        (Phase::Switched, Victim::OldPrimary),
        (Phase::Removed, Victim::OtherReplica),
    ];
    interrupt(&some).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make interruptions"]
async fn every_interruption_of_a_move() {
    let all: Vec<_> = PHASES.into_iter().flat_map(|p| Victim::ALL.map(|v| (p, v))).collect();
    interrupt(&all).await;
}

async fn interrupt(table: &[(Phase, Victim)]) {
    let options = Options {
        weight: Weight::Heavy,
        replication: 2,
        lease_ttl: "20s",
        fence_after: "60s",
        // Every fault here is one more eviction.
        node_flags: vec!["--eviction-window", "1s", "--presence-grace", "3s"],
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    let mut roamers = Roamers::gather("interrupted", &cluster.http(), 24, 24, 3).await;
    roamers.fill(MESSAGES, BYTES).await;
    roamers.talk(Duration::from_millis(50));
    let (mut follow, _news) = Follow::start(&cluster).await;
    let mut newcomer = cluster.nodes.len();
    for (phase, victim) in table {
        newcomer += 1;
        let id = format!("node-{newcomer}");
        let took = one(&mut cluster, &mut follow, *phase, *victim, &id).await;
        evidence(format!("{phase:<20}| {victim:<15}| the move ended {took:?} after the fault, all copies are there"));
        // Three again, of which the oldest goes.
        while cluster.nodes.len() > 3 {
            let number = |id: &String| id.rsplit('-').next().and_then(|n| n.parse::<usize>().ok());
            let oldest = cluster.nodes.keys().min_by_key(|id| number(id)).expect("a node").clone();
            cluster.stop_node(&oldest).await;
        }
        cluster.settled().await;
    }
    roamers.nothing_lost().await;
}

/// A node joins; at the phase the victim is struck; in the end all is where the ring wants it. Gives how long that took.
async fn one(cluster: &mut Cluster, follow: &mut Follow, phase: Phase, victim: Victim, id: &str) -> Duration {
    let before = follow.latest();
    let starting = cluster.spawn_node(id);
    let now = reach(cluster, follow, phase, id, starting).await;
    let slot = (0..now.slots.len()).find(|&s| names(&now, s).any(|n| n == id)).expect("a slot that moves");
    let old = primary(&before, slot).to_owned();
    let struck = Instant::now();
    match victim {
        Victim::OldPrimary => cluster.kill_node(&old),
        Victim::NewNode => cluster.kill_node(id),
        Victim::OtherReplica => {
            let other = names(&before, slot).find(|n| *n != old).expect("two copies").to_owned();
            cluster.kill_node(&other);
        }
        Victim::Proposer => {
            let by = now.recent.last().expect("a record of the last write").by.clone();
            cluster.kill_node(&by);
        }
        Victim::Router => {
            let address = cluster.kill_router("router-1");
            cluster.start_router_at("router-1", &address.to_string()).await;
        }
        Victim::Etcd => {
            cluster.etcd.kill();
            cluster.etcd.start().await;
            evidence("etcd was killed and started again");
        }
    }
    cluster.settled().await;
    struck.elapsed()
}

/// Those with a seat in a slot, learners too.
fn names(placement: &v1::Placement, slot: usize) -> impl Iterator<Item = &str> {
    let slot = &placement.slots[slot];
    slot.in_sync.iter().chain(&slot.learners).map(|seat| placement.members[seat.member as usize].node_id.as_str())
}

/// Waits for the phase of some slot's move to `id`, and gives the placement that shows it.
async fn reach(
    cluster: &mut Cluster,
    follow: &mut Follow,
    phase: Phase,
    id: &str,
    starting: Process,
) -> Arc<v1::Placement> {
    let name = |p: &v1::Placement, seat: &v1::Seat| p.members[seat.member as usize].node_id == id;
    let before = follow.latest();
    let shows = |p: &v1::Placement| match phase {
        Phase::LearnerAdded | Phase::Snapshot => p.slots.iter().any(|s| s.learners.iter().any(|seat| name(p, seat))),
        Phase::InSync => p.slots.iter().any(|s| s.in_sync.iter().any(|seat| name(p, seat))),
        Phase::Switched => (0..p.slots.len()).any(|s| primary(p, s) == id),
        Phase::Removed => (0..p.slots.len()).any(|s| {
            let gone = |n: &str| names(p, s).all(|now| now != n);
            names(p, s).any(|n| n == id) && names(&before, s).any(gone)
        }),
    };
    let seen = tokio::time::timeout(SEEN, follow.until(&format!("{phase} of {id}"), shows)).await.expect("in time");
    // Its ready line came before it was a member.
    cluster.adopt_node(id, starting).await;
    if phase == Phase::Snapshot {
        let begin = Instant::now();
        loop {
            let status = cluster.node_status(id).await;
            let come = status.slots.iter().filter(|s| s.rooms > 0).count();
            if come > 0 {
                evidence(format!("{come} of {} snapshots have come to {id}", status.slots.len()));
                return follow.latest();
            }
            assert!(begin.elapsed() < SEEN, "no snapshot came to {id}");
        }
    }
    evidence(format!("{phase}: seen in placement {}", seen.version));
    seen
}
