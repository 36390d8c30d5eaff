//! Nodes that die, hang and come back, with a second copy of every slot: nothing acknowledged is lost, and nobody is told
//! of a loss.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use roomring_proto::v1;
use roomring_proto::v1::eviction::Cause;
use roomring_tests::{Client, Cluster, Crowd, Options, Outcome, Sent, Traffic, Weight, eventually, evidence, primary};

const LIMIT: Duration = Duration::from_secs(60);

/// A hung node is evicted by then: five missed beats, an opinion, a write, and a busy machine.
const HUNG_WITHIN: Duration = Duration::from_secs(3);

fn options() -> Options {
    // The lease must not be what evicts. Several workers in each node, which smaller machines have only when told so.
    let (lease_ttl, fence_after, node_flags) = ("20s", "60s", vec!["--threads=2"]);
    Options { weight: Weight::Heavy, replication: 2, lease_ttl, fence_after, node_flags, ..Options::default() }
}

/// The eviction of a process, as the placement records it.
fn eviction(placement: &v1::Placement, incarnation: u64) -> Option<v1::Eviction> {
    let mut evictions = placement.recent.iter().flat_map(|r| &r.evictions);
    evictions.find(|e| e.incarnation == incarnation).cloned()
}

/// Waits until a process is evicted for `cause`, and shows that the slots it led have another primary in a higher term.
async fn evicted(cluster: &Cluster, before: &v1::Placement, id: &str, incarnation: u64, cause: Cause) {
    let start = Instant::now();
    let (after, eviction) = eventually(&format!("the eviction of {id}"), LIMIT, async || {
        let now = cluster.placement().await?;
        let eviction = eviction(&now, incarnation)?;
        Some((now, eviction))
    })
    .await;
    assert_eq!(eviction.cause(), cause, "{eviction:?}");
    let led: Vec<usize> = (0..before.slots.len()).filter(|&s| primary(before, s) == id).collect();
    assert!(!led.is_empty(), "{id} led no slot");
    for &s in &led {
        assert!(after.slots[s].term > before.slots[s].term, "the term of slot {s} rose");
        assert_eq!(after.slots[s].generation, before.slots[s].generation, "slot {s} kept its state");
        assert_ne!(primary(&after, s), id, "slot {s} has another primary");
    }
    let (waited, silent) = (start.elapsed(), eviction.silent_ms());
    evidence(format!(
        "{id} (i{incarnation}) was evicted: {cause:?}, {silent} ms after it was last heard, seen after {waited:?}; \
         the term of its {} slots rose",
        led.len()
    ));
}

/// Every publish was taken and delivered, in one order, without a gap; nobody was told of a loss or lost its socket.
async fn nobody_noticed(crowd: &Crowd, sent: &[Sent]) {
    crowd.catch_up().await;
    crowd.check_open();
    let failed: Vec<&Sent> = sent.iter().filter(|s| s.outcome != Outcome::Acked).collect();
    assert!(failed.is_empty(), "{} of {} publishes failed, such as {:?}", failed.len(), sent.len(), failed.first());
    let messages: usize = crowd.rooms().map(|room| crowd.oracle(room, sent).judge_quiet().messages.len()).sum();
    assert!(messages >= sent.len());
    println!("{messages} messages in order in {} rooms, {} of them under the fault", crowd.rooms().count(), sent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_under_publishes_loses_nothing_and_nobody_notices() {
    let mut cluster = Cluster::start(options()).await;
    let crowd = Crowd::gather("kill", &cluster.http(), 30, 4, 5).await;
    let before = cluster.placement().await.expect("a placement");
    let victim = cluster.registration("node-2").await.expect("a registration").incarnation;
    let traffic = Traffic::start(crowd.speakers(2), Duration::from_millis(20), None);
    crowd.roll_call("before").await;

    cluster.kill_node("node-2");
    evicted(&cluster, &before, "node-2", victim, Cause::Refused).await;
    crowd.roll_call("after").await;
    let status = cluster.roomctl(&["status", "-o", "json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(status["evictions"][0]["node"], "node-2", "{status}");
    assert_eq!(status["evictions"][0]["cause"], "connection refused", "{status}");
    let moved = crowd.rooms().find(|r| roomring_tests::holder(&before, r) == "node-2").expect("a room of node-2");
    let told = cluster.roomctl_json(&["explain", moved]).await;
    let told_why = told["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["text"].as_str().is_some_and(|text| text.contains("evict node-2 (connection refused)")));
    assert!(told_why, "{told}");
    // The other two make the second copies.
    cluster.settled().await;
    crowd.roll_call("two copies again").await;

    // Its successor takes its place, after the moment that an evicted node stays out.
    cluster.start_node("node-2").await;
    cluster.settled().await;
    crowd.roll_call("three nodes again").await;
    let sent = traffic.stop().await;
    nobody_noticed(&crowd, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stopped_is_evicted_by_a_second_opinion_and_comes_back_as_it_was() {
    let cluster = Cluster::start(options()).await;
    let crowd = Crowd::gather("hang", &cluster.http(), 30, 4, 5).await;
    let before = cluster.placement().await.expect("a placement");
    let victim = cluster.registration("node-3").await.expect("a registration").incarnation;
    let traffic = Traffic::start(crowd.speakers(2), Duration::from_millis(20), None);
    crowd.roll_call("before").await;

    let stopped = Instant::now();
    cluster.node("node-3").process.signal(Signal::SIGSTOP);
    evicted(&cluster, &before, "node-3", victim, Cause::Silent).await;
    assert!(stopped.elapsed() < HUNG_WITHIN, "evicted {:?} after it was stopped", stopped.elapsed());
    crowd.roll_call("without it").await;
    assert!(cluster.registration("node-3").await.is_some(), "its lease lives on: it was not what evicted it");

    cluster.node("node-3").process.signal(Signal::SIGCONT);
    eventually("the return of node-3", LIMIT, async || {
        let now = cluster.placement().await?;
        now.members.iter().any(|m| m.incarnation == victim && m.active).then_some(())
    })
    .await;
    evidence(format!("node-3 is a member again as i{victim}"));
    cluster.settled().await;
    crowd.roll_call("all are back").await;
    let sent = traffic.stop().await;
    nobody_noticed(&crowd, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_acknowledgement_after_a_kill_comes_soon() {
    let mut cluster = Cluster::start(options()).await;
    let before = cluster.placement().await.expect("a placement");
    let victim = "node-1";
    let clients = [Client::connect(cluster.http()[0], "ann").await, Client::connect(cluster.http()[1], "bob").await];
    let rooms: Vec<String> = (0..200).map(|n| format!("soon-{n}")).collect();
    let rooms: Vec<&String> = rooms.iter().filter(|r| roomring_tests::holder(&before, r) == victim).take(40).collect();
    for (n, room) in rooms.iter().enumerate() {
        clients[n % 2].subscribe(room).await;
        clients[n % 2].publish(room, "before").await.expect("a publish");
    }
    let killed = Instant::now();
    cluster.kill_node(victim);
    let publish = |n: usize| {
        let (client, room) = (&clients[n % 2], rooms[n]);
        async move {
            client.publish(room, "after").await.expect("taken by the next primary");
            killed.elapsed()
        }
    };
    let mut taken = futures_util::future::join_all((0..rooms.len()).map(publish)).await;
    taken.sort();
    let at = |percent: usize| taken[(taken.len() - 1) * percent / 100];
    evidence(format!("{} rooms of {victim}: taken again after p50 {:?}, p99 {:?}", taken.len(), at(50), at(99)));
    assert!(at(100) < Duration::from_secs(2), "a debug build on a busy machine: {taken:?}");
}
