//! What others may have put into etcd, and data that etcd lost.

use std::sync::Arc;
use std::time::Duration;

use std::collections::BTreeMap;

use roomring_control::placement::FORMAT;
use roomring_control::registry::{Proposal, Proposed};
use roomring_proto::{Incarnation, Version};

use crate::support::{Cluster, id, placement, seen};

pub(crate) async fn bad_values_are_skipped(url: &str) {
    let cluster = Cluster::new(url, "bad").await;
    let nodes = cluster.keys.nodes();
    let garbage = || vec![0xff, 0x01, 0x80];
    // Some are there before, some come while it watches.
    cluster.put(format!("{nodes}garbage"), garbage()).await;
    let registry = cluster.registry().await;
    for key in ["nodes/bad id", "nodes/", "routers/garbage", "intents", "placement", "unheard-of"] {
        cluster.put(format!("{}{key}", cluster.keys.prefix()), garbage()).await;
    }
    let registration = cluster.register(&registry, "node-1").await;
    let view = seen(&registry, "the good one", |v| v.nodes.contains_key(&id("node-1"))).await;
    assert_eq!(view.nodes.len(), 1);
    assert!(view.routers.is_empty() && view.placement.is_none());
    assert_eq!(view.node_revisions.len(), 2, "an unreadable key is present all the same");
    // The view stays whole: a check does not take what was skipped for a gap.
    let unbroken = view.unbroken_since;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(registry.view().borrow().unbroken_since, unbroken);
    // What becomes readable counts again.
    let (good, _) = cluster.get(cluster.keys.node(&id("node-1"))).await.unwrap();
    cluster.put(format!("{nodes}garbage"), good).await;
    seen(&registry, "the mended one", |v| v.nodes.contains_key(&id("garbage"))).await;
    drop(registration);
}

pub(crate) async fn contact_waits_for_a_placement_that_can_be_read(url: &str) {
    let cluster = Cluster::new(url, "unreadable").await;
    let registry = cluster.registry().await;
    let _registration = cluster.register(&registry, "node-1").await;
    let known = placement(7, 1, "node-1", Incarnation(1));
    let proposal = Proposal { base_revision: 0, placement: known.clone(), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&proposal).await, Proposed::Won);
    let view = registry.view().borrow().clone();
    seen(&registry, "contact", |v| v.contact > view.contact).await;

    let mut newer = Arc::unwrap_or_clone(known.clone());
    newer.version = Version(2);
    newer.format = FORMAT + 1;
    cluster.put(cluster.keys.placement(), newer.encode().to_vec()).await;
    // A read under way may still count; later ones saw what this release can't read.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let view = registry.view().borrow().clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later = registry.view().borrow().clone();
    assert_eq!(later.contact, view.contact, "no contact on a placement that is not known");
    assert_eq!(later.placement, Some(known), "the last one read is still there");
    // It does not write over it either.
    let mut mine = newer.clone();
    mine.format = FORMAT;
    let base_revision = later.placement_revision;
    let proposal = Proposal { base_revision, placement: Arc::new(mine), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&proposal).await, Proposed::Lost);

    newer.format = FORMAT;
    newer.version = Version(3);
    cluster.put(cluster.keys.placement(), newer.encode().to_vec()).await;
    seen(&registry, "contact again", |v| v.contact > later.contact && v.placement.as_deref() == Some(&newer)).await;
}

pub(crate) async fn a_deleted_placement_is_a_regress_until_a_new_uid(url: &str) {
    let cluster = Cluster::new(url, "deleted").await;
    let registry = cluster.registry().await;
    let registration = cluster.register(&registry, "node-1").await;
    let first = registration.incarnation();
    let known = placement(7, 5, "node-1", first);
    let proposal = Proposal { base_revision: 0, placement: known.clone(), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&proposal).await, Proposed::Won);
    assert!(!registry.view().borrow().etcd_regressed);

    cluster.delete(cluster.keys.placement()).await;
    let view = seen(&registry, "the regress", |v| v.etcd_regressed).await;
    assert_eq!((view.placement_revision, view.placement.as_ref()), (0, Some(&known)));
    // An older one put back is still one.
    cluster.put(cluster.keys.placement(), placement(7, 4, "node-1", first).encode().to_vec()).await;
    let view = seen(&registry, "the old one", |v| v.placement_revision != 0).await;
    assert!(view.etcd_regressed);
    assert_eq!(view.placement.as_ref(), Some(&known));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later = registry.view().borrow().clone();
    assert!(later.etcd_regressed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(registry.view().borrow().contact, later.contact, "no contact while etcd has another placement");

    let successor = placement(8, 6, "node-1", first);
    let base_revision = later.placement_revision;
    let proposal = Proposal { base_revision, placement: successor.clone(), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&proposal).await, Proposed::Won);
    let view = seen(&registry, "contact again", |v| v.contact > later.contact && !v.etcd_regressed).await;
    assert_eq!(view.placement, Some(successor));
    // With the new history comes a new incarnation.
    let mut state = registration.state();
    crate::support::soon("the new incarnation", state.wait_for(|s| s.incarnation > first)).await.unwrap();
    let now = registration.incarnation();
    seen(&registry, "it to be registered", |v| v.nodes.get(&id("node-1")).is_some_and(|n| n.incarnation == now)).await;
}
