//! A real etcd crashes, comes back, comes late, or comes back without its data.

use std::collections::BTreeMap;
use std::time::Duration;

use roomring_control::registry::{ConnectError, EtcdAccess, EtcdConfig, Proposal, Proposed, Registry};
use tokio_util::sync::CancellationToken;

use crate::server::RealEtcd;
use crate::support::{Cluster, TTL, id, placement, seen, soon};

#[tokio::test]
async fn a_restarted_etcd_finds_everything_as_it_was() {
    let mut etcd = RealEtcd::started().await;
    let cluster = Cluster::new(etcd.url(), "restarted").await;
    let registry = cluster.registry().await;
    let registration = cluster.register(&registry, "node-1").await;
    let known = placement(7, 1, "node-1", registration.incarnation());
    let proposal = Proposal { base_revision: 0, placement: known.clone(), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&proposal).await, Proposed::Won);
    let before = seen(&registry, "contact", |v| v.contact.is_some()).await;

    let pid = etcd.kill();
    seen(&registry, "the outage to be noticed", |v| v.unbroken_since.is_none()).await;
    println!("etcd {pid} is dead, and noticed");
    let during = registry.view().borrow().clone();
    assert_eq!(during.placement, Some(known.clone()), "what was known stays");
    assert!(during.nodes.contains_key(&id("node-1")));
    tokio::time::sleep(TTL).await;
    etcd.start().await;
    let after = seen(&registry, "contact", |v| v.contact > during.contact && v.unbroken_since.is_some()).await;
    assert!(after.unbroken_since > before.unbroken_since);
    assert_eq!(after.placement, Some(known));
    assert!(!after.etcd_regressed);
    assert_eq!(registration.incarnation(), before.nodes[&id("node-1")].incarnation);
    // The watch goes on as well.
    let second = cluster.register(&registry, "node-2").await;
    seen(&registry, "node-2", |v| v.nodes.contains_key(&id("node-2"))).await;
    drop(second);
}

#[tokio::test]
async fn a_wiped_etcd_is_told_from_a_restarted_one() {
    let mut etcd = RealEtcd::started().await;
    let cluster = Cluster::new(etcd.url(), "wiped").await;
    let registry = cluster.registry().await;
    let registration = cluster.register(&registry, "node-1").await;
    let first = registration.incarnation();
    let known = placement(7, 5, "node-1", first);
    let proposal = Proposal { base_revision: 0, placement: known.clone(), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&proposal).await, Proposed::Won);
    let before = seen(&registry, "contact", |v| v.contact.is_some()).await;

    let pid = etcd.kill();
    etcd.wipe();
    etcd.start().await;
    let view = seen(&registry, "the regress", |v| v.etcd_regressed).await;
    println!("etcd {pid} died and lost everything; placement at revision {} before, now", before.placement_revision);
    assert_eq!((view.placement_revision, view.placement.as_ref()), (0, Some(&known)));
    assert_eq!(cluster.get(cluster.keys.placement()).await, None, "it is gone indeed");
    // It registers again as who it was, so that it may write the successor.
    seen(&registry, "its own key", |v| v.nodes.get(&id("node-1")).is_some_and(|n| n.incarnation == first)).await;
    let successor = placement(8, 6, "node-1", first);
    let proposal = Proposal { base_revision: 0, placement: successor.clone(), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&proposal).await, Proposed::Won);
    let view = seen(&registry, "contact", |v| v.contact > before.contact && !v.etcd_regressed).await;
    assert_eq!(view.placement, Some(successor));
    let mut state = registration.state();
    soon("the new incarnation", state.wait_for(|s| s.incarnation != first)).await.unwrap();
}

#[tokio::test]
async fn an_etcd_that_comes_late_is_waited_for() {
    let mut etcd = RealEtcd::reserve();
    let config = |url: &str| EtcdConfig {
        urls: vec![url.to_owned()],
        access: EtcdAccess::default(),
        cluster: id("late"),
        lease_ttl: TTL,
    };
    let connecting = tokio::spawn(Registry::connect(config(etcd.url()), CancellationToken::new()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!connecting.is_finished());
    etcd.start().await;
    let registry = soon("the connection", connecting).await.unwrap().unwrap();
    assert!(registry.view().borrow().unbroken_since.is_some());

    // A second server that is dead does not hinder either, and waiting can be stopped.
    let dead = RealEtcd::reserve();
    let mut two = config(dead.url());
    two.urls.push(etcd.url().to_owned());
    soon("the connection", Registry::connect(two, CancellationToken::new())).await.unwrap();
    let stop = CancellationToken::new();
    let connecting = tokio::spawn(Registry::connect(config(dead.url()), stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.cancel();
    assert!(matches!(soon("the stop", connecting).await.unwrap(), Err(ConnectError::Stopped)));
    let none =
        EtcdConfig { urls: vec!["no url".into()], access: EtcdAccess::default(), cluster: id("late"), lease_ttl: TTL };
    let error = soon("the refusal", Registry::connect(none, CancellationToken::new())).await.unwrap_err();
    assert!(error.to_string().contains("no url"), "{error}");
}
