//! Planned moves under load: nobody notices.

use std::time::Duration;

use roomring_proto::v1;
use roomring_tests::{Cluster, Crowd, Options, Outcome, Sent, Traffic, Weight, evidence, primary};

/// Slots that another node holds now; none of them may have lost its state.
fn moved(before: &v1::Placement, after: &v1::Placement) -> usize {
    let slots = 0..before.slots.len();
    assert!(
        slots.clone().all(|s| before.slots[s].generation == after.slots[s].generation),
        "a planned move carries the slot's state",
    );
    slots.filter(|&s| primary(before, s) != primary(after, s)).count()
}

/// No member of any room saw anything but messages in order, and every publish was taken.
async fn nobody_noticed(crowd: &Crowd, sent: &[Sent]) {
    crowd.catch_up().await;
    crowd.check_open();
    let failed: Vec<&Sent> = sent.iter().filter(|s| s.outcome != Outcome::Acked).collect();
    assert!(failed.is_empty(), "{} of {} publishes failed, such as {:?}", failed.len(), sent.len(), failed.first());
    let messages: usize = crowd.rooms().map(|room| crowd.oracle(room, sent).judge_quiet().messages.len()).sum();
    assert!(messages >= sent.len());
    println!("{messages} messages in order in {} rooms", crowd.rooms().count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_and_one_that_leaves_are_invisible_to_clients() {
    let mut cluster = Cluster::start(Options { weight: Weight::Heavy, ..Options::default() }).await;
    let crowd = Crowd::gather("move", &cluster.http(), 60, 4, 6).await;
    let traffic = Traffic::start(crowd.speakers(2), Duration::from_millis(50), None);
    crowd.roll_call("before").await;
    let three = cluster.placement().await.expect("a placement");

    cluster.start_node("node-4").await;
    let four = cluster.settled().await;
    let count = moved(&three, &four);
    assert!(count > 0);
    evidence(format!("{count} of {} slots moved to node-4, no generation rose", four.slots.len()));
    crowd.roll_call("between").await;

    cluster.stop_node("node-2").await;
    assert!(cluster.registration("node-2").await.is_none(), "it signed off");
    let left = cluster.settled().await;
    let count = moved(&four, &left);
    assert!(count > 0);
    evidence(format!("{count} slots moved off node-2, which ended with code 0, no generation rose"));
    crowd.roll_call("after").await;

    let sent = traffic.stop().await;
    nobody_noticed(&crowd, &sent).await;
}
