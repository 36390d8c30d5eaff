//! Who holds a node's or router's key.

use std::time::{Duration, Instant};

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use prost::Message;
use roomring_control::registry::{RegisterError, RouterSpec};
use roomring_proto::{Incarnation, v1};

use crate::support::{Cluster, TTL, eventually, id, seen, soon, spec};

pub(crate) async fn a_registration_lives_until_its_process_ends(url: &str) {
    let cluster = Cluster::new(url, "lives").await;
    let (mine, other) = (cluster.registry().await, cluster.registry().await);
    let registration = cluster.register(&mine, "node-1").await;
    let view = seen(&other, "node-1 to appear", |v| v.nodes.contains_key(&id("node-1"))).await;
    let entry = &view.nodes[&id("node-1")];
    assert_eq!(entry.incarnation, registration.incarnation());
    assert_eq!(entry.grpc_addr, "node-1.example:7400");
    let (_, revision) = cluster.get(cluster.keys.node(&id("node-1"))).await.unwrap();
    assert_eq!(registration.incarnation(), Incarnation(revision.unsigned_abs()));
    seen(&mine, "contact", |v| v.contact.is_some()).await;
    assert_eq!(other.view().borrow().contact, None, "who has no key of its own has no contact");

    // Kept alive: nothing happens to the key for longer than its lease.
    let started = Instant::now();
    let mut views = other.view();
    let gone = tokio::time::timeout(TTL * 3, views.wait_for(|v| v.nodes.is_empty())).await;
    assert!(gone.is_err(), "the key went away after {:?}", started.elapsed());

    // Draining rewrites it under the same incarnation.
    registration.set_draining(true).await.unwrap();
    let view = seen(&other, "draining", |v| v.nodes[&id("node-1")].draining).await;
    assert_eq!(view.nodes[&id("node-1")].incarnation, registration.incarnation());
    assert!(view.node_revisions[&id("node-1")] > revision);

    // A process that ends without a word leaves it to expire, one that says so takes it along.
    drop(registration);
    let silent = Instant::now();
    seen(&other, "expiry", |v| v.nodes.is_empty() && v.node_revisions.is_empty()).await;
    println!("expired {:?} after the process went", silent.elapsed());
    assert!(silent.elapsed() > TTL / 3, "expired, not removed");
    let registration = cluster.register(&mine, "node-1").await;
    seen(&other, "node-1 again", |v| v.nodes.contains_key(&id("node-1"))).await;
    let told = Instant::now();
    registration.revoke().await.unwrap();
    seen(&other, "removal", |v| v.nodes.is_empty()).await;
    assert!(told.elapsed() < TTL, "removed, not expired: {:?}", told.elapsed());
    soon("stopping", mine.stop()).await;
}

pub(crate) async fn a_live_nodes_id_is_refused_to_another_home(url: &str) {
    let cluster = Cluster::new(url, "twice").await;
    let (first, second) = (cluster.registry().await, cluster.registry().await);
    let registration = cluster.register(&first, "node-1").await;
    let imposter = cluster.home("elsewhere");
    let mut theirs = spec("node-1");
    theirs.grpc_addr = "elsewhere.example:7400".into();
    let started = Instant::now();
    let error = soon("the refusal", second.register_node(theirs.clone(), &imposter)).await.unwrap_err();
    println!("refused after {:?}: {error}", started.elapsed());
    assert!(started.elapsed() >= TTL, "a dead process would have had its time to go");
    assert!(matches!(error, RegisterError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains("node id node-1 is in use by node-1.example:7400"), "{text}");
    let view = first.view().borrow().clone();
    assert_eq!(view.nodes[&id("node-1")].grpc_addr, "node-1.example:7400");
    assert_eq!(view.nodes[&id("node-1")].incarnation, registration.incarnation());

    // Once the first is dead the other gets the id, as soon as the lease has run out.
    drop(registration);
    let registered = soon("the id", second.register_node(theirs, &imposter)).await.unwrap();
    seen(&first, "the other", |v| {
        v.nodes.get(&id("node-1")).is_some_and(|n| n.incarnation == registered.incarnation())
    })
    .await;
}

pub(crate) async fn a_restart_on_the_same_home_takes_over_at_once(url: &str) {
    let cluster = Cluster::new(url, "restart").await;
    let registry = cluster.registry().await;
    let before = cluster.register(&registry, "node-1").await;
    let old = before.incarnation();
    // Its lease is not revoked: the key of the dead process is still there.
    drop(before);
    assert!(cluster.get(cluster.keys.node(&id("node-1"))).await.is_some());
    let started = Instant::now();
    let after = cluster.register(&registry, "node-1").await;
    assert!(started.elapsed() < TTL, "took {:?}", started.elapsed());
    assert!(after.incarnation() > old);
    // The old lease runs out later: the key is not on it any more.
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    let (_, revision) = cluster.get(cluster.keys.node(&id("node-1"))).await.unwrap();
    assert_eq!(after.incarnation(), Incarnation(revision.unsigned_abs()));
}

pub(crate) async fn a_lost_lease_is_replaced_under_the_same_incarnation(url: &str) {
    let cluster = Cluster::new(url, "lease").await;
    let registry = cluster.registry().await;
    let registration = cluster.register(&registry, "node-1").await;
    let incarnation = registration.incarnation();
    let lease = cluster.lease_of("node-1").await;
    seen(&registry, "the key", |v| v.nodes.contains_key(&id("node-1"))).await;
    let mut views = registry.view();
    let lost = tokio::spawn(async move { views.wait_for(|v| v.nodes.is_empty()).await.is_ok() });
    cluster.etcd.lease_client().revoke(lease).await.unwrap();
    assert!(soon("the loss to be seen", lost).await.unwrap());
    let view = seen(&registry, "the key again", |v| v.nodes.contains_key(&id("node-1"))).await;
    assert_eq!(view.nodes[&id("node-1")].incarnation, incarnation);
    let new_lease = cluster.lease_of("node-1").await;
    assert!(new_lease != 0 && new_lease != lease, "lease {new_lease} after {lease}");
    assert_eq!(registration.incarnation(), incarnation);
    let contact = view.contact;
    seen(&registry, "contact to go on", |v| v.contact > contact).await;
}

pub(crate) async fn a_later_process_supersedes(url: &str) {
    let cluster = Cluster::new(url, "superseded").await;
    let registry = cluster.registry().await;
    let registration = cluster.register(&registry, "node-1").await;
    seen(&registry, "contact", |v| v.contact.is_some()).await;
    let key = cluster.keys.node(&id("node-1"));
    // As if this process had been stopped for longer than its lease, and another had taken its id meanwhile.
    let later = v1::NodeInfo {
        home: "ff".into(),
        grpc_addr: "later.example:7400".into(),
        weight: 100,
        max_format: 1,
        ..Default::default()
    };
    let lease = cluster.lease_of("node-1").await;
    let swap = Txn::new().when([Compare::create_revision(key.as_str(), CompareOp::Greater, 0)]).and_then([TxnOp::put(
        key.as_str(),
        later.encode_to_vec(),
        None,
    )]);
    assert!(cluster.etcd.kv_client().txn(swap).await.unwrap().succeeded());
    cluster.etcd.lease_client().revoke(lease).await.unwrap();
    let superseded = soon("to be superseded", registration.superseded()).await;
    assert_eq!(superseded.held_by, "later.example:7400");
    assert!(superseded.to_string().starts_with("node id node-1 was taken over by later.example:7400"), "{superseded}");
    // It has no contact any more, and leaves the key alone.
    let contact = registry.view().borrow().contact;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(registry.view().borrow().contact, contact);
    assert_eq!(cluster.get(key).await.unwrap().0, later.encode_to_vec());
}

pub(crate) async fn routers_register_too(url: &str) {
    let cluster = Cluster::new(url, "routers").await;
    let (first, second) = (cluster.registry().await, cluster.registry().await);
    let spec = |http: &str| RouterSpec {
        id: id("router-1"),
        grpc_addr: "r:1".into(),
        http_addr: http.into(),
        watch_addr: String::new(),
    };
    let registration = soon("registering", first.register_router(spec("r:80"))).await.unwrap();
    let view = seen(&second, "router-1", |v| v.routers.contains_key(&id("router-1"))).await;
    assert_eq!(view.routers[&id("router-1")].http_addr, "r:80");
    assert_eq!(view.routers[&id("router-1")].incarnation, registration.incarnation());
    seen(&first, "contact", |v| v.contact.is_some()).await;
    let error = soon("the refusal", second.register_router(spec("s:80"))).await.unwrap_err();
    assert!(error.to_string().contains("router id router-1 is in use by r:1"), "{error}");
    registration.revoke().await.unwrap();
    let again = soon("registering", second.register_router(spec("s:80"))).await.unwrap();
    eventually("the other router", async || {
        first.view().borrow().routers.get(&id("router-1")).is_some_and(|r| r.incarnation == again.incarnation())
    })
    .await;
}
