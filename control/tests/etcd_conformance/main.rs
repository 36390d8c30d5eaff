//! One suite for two servers: what our components may expect of etcd, checked on a real one and on the embedded one.
#![allow(clippy::unwrap_used)] // A test may.

mod differential;
mod keys;
mod leases;
mod real;
mod watches;

use std::future::Future;
use std::time::Duration;

use etcd_client::Client;
use roomring_control::embedded_etcd::EmbeddedEtcd;
use tokio_util::sync::CancellationToken;

/// No single step of a check takes longer, unless it failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// `step` within [`DEADLINE`].
async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, step).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

async fn client(url: &str) -> Client {
    soon("connecting", Client::connect([url], None)).await.unwrap()
}

fn code(error: etcd_client::Error) -> tonic::Code {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.code(),
        other => panic!("expected a gRPC status, got {other}"),
    }
}

/// Every check, in an order in which the compaction, which concerns all keys, comes last.
async fn suite(url: &str) {
    let etcd = client(url).await;
    keys::put_get_delete(etcd.clone()).await;
    keys::ranges(etcd.clone()).await;
    keys::transactions(etcd.clone()).await;
    keys::bad_requests(etcd.clone()).await;
    leases::grant_keep_alive_revoke(etcd.clone()).await;
    leases::expiry_deletes_and_tells_watchers(etcd.clone()).await;
    leases::a_rewritten_key_leaves_its_lease(etcd.clone()).await;
    watches::past_and_present(etcd.clone()).await;
    watches::several_on_one_stream(etcd.clone()).await;
    watches::progress(etcd.clone()).await;
    watches::starting_in_the_future(etcd.clone()).await;
    keys::status(etcd.clone()).await;
    watches::compaction(etcd).await;
}

async fn embedded() -> (EmbeddedEtcd, CancellationToken) {
    let cancel = CancellationToken::new();
    (EmbeddedEtcd::start("127.0.0.1:0".parse().unwrap(), cancel.clone()).await.unwrap(), cancel)
}

#[tokio::test]
async fn real_etcd_conforms() {
    let etcd = real::Etcd::start().await;
    suite(etcd.url()).await;
}

#[tokio::test]
async fn embedded_etcd_conforms() {
    let (etcd, cancel) = embedded().await;
    suite(&etcd.url()).await;
    cancel.cancel();
    soon("stopping", etcd.stopped()).await;
}

#[tokio::test]
async fn both_answer_alike_to_random_requests() {
    let real = real::Etcd::start().await;
    let (embedded, _cancel) = embedded().await;
    differential::run(client(real.url()).await, client(&embedded.url()).await).await;
}

#[tokio::test]
async fn a_stop_ends_open_streams() {
    let (etcd, cancel) = embedded().await;
    let mut client = client(&etcd.url()).await;
    let mut watch = client.watch("k", None).await.unwrap();
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let (_keeper, mut kept) = client.lease_keep_alive(lease).await.unwrap();
    soon("created", watch.message()).await.unwrap();
    cancel.cancel();
    soon("stopping", etcd.stopped()).await;
    assert!(!matches!(soon("the watch to end", watch.message()).await, Ok(Some(_))));
    assert!(!matches!(soon("the keep-alive to end", kept.message()).await, Ok(Some(_))));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (etcd, _cancel) = embedded().await;
    let error = EmbeddedEtcd::start(etcd.addr(), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {}: ", etcd.addr())), "{error}");
}
