//! etcd absent, etcd restarted, and what it keeps: one process per id.

use std::time::Duration;

use roomring_tests::{Client, Cluster, Crowd, Options, Outcome, Traffic, eventually, evidence};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_is_not_there_yet_is_waited_for() {
    let options = Options { nodes: 1, routers: 1, ..Options::default() };
    let mut cluster = Cluster::prepare(options);
    let mut node = cluster.spawn_node("node-1");
    let mut router = cluster.spawn_router("router-1", "127.0.0.1:0");
    let url = cluster.etcd.url().to_owned();
    for process in [&mut node, &mut router] {
        let name = process.name().to_owned();
        // Twice: it tries again.
        eventually(&format!("{name} to name {url}, twice"), LIMIT, async || {
            (process.log().matches(&url).count() >= 2).then_some(())
        })
        .await;
        assert!(process.is_running(), "{name} keeps trying");
        assert_eq!(process.lines_so_far(), Vec::<String>::new(), "{name} is not ready without etcd");
        evidence(format!("{name} says that it can't reach {url}"));
    }
    cluster.etcd.start().await;
    cluster.adopt_node("node-1", node).await;
    cluster.adopt_router("router-1", router).await;
    cluster.settled().await;
    let ann = Client::connect(cluster.http()[0], "ann").await;
    ann.subscribe("lobby").await;
    ann.publish("lobby", "hello").await.expect("a publish");
    ann.wait_message("lobby", "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_etcd_is_invisible_to_clients() {
    let options = Options { fence_after: "30s", lease_ttl: "10s", ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let crowd = Crowd::gather("etcd", &cluster.http(), 30, 4, 5).await;
    let before = cluster.placement().await.expect("a placement");
    let traffic = Traffic::start(crowd.speakers(1), Duration::from_millis(50), None);
    crowd.roll_call("before").await;

    cluster.etcd.kill();
    // Long enough that every node has noticed, by its own account.
    for id in ["node-1", "node-2", "node-3"] {
        let age = eventually(&format!("{id} to miss etcd"), LIMIT, async || {
            let age = cluster.node_status(id).await.contact_age_ms;
            (age > 4_000).then_some(age)
        })
        .await;
        evidence(format!("{id} has had no contact with etcd for {age} ms"));
    }
    crowd.roll_call("without etcd").await;
    cluster.etcd.start().await;
    for id in ["node-1", "node-2", "node-3"] {
        eventually(&format!("{id} to have etcd again"), LIMIT, async || {
            (cluster.node_status(id).await.contact_age_ms < 4_000).then_some(())
        })
        .await;
    }
    crowd.roll_call("after").await;

    let sent = traffic.stop().await;
    crowd.catch_up().await;
    crowd.check_open();
    let failed: Vec<_> = sent.iter().filter(|s| s.outcome != Outcome::Acked).collect();
    assert!(failed.is_empty(), "{} of {} publishes failed, such as {:?}", failed.len(), sent.len(), failed.first());
    for room in crowd.rooms() {
        crowd.oracle(room, &sent).judge_quiet();
    }
    let after = cluster.placement().await.expect("a placement");
    assert_eq!((after.uid, after.version), (before.uid, before.version), "nothing had to be placed anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_live_node_of_one_id_is_refused() {
    let mut cluster = Cluster::start(Options { nodes: 2, routers: 1, ..Options::default() }).await;
    let first = cluster.node("node-1").grpc;
    let before = cluster.registration("node-1").await;

    let other_home = cluster.path("elsewhere").display().to_string();
    let mut second = cluster.spawn_node_with("node-1", &["--home", &other_home]);
    let status = second.exit(LIMIT).await;
    assert_eq!(status.code(), Some(1), "{}", second.tail());
    let log = second.log();
    assert!(log.contains(&format!("node-1 is in use by {first}")), "it names the other's address:\n{log}");

    let mut third = cluster.spawn_node("node-1");
    let status = third.exit(LIMIT).await;
    assert_eq!(status.code(), Some(1), "{}", third.tail());
    let home = cluster.path("node-1").display().to_string();
    assert!(third.log().contains(&home), "it names the directory:\n{}", third.tail());

    assert_eq!(cluster.registration("node-1").await, before, "the first one's registration stands");
    assert!(cluster.nodes.get_mut("node-1").expect("runs").process.is_running(), "the first one goes on");
    let ann = Client::connect(cluster.http()[0], "ann").await;
    for n in 0..20 {
        let room = format!("room-{n}");
        ann.subscribe(&room).await;
        ann.publish(&room, "still here").await.expect("a publish");
        ann.wait_message(&room, "still here").await;
    }
}
