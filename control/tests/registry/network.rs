//! The way to etcd breaks.

use crate::proxy::{Proxy, Way};
use crate::support::{Cluster, TTL, eventually, id, seen};

pub(crate) async fn a_short_cut_leaves_the_view_unbroken(url: &str) {
    let cluster = Cluster::new(url, "cut").await;
    let proxy = Proxy::to(url).await;
    let registry = cluster.registry_by(&proxy.url()).await;
    let other = cluster.registry().await;
    let registration = cluster.register(&registry, "node-1").await;
    let before = seen(&registry, "contact", |v| v.contact.is_some()).await;

    proxy.set(Way::Cut);
    eventually("connections to be cut", async || proxy.hits() > 0).await;
    // What happens meanwhile is caught up with, in order.
    let second = cluster.register(&other, "node-2").await;
    proxy.set(Way::Open);
    let after = seen(&registry, "node-2", |v| v.nodes.contains_key(&id("node-2"))).await;
    println!("{} streams were cut", proxy.hits());
    assert_eq!(after.unbroken_since, before.unbroken_since);
    seen(&registry, "contact", |v| v.contact > after.contact).await;
    assert_eq!(registry.view().borrow().unbroken_since, before.unbroken_since);
    assert_eq!(registry.view().borrow().nodes[&id("node-1")].incarnation, registration.incarnation());
    drop(second);
}

pub(crate) async fn a_long_silence_breaks_it_and_a_compaction_meanwhile_is_survived(url: &str) {
    let cluster = Cluster::new(url, "silence").await;
    let proxy = Proxy::to(url).await;
    let registry = cluster.registry_by(&proxy.url()).await;
    let other = cluster.registry().await;
    let registration = cluster.register(&registry, "node-1").await;
    let incarnation = registration.incarnation();
    let before = seen(&registry, "contact", |v| v.contact.is_some()).await;

    proxy.set(Way::Silent);
    seen(&registry, "the view to count as broken", |v| v.unbroken_since.is_none()).await;
    let silent = registry.view().borrow().contact;
    seen(&other, "the silent node's key to expire", |v| v.nodes.is_empty()).await;
    let second = cluster.register(&other, "node-2").await;
    let (_, revision) = cluster.get(cluster.keys.node(&id("node-2"))).await.unwrap();
    cluster.etcd.kv_client().compact(revision, None).await.unwrap();
    tokio::time::sleep(TTL).await;
    assert_eq!(registry.view().borrow().contact, silent, "no contact through a dead line");
    assert!(registry.view().borrow().nodes.contains_key(&id("node-1")), "it does not know yet that its key is gone");
    proxy.set(Way::Open);

    let after = seen(&registry, "node-2", |v| v.nodes.contains_key(&id("node-2"))).await;
    assert!(after.unbroken_since.is_none_or(|t| t > before.unbroken_since.unwrap()));
    seen(&registry, "its own key again", |v| {
        v.contact > silent && v.nodes.get(&id("node-1")).is_some_and(|n| n.incarnation == incarnation)
    })
    .await;
    let whole = seen(&registry, "an unbroken view", |v| v.unbroken_since.is_some()).await;
    assert!(whole.unbroken_since > before.unbroken_since);
    println!("{} transfers met the silence", proxy.hits());
    assert!(proxy.hits() > 0);
    drop(second);
}
