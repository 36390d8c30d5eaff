//! What operators do, on a cluster that runs.

use std::time::Duration;

use roomring_tests::{ANYONE_PUBLISHES, Client, Cluster, Options, Skew, SkewedTraffic, Weight, eventually, evidence};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_pin_move_and_weight_are_done() {
    let cluster = Cluster::start(Options { replication: 2, ..Options::default() }).await;
    let client = Client::connect(cluster.http()[0], "ann").await;
    client.subscribe("lobby").await;
    client.publish("lobby", "hello").await.expect("taken");

    let pinned = cluster.roomctl_json(&["pin", "lobby", "node-3"]).await;
    assert_eq!(pinned["rooms_in_slot"], 1, "{pinned}");
    let slot = pinned["slot"].as_u64().expect("a slot");
    let node_of = async |room: &str| cluster.roomctl_json(&["where", room]).await["node"].clone();
    eventually("lobby on node-3", PATIENCE, async || (node_of("lobby").await == "node-3").then_some(())).await;
    let why = cluster.roomctl_json(&["explain", "lobby"]).await["why"].to_string();
    assert!(why.contains("pinned to node-3"), "{why}");

    let drained = cluster.roomctl_json(&["drain", "node-3", "--wait", "--timeout", "60s", "--reason", "test"]).await;
    assert_eq!((&drained["left"]["seats"], &drained["changed"]), (&0.into(), &true.into()), "{drained}");
    evidence(format!("node-3 was drained of {} seats in {} ms", drained["before"]["seats"], drained["waited_ms"]));
    assert_ne!(node_of("lobby").await, "node-3", "a drain wins over a pin");
    client.publish("lobby", "still here").await.expect("taken");
    let status = cluster.roomctl(&["status"]).await;
    assert!(status.stdout.contains("drained node-3, pinned"), "{}", status.stdout);
    cluster.roomctl_json(&["undrain", "node-3"]).await;
    eventually("lobby back", PATIENCE, async || (node_of("lobby").await == "node-3").then_some(())).await;
    cluster.roomctl_json(&["unpin", "lobby"]).await;

    for node in ["node-1", "node-2"] {
        cluster.roomctl_json(&["move", &slot.to_string(), node]).await;
        eventually("the slot to move", PATIENCE, async || (node_of("lobby").await == node).then_some(())).await;
    }
    cluster.roomctl_json(&["move", &slot.to_string(), "--back"]).await;
    cluster.roomctl_json(&["weight", "node-1", "0", "--yes"]).await;
    eventually("node-1 to be empty", PATIENCE, async || {
        let nodes = cluster.roomctl_json(&["nodes"]).await;
        (nodes[0]["primaries"] == 0).then_some(())
    })
    .await;
    cluster.roomctl_json(&["weight", "node-1", "--registered"]).await;
    cluster.settled().await;
    client.wait_message("lobby", "still here").await;
    assert!(!client.is_closed(), "the socket stayed open through all of it");

    let events = cluster.roomctl_json(&["events", "-n", "100"]).await;
    let events = events.as_array().expect("a list");
    let drain = events.iter().find(|e| e["text"] == "drain node-3").expect("the drain");
    assert_eq!((&drain["reason"], &drain["kind"]), (&"test".into(), &"decision".into()));
    assert!(events.iter().any(|e| e["copying_ms"].is_u64()), "how long copies took is told");
    let rooms = cluster.roomctl_json(&["rooms"]).await;
    assert_eq!((&rooms[0]["room"], &rooms[0]["members"], &rooms[0]["seq"]), (&"lobby".into(), &1.into(), &2.into()));
    let other = if rooms[0]["node"] == "node-1" { "node-2" } else { "node-1" };
    assert_eq!(cluster.roomctl_json(&["rooms", "--node", other]).await, serde_json::json!([]));
    let screen = cluster.roomctl(&["top", "--once"]).await;
    assert_eq!(screen.code, Some(0), "{}", screen.stderr);
    for word in ["node-1", "MOVES IN FLIGHT", "LATELY", "1 rooms", "1 members"] {
        assert!(screen.stdout.contains(word), "{word} in {}", screen.stdout);
    }
    assert!(screen.stdout.lines().all(|line| line.chars().count() <= 80), "{}", screen.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_shows_what_is_said() {
    let cluster = Cluster::start(Options { nodes: 1, routers: 1, ..Options::default() }).await;
    let http = cluster.http()[0];
    let client = Client::connect(http, "ann").await;
    client.subscribe("a room/1").await;
    let args = ["tail", "a room/1", "-o", "json", "--etcd", cluster.etcd.url()];
    let program = roomring_tests::binary("roomctl");
    let mut tail = roomring_tests::Process::start("tail", &program, &args, &cluster.log("tail"));
    eventually("tail to come in", PATIENCE, async || {
        let rooms = cluster.roomctl_json(&["rooms"]).await;
        (rooms[0]["members"] == 2).then_some(())
    })
    .await;
    client.publish("a room/1", "hello").await.expect("taken");
    loop {
        let line = tail.line("the message", PATIENCE).await;
        let event: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        if event["type"] == "message" {
            assert_eq!((&event["user"], &event["data"], &event["seq"]), (&"ann".into(), &"hello".into(), &1.into()));
            break;
        }
    }
    tail.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(tail.exit(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skewed_load_is_evened_out_by_itself() {
    let options = Options {
        weight: Weight::Heavy,
        replication: 2,
        slots: 256,
        router_flags: vec![ANYONE_PUBLISHES],
        rebalancing: true,
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    let before = cluster.placement().await.expect("a placement");
    // The first that the ring alone spreads badly.
    let skews = (0..100).map(|seed| Skew::zipf(500, 1.1, seed));
    let skew = skews.into_iter().find(|s| (1.4..1.7).contains(&s.expected(&before))).expect("some are uneven");
    let expected = skew.expected(&before);
    let traffic = SkewedTraffic::start(&cluster.http(), skew, 500).await;
    let moved = eventually("the rebalancer to move slots", PATIENCE, async || {
        let status = cluster.roomctl_json(&["status"]).await;
        let overrides = status["wishes"]["overrides"].as_object()?.clone();
        (!overrides.is_empty()).then_some(overrides)
    })
    .await;
    assert!(moved.values().all(|o| o["by"] == "rebalancer" && !o["reason"].as_str().unwrap_or_default().is_empty()));
    let after = eventually("what it moved to be there", PATIENCE, async || {
        let placement = cluster.placement().await?;
        let node = |slot: &String| Some(roomring_tests::primary(&placement, slot.parse().ok()?).to_owned());
        moved.iter().all(|(slot, o)| node(slot).as_deref() == o["node"].as_str()).then_some(placement.clone())
    })
    .await;
    let counted = traffic.acked();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ratio = traffic.hottest_since(&counted, &after);
    let (acked, failed) = traffic.stop().await;
    evidence(format!(
        "{} slots moved; the hottest node carried {expected:.2} x the mean, now {ratio:.2} x; {acked} publishes",
        moved.len()
    ));
    assert_eq!(failed, 0, "every publish was taken");
    assert!(ratio < expected - 0.1, "it is more even: {ratio:.2}");
    let plan = cluster.roomctl_json(&["rebalance", "--dry-run"]).await;
    assert!(plan["applied"] == false, "{plan}");
}
