//! Whole control planes: registries, registrations and coordinators of several nodes on one etcd. The nodes hold no rooms;
//! their slots say at once that a learner is ready.
#![allow(clippy::unwrap_used)] // A test may.

mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use roomring_control::embedded_etcd::EmbeddedEtcd;
use roomring_control::placement::Placement;
use roomring_control::ring::{Ring, RingNode};
use roomring_control::view::ClusterView;
use roomring_proto::keys::Keys;
use roomring_proto::{Incarnation, NodeId, Version};
use tokio_util::sync::{CancellationToken, DropGuard};

use node::{Node, SLOTS, World, id, soon};

async fn world() -> (World, DropGuard) {
    let cancel = CancellationToken::new();
    let etcd = EmbeddedEtcd::start("127.0.0.1:0".parse().unwrap(), cancel.clone()).await.unwrap();
    (World::new(etcd.url()), cancel.drop_guard())
}

/// Every slot is whole, on a registered process, where the ring wishes.
fn settled(view: &ClusterView, nodes: &BTreeSet<NodeId>) -> bool {
    let Some(placement) = &view.placement else { return false };
    let members: BTreeSet<NodeId> = placement.members.values().filter(|m| m.active).map(|m| m.node.clone()).collect();
    let registered: BTreeSet<Incarnation> = view.nodes.values().map(|n| n.incarnation).collect();
    if members != *nodes || !placement.members.keys().eq(&registered) {
        return false;
    }
    let ring_nodes =
        nodes.iter().map(|n| (n.clone(), RingNode { zone: String::new(), weight: 100 })).collect::<BTreeMap<_, _>>();
    let intents = &view.intents;
    let wish = Ring::new(placement.ring, &ring_nodes).wish(SLOTS, &intents.pins, &intents.overridden(), 1);
    let name = |i: Incarnation| placement.members[&i].node.clone();
    placement
        .slots
        .iter()
        .zip(wish)
        .all(|(slot, wish)| slot.learners.is_empty() && slot.in_sync.iter().map(|s| name(s.incarnation)).eq(wish))
}

async fn until_settled(on: &Node, nodes: &[&str]) -> Placement {
    let names = nodes.iter().map(|n| id(n)).collect();
    let mut view = on.registry.view();
    let what = format!("slots settled on {nodes:?}");
    let view = soon(&what, view.wait_for(|v| settled(v, &names))).await.unwrap().clone();
    Placement::clone(view.placement.as_ref().unwrap())
}

fn primaries(placement: &Placement) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    for slot in &placement.slots {
        *counts.entry(placement.members[&slot.primary.incarnation].node.clone()).or_default() += 1;
    }
    counts
}

/// How many slots are in which generation.
fn generations(placement: &Placement) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for slot in &placement.slots {
        *counts.entry(slot.generation.0).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_cluster_forms_grows_and_shrinks_and_then_rests() {
    let (world, _etcd) = world().await;
    let mut nodes = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        nodes.push(world.start(name).await);
    }
    let formed = until_settled(&nodes[0], &["node-1", "node-2", "node-3"]).await;
    println!("formed as {}: {:?}", formed.version, primaries(&formed));
    assert_eq!(formed.version, Version(1), "nodes started together are all in the first placement");
    assert!(formed.slots.iter().all(|s| s.generation.0 == 1));

    nodes.push(world.start("node-4").await);
    let grown = until_settled(&nodes[0], &["node-1", "node-2", "node-3", "node-4"]).await;
    let moved = formed.slots.iter().zip(&grown.slots).filter(|(a, b)| a.primary != b.primary).count();
    println!("grown by {}: {moved} slots moved, {:?}", grown.version, primaries(&grown));
    assert!(moved > 0 && moved <= (SLOTS as usize * 13).div_ceil(40), "{moved} moved, a share is {}", SLOTS / 4);
    assert!(grown.slots.iter().all(|s| s.generation.0 == 1), "moved, not recreated");
    assert!(grown.version.0 < 20, "few writes, several changes each: {}", grown.version);

    let drained = nodes.remove(1);
    drained.registration.set_draining(true).await.unwrap();
    let names = ["node-1", "node-3", "node-4"];
    let mut view = nodes[0].registry.view();
    let gone = drained.registration.incarnation();
    let empty = |v: &ClusterView| v.placement.as_ref().unwrap().slots.iter().all(|s| s.seat_of(gone).is_none());
    soon("the draining node to be empty", view.wait_for(empty)).await.unwrap();
    drained.stop().await;
    let shrunk = until_settled(&nodes[0], &names).await;
    println!("shrunk by {}: {:?}", shrunk.version, primaries(&shrunk));
    assert!(shrunk.slots.iter().all(|s| s.generation.0 == 1), "drained, not recreated");

    // Nobody writes any more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for node in &nodes {
        assert_eq!(node.registry.view().borrow().placement.as_ref().unwrap().version, shrunk.version);
    }
}

#[tokio::test]
async fn slots_of_a_dead_node_are_recreated_no_earlier_than_it_may_have_served() {
    let (world, _etcd) = world().await;
    let mut nodes = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        nodes.push(world.start(name).await);
    }
    let before = until_settled(&nodes[0], &["node-1", "node-2", "node-3"]).await;
    // Every placement since, with the time it was seen.
    let mut views = nodes[0].registry.view();
    let watching = tokio::spawn(async move {
        let mut first_recreation = None;
        while first_recreation.is_none() && views.changed().await.is_ok() {
            let view = views.borrow_and_update().clone();
            let recreated = view.placement.as_ref().is_some_and(|p| p.slots.iter().any(|s| s.generation.0 > 1));
            first_recreation = recreated.then(Instant::now);
        }
        first_recreation
    });
    let dead = nodes.pop().unwrap();
    let lost = primaries(&before)[&id("node-3")];
    let contact = dead.crash();
    let crashed = Instant::now();
    let after = until_settled(&nodes[0], &["node-1", "node-2"]).await;
    let recreated_at = soon("the recreation", watching).await.unwrap().unwrap();
    let recreated = after.slots.iter().filter(|s| s.generation.0 == 2).count();
    println!(
        "{lost} slots lost, {recreated} recreated {:?} after the crash, {:?} after its last contact",
        recreated_at - crashed,
        recreated_at - crashed + contact
    );
    assert_eq!(recreated, lost, "what was elsewhere is untouched");
    assert!(recreated_at - crashed + contact > world.fence_after, "no earlier than it may have served");
    for (old, new) in before.slots.iter().zip(&after.slots) {
        assert!(new.term >= old.term && (new.generation == old.generation || new.term > old.term));
    }
}

#[tokio::test]
async fn a_restarted_node_is_a_new_process_that_gets_its_slots_empty() {
    let (world, _etcd) = world().await;
    let mut nodes = vec![world.start("node-1").await, world.start("node-2").await];
    let before = until_settled(&nodes[0], &["node-1", "node-2"]).await;
    let dead = nodes.pop().unwrap();
    let old = dead.registration.incarnation();
    dead.crash();
    let restarted = Instant::now();
    nodes.push(world.start("node-2").await);
    // Until then what was settled before looks the same by name.
    let mut view = nodes[0].registry.view();
    let replaced = |v: &ClusterView| v.placement.as_ref().is_some_and(|p| !p.members.contains_key(&old));
    soon("the end of the old process", view.wait_for(replaced)).await.unwrap();
    let after = until_settled(&nodes[0], &["node-1", "node-2"]).await;
    println!("{} -> {}, settled after {:?}", before.version, after.version, restarted.elapsed());
    let lost = primaries(&before)[&id("node-2")];
    assert_eq!(generations(&after), BTreeMap::from([(1, SLOTS as usize - lost), (2, lost)]));
}

#[tokio::test]
async fn all_nodes_stopped_and_started_again_come_back_by_themselves() {
    let (world, _etcd) = world().await;
    let mut nodes = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        nodes.push(world.start(name).await);
    }
    let before = until_settled(&nodes[0], &["node-1", "node-2", "node-3"]).await;
    for node in nodes.drain(..) {
        node.crash();
    }
    for name in ["node-1", "node-2", "node-3"] {
        nodes.push(world.start(name).await);
    }
    let after = until_settled(&nodes[2], &["node-1", "node-2", "node-3"]).await;
    assert_eq!(after.uid, before.uid);
    println!("{} -> {}: {:?}", before.version, after.version, generations(&after));
    assert_eq!(generations(&after), BTreeMap::from([(2, SLOTS as usize)]), "all were lost, and said to be");
}

#[tokio::test]
async fn lost_data_in_etcd_begins_a_new_history() {
    let (world, _etcd) = world().await;
    let nodes = [world.start("node-1").await, world.start("node-2").await];
    let before = until_settled(&nodes[0], &["node-1", "node-2"]).await;
    let old = nodes.each_ref().map(|n| n.registration.incarnation());
    world.delete_all(&Keys::new(&id("test"))).await;
    let mut view = nodes[0].registry.view();
    let new_history = |v: &ClusterView| v.placement.as_ref().is_some_and(|p| p.uid != before.uid);
    soon("a new uid", view.wait_for(new_history)).await.unwrap();
    for (node, old) in nodes.iter().zip(old) {
        let mut state = node.registration.state();
        soon("a new incarnation", state.wait_for(|s| s.incarnation > old)).await.unwrap();
    }
    let after = until_settled(&nodes[1], &["node-1", "node-2"]).await;
    assert_ne!(after.uid, before.uid);
    assert_eq!(after.settings, before.settings);
    assert!(!nodes[1].registry.view().borrow().etcd_regressed);
}
