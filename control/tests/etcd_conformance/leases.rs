//! Leases: what keeps a key alive, and what ends it.

use std::time::Duration;

use etcd_client::{Client, EventType, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, WatchOptions};
use tonic::Code;

use crate::{code, soon};

pub(crate) async fn grant_keep_alive_revoke(mut etcd: Client) {
    let granted = etcd.lease_grant(60, None).await.unwrap();
    assert!(granted.id() != 0 && granted.ttl() == 60);
    let lease = granted.id();
    let own = Some(LeaseGrantOptions::new().with_id(4711));
    assert_eq!(etcd.lease_grant(60, own.clone()).await.unwrap().id(), 4711);
    assert_eq!(code(etcd.lease_grant(60, own).await.unwrap_err()), Code::FailedPrecondition);

    for key in ["lease/a", "lease/b"] {
        etcd.put(key, "v", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    }
    assert_eq!(etcd.get("lease/a", None).await.unwrap().kvs()[0].lease(), lease);
    let (mut keeper, mut kept) = etcd.lease_keep_alive(lease).await.unwrap();
    keeper.keep_alive().await.unwrap();
    let answer = soon("a keep-alive", kept.message()).await.unwrap().unwrap();
    assert_eq!((answer.id(), answer.ttl()), (lease, 60));

    let asked = LeaseTimeToLiveOptions::new().with_keys();
    let left = etcd.lease_time_to_live(lease, Some(asked.clone())).await.unwrap();
    assert!(left.ttl() > 50 && left.ttl() <= 60 && left.granted_ttl() == 60);
    let mut keys = left.keys().to_vec();
    keys.sort();
    assert_eq!(keys, [b"lease/a".to_vec(), b"lease/b".to_vec()]);

    let before = etcd.get("lease/a", None).await.unwrap().header().unwrap().revision();
    etcd.lease_revoke(lease).await.unwrap();
    let after = etcd.get("lease/a", None).await.unwrap();
    assert_eq!((after.count(), after.header().unwrap().revision()), (0, before + 1), "all keys in one revision");
    assert_eq!(etcd.lease_time_to_live(lease, Some(asked)).await.unwrap().ttl(), -1);
    assert_eq!(code(etcd.lease_revoke(lease).await.unwrap_err()), Code::NotFound);
    keeper.keep_alive().await.unwrap();
    assert_eq!(soon("a keep-alive", kept.message()).await.unwrap().unwrap().ttl(), 0);
    etcd.lease_revoke(4711).await.unwrap();
}

pub(crate) async fn expiry_deletes_and_tells_watchers(mut etcd: Client) {
    let lease = etcd.lease_grant(2, None).await.unwrap().id();
    let put = etcd.put("expiry/a", "v", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    let options = WatchOptions::new().with_prev_key().with_start_revision(put.header().unwrap().revision() + 1);
    let mut watch = etcd.watch("expiry/a", Some(options)).await.unwrap();
    // Kept alive it lives on past its time.
    let (mut keeper, mut kept) = etcd.lease_keep_alive(lease).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(800)).await;
        keeper.keep_alive().await.unwrap();
        assert!(soon("a keep-alive", kept.message()).await.unwrap().unwrap().ttl() > 0);
    }
    assert_eq!(etcd.get("expiry/a", None).await.unwrap().count(), 1);
    let event = soon("the expiry", async {
        loop {
            let message = watch.message().await.unwrap().unwrap();
            if let Some(event) = message.events().first() {
                break event.clone();
            }
        }
    })
    .await;
    assert_eq!(event.event_type(), EventType::Delete);
    assert_eq!(event.kv().unwrap().key(), b"expiry/a");
    assert_eq!(event.prev_kv().unwrap().lease(), lease);
    assert_eq!(etcd.get("expiry/a", None).await.unwrap().count(), 0);
    assert!(etcd.lease_keep_alive(lease).await.is_err());
}

pub(crate) async fn a_rewritten_key_leaves_its_lease(mut etcd: Client) {
    let old = etcd.lease_grant(60, None).await.unwrap().id();
    let new = etcd.lease_grant(60, None).await.unwrap().id();
    etcd.put("moved/a", "v", Some(PutOptions::new().with_lease(old))).await.unwrap();
    etcd.put("moved/a", "v", Some(PutOptions::new().with_lease(new))).await.unwrap();
    etcd.put("moved/a", "w", Some(PutOptions::new().with_ignore_lease())).await.unwrap();
    etcd.lease_revoke(old).await.unwrap();
    assert_eq!(etcd.get("moved/a", None).await.unwrap().kvs()[0].lease(), new);
    etcd.lease_revoke(new).await.unwrap();
    assert_eq!(etcd.get("moved/a", None).await.unwrap().count(), 0);
}
