//! Faults of processes and of the network under load: what is promised holds, and each fault is shown to have taken effect.

use std::time::{Duration, Instant};

use roomring_proto::v1;
use roomring_proto::v1::eviction::Cause;
use roomring_tests::checker::Recording;
use roomring_tests::{
    Before, Client, Cluster, Fault, Options, Oracle, Stage, Weight, eventually, evidence, judge, out_of_contact,
    primary,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Two copies; neither the lease nor an absence of etcd is to be what decides.
fn options() -> Options {
    Options { weight: Weight::Heavy, replication: 2, lease_ttl: "20s", fence_after: "60s", ..Options::default() }
}

fn with_net() -> Options {
    Options { net: true, ..options() }
}

fn cut(from: &str, to: &str, one_way: bool, lasts: Duration) -> Fault {
    Fault::Cut { from: from.into(), to: to.into(), one_way, lasts }
}

/// Two nodes can't hear each other, in one way and in both; a third hears both and takes over their copies of each other's
/// slots. Every publish is acknowledged, at the cut too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_lose_each_other_lose_nothing() {
    let stage = Stage::set("apart", with_net()).await;
    let cluster = &stage.cluster;
    let node = |p: &v1::Placement, seat: &v1::Seat| p.members[seat.member as usize].node_id.clone();
    // Slots of the one with a copy at the other.
    let shared = |p: &v1::Placement| {
        let pair = |slot: &v1::Slot| {
            let names: Vec<String> = slot.in_sync.iter().map(|s| node(p, s)).collect();
            ["node-1", "node-2"].iter().all(|n| names.iter().any(|name| name == n))
        };
        p.slots.iter().filter(|slot| pair(slot)).count()
    };
    let primaries = |p: &v1::Placement| (0..p.slots.len()).map(|s| primary(p, s).to_owned()).collect::<Vec<_>>();
    for one_way in [true, false] {
        let before = cluster.settled().await;
        assert!(shared(&before) > 0);
        let cut_at = Instant::now();
        cluster.net().cut_one_way("node-1", "node-2");
        if !one_way {
            cluster.net().cut_one_way("node-2", "node-1");
        }
        cluster.net().felt("node-1", "node-2").await;
        let copied = |p: &v1::Placement| p.slots.iter().all(|slot| slot.in_sync.len() == 2 && slot.learners.is_empty());
        let now = eventually("the third node to hold the copies", LIMIT, async || {
            let now = cluster.placement().await?;
            (!now.apart.is_empty() && shared(&now) == 0 && copied(&now)).then_some(now)
        })
        .await;
        evidence(format!(
            "{} slots that the two shared have their other copy at the third, {:?} after the cut",
            shared(&before),
            cut_at.elapsed()
        ));
        assert_eq!(primaries(&now), primaries(&before), "no room had to move");
        let evicted = |p: &v1::Placement| p.recent.iter().map(|r| r.evictions.len()).sum::<usize>();
        assert_eq!(evicted(&now), evicted(&before), "both are well: the third says so");
        stage.crowd.roll_call(&format!("apart, one way: {one_way}")).await;
        cluster.net().heal();
        assert_eq!(cluster.settled().await.apart, []);
        stage.crowd.roll_call(&format!("together again after a cut, one way: {one_way}")).await;
    }
    stage.nothing_lost(true).await;
}

/// A node that only etcd hears is evicted by those who miss it, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_nobody_hears_is_evicted_and_comes_back() {
    let mut stage = Stage::set("alone", with_net()).await;
    Fault::Isolate("node-3".into()).strike(&mut stage.cluster).await;
    stage.crowd.roll_call("back").await;
    stage.nothing_lost(true).await;
}

/// A node that loses etcd, in each way and in both, hands its rooms over while it still may serve them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_etcd_hands_its_rooms_over() {
    let stage = Stage::set("blind", with_net()).await;
    let cluster = &stage.cluster;
    for (from, to, both) in [("node-2", "etcd", true), ("etcd", "node-2", false), ("node-2", "etcd", false)] {
        let before = Before::of(cluster, "node-2").await;
        if both {
            cluster.net().cut(from, to);
        } else {
            cluster.net().cut_one_way(from, to);
        }
        cluster.net().felt(from, to).await;
        before.led_elsewhere(cluster).await;
        let now = cluster.placement().await.expect("a placement");
        let kept = |s: usize| now.slots[s].generation == before.placement().slots[s].generation;
        assert!((0..now.slots.len()).all(kept), "the rooms moved, they were not made anew");
        stage.crowd.roll_call(&format!("without it, {from} to {to}, both ways: {both}")).await;
        cluster.net().heal();
        cluster.settled().await;
    }
    stage.nothing_lost(true).await;
}

/// A router and a node can't hear each other for less than a publish may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_loses_a_node_for_a_moment_loses_nothing() {
    let mut stage = Stage::set("deaf", with_net()).await;
    let moment = Duration::from_millis(1500);
    for fault in [
        cut("router-1", "node-1", false, moment),
        cut("router-1", "node-2", true, moment),
        cut("node-3", "router-2", true, moment),
    ] {
        fault.strike(&mut stage.cluster).await;
        stage.crowd.roll_call(&format!("after: {fault}")).await;
    }
    stage.nothing_lost(false).await;
}

/// As long as nothing else fails nobody notices that etcd is away for less than `fence_after`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_absence_of_etcd_is_noticed_by_nobody() {
    let mut stage = Stage::set("short", options()).await;
    let before = stage.cluster.placement().await.expect("a placement");
    Fault::EtcdDown(Duration::from_secs(4)).strike(&mut stage.cluster).await;
    let after = stage.cluster.placement().await.expect("a placement");
    assert_eq!((after.uid, after.version), (before.uid, before.version), "nothing had to be placed anew");
    let tally = stage.nothing_lost(true).await;
    assert_eq!(tally.returned, 0, "nobody had to come back");
}

/// After `fence_after` publishes fail clearly; when etcd is back all is well within seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_absence_of_etcd_ends_publishing_and_nothing_else() {
    let mut stage = Stage::set("long", Options { fence_after: "3s", lease_ttl: "10s", ..options() }).await;
    stage.cluster.etcd.kill();
    for node in ["node-1", "node-2", "node-3"] {
        out_of_contact(&stage.cluster, node, Duration::from_secs(3)).await;
    }
    let asked = Instant::now();
    let room = stage.crowd.rooms().next().expect("a room").to_owned();
    let refused = stage.crowd.members(&room)[0].publish(&room, "into the void").await.expect_err("nobody may take it");
    assert_eq!((refused.code, refused.temporary), (100, true), "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(6), "answered after {:?}", asked.elapsed());
    evidence(format!("a publish without etcd: {refused}, after {:?}", asked.elapsed()));

    stage.cluster.etcd.start().await;
    let back = Instant::now();
    let crowd = &stage.crowd;
    for room in crowd.rooms() {
        eventually(&format!("{room} to take publishes again"), LIMIT, async || {
            crowd.members(room)[0].publish(room, "back").await.ok()
        })
        .await;
    }
    evidence(format!("every room takes publishes again {:?} after etcd answers", back.elapsed()));
    assert!(back.elapsed() < Duration::from_secs(20), "within seconds: {:?}", back.elapsed());
    stage.cluster.settled().await;
    let tally = stage.nothing_lost(false).await;
    assert!(tally.refused > 0, "publishers felt it: {tally:?}");
}

/// Clients of a router that dies find everything at another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_router_that_dies_find_everything_at_another() {
    let mut stage = Stage::set("router", options()).await;
    let address = stage.cluster.kill_router("router-2");
    let other = stage.cluster.http()[0];
    let lost: Vec<_> = stage.crowd.clients().iter().filter(|c| c.router() == address).cloned().collect();
    assert!(!lost.is_empty());
    for client in &lost {
        client.closed().await;
    }
    evidence(format!("{} sockets ended with their router", lost.len()));
    // They come back elsewhere, from where they were.
    let rooms: Vec<String> = stage.crowd.rooms().map(str::to_owned).collect();
    let mut recovered = 0;
    let mut back = Vec::new();
    for old in &lost {
        let client = Client::connect(other, old.name()).await;
        for room in &rooms {
            let log = old.log(room);
            if log.epoch.is_empty() {
                continue;
            }
            let answer = client.recover(room, &log.epoch, log.offset).await.expect("a subscription");
            assert_eq!(
                answer["recovered"],
                true,
                "{} in {room} from {}/{}: {answer}",
                old.name(),
                log.epoch,
                log.offset
            );
            assert_eq!(answer["epoch"], log.epoch.as_str(), "the same history");
            recovered += 1;
        }
        back.push(client);
    }
    evidence(format!("{recovered} subscriptions recovered at the other router"));
    let (_cluster, crowd, sent) = stage.hush().await;
    for room in &rooms {
        let here: Vec<_> = crowd.members(room).iter().filter(|c| c.router() == other).collect();
        here[0].publish(room, "the end").await.expect("a publish");
        let there = back.iter().filter(|c| c.log(room).subscribed);
        for client in here.into_iter().map(AsRef::as_ref).chain(there) {
            client.wait_message(room, "the end").await;
        }
        // Those who came back are judged with the others.
        let notes = crowd.members(room).iter().map(|c| c.notes()).chain(back.iter().map(Client::notes));
        let oracle = Oracle::new(room, Recording::gather(notes).room(room));
        oracle.expect_sent(&sent);
        let story = oracle.judge();
        assert_eq!((story.epochs.len(), story.not_recovered), (1, 0), "{room}: {:?}", story.epochs);
    }
}

/// Two nodes in quick succession: the second death waits for its lease, and what had its only copy there is made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_deaths_in_quick_succession_are_told_honestly() {
    let options = Options { fence_after: "3s", lease_ttl: "2s", ..options() };
    let mut stage = Stage::set("two", options).await;
    let (first, second) = (Before::of(&stage.cluster, "node-1").await, Before::of(&stage.cluster, "node-2").await);
    let seats = |slot: usize| -> Vec<&str> {
        let placement = first.placement();
        let seats = placement.slots[slot].in_sync.iter();
        seats.map(|s| placement.members[s.member as usize].node_id.as_str()).collect()
    };
    let slots = first.placement().slots.len();
    let only_there: Vec<usize> = (0..slots).filter(|&s| !seats(s).contains(&"node-3")).collect();
    assert!(!only_there.is_empty(), "some slots have both copies on the two");
    stage.cluster.kill_node("node-1");
    stage.cluster.kill_node("node-2");
    first.evicted(&stage.cluster, &[Cause::Refused, Cause::Silent, Cause::Lapsed]).await;
    second.evicted(&stage.cluster, &[Cause::Refused, Cause::Silent, Cause::Lapsed]).await;
    let now = eventually("the slots that are lost to be made anew", LIMIT, async || {
        let now = stage.cluster.placement().await?;
        let risen = |&s: &usize| now.slots[s].generation > first.placement().slots[s].generation;
        only_there.iter().all(risen).then_some(now)
    })
    .await;
    evidence(format!("{} of {slots} slots had both copies on the two, and were made anew", only_there.len()));
    for s in (0..slots).filter(|s| !only_there.contains(s)) {
        assert_eq!(now.slots[s].generation, first.placement().slots[s].generation, "slot {s} had a copy on node-3");
        assert_eq!(primary(&now, s), "node-3");
    }
    stage.cluster.start_node("node-1").await;
    stage.cluster.start_node("node-2").await;
    stage.cluster.settled().await;
    let (_cluster, crowd, sent) = stage.hush().await;
    // The judge lets an acknowledged publish be absent only where members were told of a new epoch.
    let tally = judge(&crowd, &sent).await;
    assert!(tally.missed > 0, "members of rooms that were lost were told: {tally:?}");
}

/// All processes end and start again while etcd is away: they say what they wait for, and the cluster comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_restart_while_etcd_is_away() {
    let options = Options { fence_after: "3s", lease_ttl: "2s", ..options() };
    let mut cluster = Cluster::start(options).await;
    let ann = Client::connect(cluster.http()[0], "ann").await;
    ann.subscribe("lobby").await;
    ann.publish("lobby", "before").await.expect("a publish");
    ann.wait_message("lobby", "before").await;
    let before = ann.log("lobby");

    cluster.etcd.kill();
    let (nodes, routers) = (["node-1", "node-2", "node-3"], ["router-1", "router-2"]);
    nodes.iter().for_each(|id| cluster.kill_node(id));
    for id in routers {
        cluster.kill_router(id);
    }
    ann.closed().await;
    let url = cluster.etcd.url().to_owned();
    // Logs are appended to: only what is said from here on counts.
    let said = |cluster: &Cluster, id: &str| {
        std::fs::read_to_string(cluster.log(id)).unwrap_or_default().matches(&url).count()
    };
    let earlier: Vec<usize> = nodes.iter().chain(&routers).map(|id| said(&cluster, id)).collect();
    let started: Vec<_> = nodes.iter().map(|id| cluster.spawn_node(id)).collect();
    let started_routers: Vec<_> = routers.iter().map(|id| cluster.spawn_router(id, "127.0.0.1:0")).collect();
    for (id, earlier) in nodes.iter().chain(&routers).zip(earlier) {
        eventually(&format!("{id} to name {url}, twice"), LIMIT, async || {
            (said(&cluster, id) >= earlier + 2).then_some(())
        })
        .await;
        evidence(format!("{id} says that it waits for {url}"));
    }
    cluster.etcd.start().await;
    for (id, process) in nodes.iter().zip(started) {
        cluster.adopt_node(id, process).await;
    }
    for (id, process) in routers.iter().zip(started_routers) {
        cluster.adopt_router(id, process).await;
    }
    cluster.settled().await;
    let back = Client::connect(cluster.http()[0], "ann").await;
    let answer = back.recover("lobby", &before.epoch, before.offset).await.expect("a subscription");
    assert_ne!(answer["recovered"], true, "all copies are gone, and that is said: {answer}");
    assert_ne!(answer["epoch"], before.epoch.as_str(), "a new history");
    evidence("the client is told that the room's history is gone");
    back.publish("lobby", "after").await.expect("a publish");
    back.wait_message("lobby", "after").await;
}
