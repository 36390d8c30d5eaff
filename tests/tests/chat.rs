//! The main scenario: many rooms, many members, concurrent publishers, two routers, three nodes, real etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use roomring_tests::{Cluster, Crowd, Options, Outcome, Traffic, Weight, eventually, evidence, holder, primary};

const ROOMS: usize = 300;
const MEMBERS: usize = 20;
const SPEAKERS: usize = 2;
const SAYS: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_rooms_of_twenty_agree_and_survive_a_crash() {
    let mut cluster = Cluster::start(Options { weight: Weight::Heavy, slots: 256, ..Options::default() }).await;
    let crowd = Crowd::gather("room", &cluster.http(), ROOMS, MEMBERS, 10).await;
    assert_eq!(crowd.rooms().count(), ROOMS);
    assert!(crowd.rooms().all(|room| crowd.members(room).len() == MEMBERS));

    let traffic = Traffic::start(crowd.speakers(SPEAKERS), Duration::ZERO, Some(SAYS));
    let mut sent = traffic.finish().await;
    assert_eq!(sent.len(), ROOMS * SPEAKERS * SAYS);
    let refused: Vec<_> = sent.iter().filter(|s| s.outcome != Outcome::Acked).collect();
    assert!(refused.is_empty(), "on a quiet cluster every publish is taken: {refused:?}");
    crowd.catch_up().await;
    crowd.check_open();
    for room in crowd.rooms() {
        let story = crowd.oracle(room, &sent).judge_quiet();
        let offsets: Vec<u64> = story.messages.keys().map(|(_, offset)| *offset).collect();
        let wanted: Vec<u64> = (1..=(SPEAKERS * SAYS) as u64).collect();
        assert_eq!(offsets, wanted, "{room}: sequence 1, 2, 3 ...");
    }
    rooms_sit_as_the_ring_says(&cluster, &crowd).await;

    // The second half of the promise: a node dies.
    let before = cluster.placement().await.expect("a placement");
    let victim = "node-2";
    cluster.kill_node(victim);
    cluster.expired(victim).await;
    cluster.recreated(&before, victim).await;
    cluster.settled().await;
    crowd.catch_up().await;
    let traffic = Traffic::start(crowd.speakers(1), Duration::ZERO, Some(2));
    let again = traffic.finish().await;
    let refused: Vec<_> = again.iter().filter(|s| s.outcome != Outcome::Acked).collect();
    assert!(refused.is_empty(), "every room answers again: {refused:?}");
    sent.extend(again);
    crowd.catch_up().await;
    crowd.check_open();
    let mut told = 0;
    for room in crowd.rooms() {
        let oracle = crowd.oracle(room, &sent);
        if holder(&before, room) == victim {
            let story = oracle.judge();
            oracle.all_at_top(&story);
            for member in crowd.members(room) {
                let log = member.log(room);
                assert_eq!(log.unsubscribed(), [2500], "{room}: {} is told to come back", log.name);
                assert_eq!(log.recoveries(), [false], "{room}: {} is told that the history is lost", log.name);
                told += 1;
            }
        } else {
            oracle.judge_quiet();
        }
    }
    evidence(format!("{told} memberships were told `recovered: false`, all {} sockets stayed", crowd.clients().len()));
    assert!(told > 0, "{victim} held rooms");
}

/// The placement is the ring's wish; nodes, `where` and the placement agree about rooms.
async fn rooms_sit_as_the_ring_says(cluster: &Cluster, crowd: &Crowd) {
    let placement = cluster.placement().await.expect("a placement");
    let wish = cluster.wish(&placement);
    for (slot, wanted) in wish.iter().enumerate() {
        assert_eq!(primary(&placement, slot), wanted[0].as_str(), "slot {slot}");
    }
    let mut rooms: BTreeMap<&str, u64> = BTreeMap::new();
    for room in crowd.rooms() {
        *rooms.entry(holder(&placement, room)).or_default() += 1;
    }
    println!("rooms by node: {rooms:?}");
    for id in cluster.nodes.keys() {
        // A subscribe is answered before the join behind it is in the room's log.
        let what = format!("every member on {id}");
        let there = eventually(&what, Duration::from_secs(10), async || {
            let status = cluster.node_status(id).await;
            (status.members == status.rooms * MEMBERS as u64).then_some(status)
        });
        assert_eq!(Some(&there.await.rooms), rooms.get(id.as_str()), "rooms on {id}");
    }
    for room in crowd.rooms().step_by(60) {
        let answer = cluster.roomctl_json(&["where", room]).await;
        assert_eq!(answer["node"], holder(&placement, room), "{answer}");
    }
}
