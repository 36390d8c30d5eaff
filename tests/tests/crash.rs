//! Processes that die by SIGKILL.

use std::time::Duration;

use roomring_tests::{Client, Cluster, Crowd, Options, Outcome, Sent, Traffic, evidence, holder};
use serde_json::json;

/// Checks what every member of every room was told about the loss of `victim`, which held rooms as in `before`.
fn judge(crowd: &Crowd, sent: &[Sent], before: &roomring_proto::v1::Placement, victim: &str) {
    let mut told = 0;
    for room in crowd.rooms() {
        let oracle = crowd.oracle(room, sent);
        if holder(before, room) != victim {
            let story = oracle.judge_quiet();
            let lost = sent.iter().filter(|s| s.room == room && s.outcome != Outcome::Acked).count();
            assert_eq!(lost, 0, "{room} is not on {victim}: {} messages went through", story.messages.len());
            continue;
        }
        let story = oracle.judge();
        oracle.all_at_top(&story);
        assert_eq!(story.epochs.len(), 2, "{room} was made anew once: {:?}", story.epochs);
        for member in crowd.members(room) {
            let log = member.log(room);
            assert_eq!(log.unsubscribed(), [2500], "{room}: {} is told to come back", log.name);
            assert_eq!(log.recoveries(), [false], "{room}: {} is told the truth", log.name);
            told += 1;
        }
    }
    assert!(told > 0, "{victim} held no room of this test");
    evidence(format!("{told} memberships were told `recovered: false`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_under_load_costs_no_socket_and_nobody_is_lied_to() {
    let mut cluster = Cluster::start(Options::default()).await;
    let crowd = Crowd::gather("crash", &cluster.http(), 30, 6, 5).await;
    let before = cluster.placement().await.expect("a placement");
    let traffic = Traffic::start(crowd.speakers(2), Duration::from_millis(100), None);
    crowd.roll_call("before").await;
    cluster.kill_node("node-2");
    cluster.expired("node-2").await;
    cluster.recreated(&before, "node-2").await;
    cluster.settled().await;
    let sent = traffic.stop().await;
    // First everybody is back: what was said before is not for those who were told that they missed something.
    crowd.catch_up().await;
    crowd.roll_call("after").await;
    crowd.check_open();
    judge(&crowd, &sent, &before, "node-2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_and_started_again_takes_its_place() {
    let mut cluster = Cluster::start(Options::default()).await;
    let crowd = Crowd::gather("again", &cluster.http(), 30, 4, 5).await;
    let before = cluster.placement().await.expect("a placement");
    let old = cluster.registration("node-3").await.expect("a registration").incarnation;
    let traffic = Traffic::start(crowd.speakers(1), Duration::from_millis(100), None);
    crowd.roll_call("before").await;
    cluster.kill_node("node-3");
    cluster.start_node("node-3").await;
    let new = cluster.registration("node-3").await.expect("a registration").incarnation;
    assert!(new > old, "a new process has a new incarnation: {old}, then {new}");
    evidence(format!("node-3 went from incarnation {old} to {new}"));
    cluster.recreated(&before, "node-3").await;
    cluster.settled().await;
    let sent = traffic.stop().await;
    // First everybody is back: what was said before is not for those who were told that they missed something.
    crowd.catch_up().await;
    crowd.roll_call("after").await;
    crowd.check_open();
    judge(&crowd, &sent, &before, "node-3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_killed_and_started_again_comes_back_by_itself() {
    let mut cluster = Cluster::start(Options::default()).await;
    let router = cluster.http()[0];
    let ann = Client::connect(router, "ann").await;
    ann.subscribe("lobby").await;
    ann.publish("lobby", "one").await.expect("a publish");
    ann.wait_message("lobby", "one").await;
    let (epoch, offset) = (ann.log("lobby").epoch, ann.log("lobby").offset);
    let before = cluster.placement().await.expect("a placement");

    for id in ["node-1", "node-2", "node-3"] {
        cluster.kill_node(id);
    }
    for id in ["router-1", "router-2"] {
        cluster.kill_router(id);
    }
    cluster.etcd.kill();
    let closed = ann.closed().await;
    evidence(format!("ann's connection ended: {closed:?}"));

    cluster.etcd.start().await;
    cluster.start_all().await;
    let after = cluster.placement().await.expect("a placement");
    assert_eq!(after.uid, before.uid, "it is the same cluster");
    let pairs = before.slots.iter().zip(&after.slots);
    assert!(pairs.clone().all(|(b, a)| a.generation > b.generation), "every slot was made anew");
    evidence(format!("the generation of all {} slots rose", pairs.len()));

    let ann = Client::connect(cluster.http()[0], "ann").await;
    let result = ann.recover("lobby", &epoch, offset).await.expect("a subscription");
    assert_eq!(result["was_recovering"], true);
    assert_eq!(result["recovered"], json!(null), "her history is gone and she is told: {result}");
    assert_ne!(result["epoch"], epoch.as_str());
    let bob = Client::connect(cluster.http()[1], "bob").await;
    bob.subscribe("lobby").await;
    bob.publish("lobby", "two").await.expect("a publish");
    ann.wait_message("lobby", "two").await;
    bob.wait_message("lobby", "two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_router_takes_only_its_own_clients_along() {
    let options = Options { node_flags: vec!["--presence-grace", "2s"], ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let [first, second] = cluster.http()[..] else { panic!("two routers") };
    let (ann, bob) = (Client::connect(first, "ann").await, Client::connect(second, "bob").await);
    for client in [&ann, &bob] {
        client.subscribe("lobby").await;
    }
    let said = ann.publish_once("lobby", "id-1", "once").await.expect("a publish");
    assert_eq!((&said["offset"], &said["duplicate"]), (&json!(1), &json!(false)), "{said}");
    bob.wait_message("lobby", "once").await;

    cluster.kill_router("router-1");
    evidence(format!("ann's connection ended: {:?}", ann.closed().await));
    bob.publish("lobby", "while ann is away").await.expect("a publish");
    // She comes back through the other router, and repeats what she can't know to have arrived.
    let again = Client::connect(second, "ann").await;
    let log = ann.log("lobby");
    let result = again.recover("lobby", &log.epoch, log.offset).await.expect("a subscription");
    assert_eq!(result["recovered"], true, "{result}");
    again.wait_message("lobby", "while ann is away").await;
    let said = again.publish_once("lobby", "id-1", "once").await.expect("a publish");
    assert_eq!((&said["offset"], &said["duplicate"]), (&json!(1), &json!(true)), "{said}");

    let gone = ann.id();
    let left = |log: &roomring_tests::RoomLog| {
        log.events.iter().any(|e| matches!(e, roomring_tests::Event::Left(m) if m.client == gone)).then_some(())
    };
    bob.wait_log("lobby", "the old ann to leave, after the grace", left).await;
    let present = bob.presence("lobby").await.expect("presence");
    let mut here: Vec<&String> = present.as_object().expect("clients by id").keys().collect();
    here.sort_unstable();
    let (mut wanted, ids) = (Vec::new(), [again.id(), bob.id()]);
    wanted.extend(&ids);
    wanted.sort_unstable();
    assert_eq!(here, wanted, "{present}");
    assert_eq!(bob.log("lobby").messages().count(), 2, "nothing was said twice");
    assert!(bob.log("lobby").unsubscribed().is_empty(), "bob noticed nothing else");
}
