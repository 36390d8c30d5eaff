//! A client that does not read: it is cut off with a code that lets it come back, and slows nobody down.

use std::time::Duration;

use roomring_tests::{Client, Cluster, Options, eventually, evidence};

const LIMIT: Duration = Duration::from_secs(60);
/// Far more than the kernel's buffers of one connection hold, in messages of [`SIZE`].
const MOST: usize = 2_000;
const SIZE: usize = 50_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_is_cut_off_and_recovers() {
    let options = Options {
        nodes: 1,
        routers: 1,
        node_flags: vec!["--history-bytes", "8MiB"],
        router_flags: vec!["--client-queue-bytes", "256KiB"],
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    let router = cluster.http()[0];
    let (ann, bob) = (Client::connect(router, "ann").await, Client::connect(router, "bob").await);
    let slow = Client::connect(router, "slow").await;
    for client in [&ann, &bob, &slow] {
        client.subscribe("lobby").await;
    }
    ann.publish("lobby", "hello").await.expect("a publish");
    slow.wait_message("lobby", "hello").await;

    slow.pause();
    let mut said = 1;
    while cluster.router_status("router-1").await.slow_clients_total == 0 {
        assert!(said < MOST, "{said} messages of {SIZE} bytes went to a client that reads none");
        for _ in 0..10 {
            said += 1;
            ann.publish("lobby", format!("{said} {}", "x".repeat(SIZE))).await.expect("a publish");
        }
    }
    evidence(format!("after {said} messages the router counts one slow client"));
    let everything = |log: &roomring_tests::RoomLog| (log.offset == said as u64).then_some(());
    bob.wait_log("lobby", "all of it", everything).await;
    assert!(bob.log("lobby").unsubscribed().is_empty(), "bob noticed nothing");

    slow.resume();
    let closed = slow.closed_for(LIMIT).await;
    assert!(matches!(closed.code, None | Some(3008)), "cut off so that it may come back: {closed:?}");
    let log = slow.log("lobby");
    assert!(log.offset < said as u64, "it did not get all");
    let back = Client::connect(router, "slow").await;
    let result = back.recover("lobby", &log.epoch, log.offset).await.expect("a subscription");
    assert_eq!(result["recovered"], true, "what it missed is kept");
    back.wait_log("lobby", "all of it", everything).await;
    let missed = back.log("lobby").messages().count();
    assert_eq!(missed as u64, said as u64 - log.offset, "each message once");
    eventually("the router to forget it", LIMIT, async || {
        (cluster.router_status("router-1").await.connections == 3).then_some(())
    })
    .await;
}
