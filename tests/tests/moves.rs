//! Planned moves under load: nobody notices.

use std::process::Command;
use std::time::Duration;

use roomring_proto::v1;
use roomring_tests::{Cluster, Crowd, Options, Outcome, Sent, Traffic, Weight, eventually, evidence, primary};

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
    // Several workers in each node, which smaller machines have only when told so.
    let node_flags = vec!["--threads=2"];
    let mut cluster = Cluster::start(Options { weight: Weight::Heavy, node_flags, ..Options::default() }).await;
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

    // An order that is taken back in mid-move.
    cluster.roomctl_json(&["drain", "node-4"]).await;
    let begun = eventually("the drain to have begun", Duration::from_secs(60), async || {
        let now = cluster.placement().await?;
        (moved(&four, &now) > 0).then_some(now)
    })
    .await;
    cluster.roomctl_json(&["undrain", "node-4"]).await;
    let back = cluster.settled().await;
    assert_eq!(moved(&four, &back), 0, "all is as it was");
    evidence(format!("the drain of node-4 was taken back when {} slots had moved", moved(&four, &begun)));

    // Emptied by order, it has nothing to wait for when it is told to end.
    let drained = cluster.roomctl_json(&["drain", "node-2", "--wait", "--timeout", "60s"]).await;
    assert_eq!(drained["left"]["seats"], 0, "{drained}");
    cluster.stop_node("node-2").await;
    assert!(cluster.registration("node-2").await.is_none(), "it signed off");
    let left = cluster.settled().await;
    let count = moved(&four, &left);
    assert!(count > 0);
    evidence(format!("{count} slots moved off node-2, which ended with code 0, no generation rose"));

    // And one that is told to end without an order.
    cluster.stop_node("node-1").await;
    assert!(cluster.registration("node-1").await.is_none(), "it signed off");
    let two = cluster.settled().await;
    evidence(format!("{} slots moved off node-1, which was told to end", moved(&left, &two)));
    crowd.roll_call("after").await;

    let sent = traffic.stop().await;
    nobody_noticed(&crowd, &sent).await;
}

/// The benchmark at its smallest: the checker must be content, and every figure be there. None is judged.
#[test]
fn bench_of_resharding_gives_every_figure() {
    let small = "--rounds 1 --rooms 90 --members 30 --each 3 --history 5 --rate 200 --close 2 --slots 64 --rest 300";
    let ran = Command::new(env!("CARGO_BIN_EXE_bench-reshard")).args(small.split(' ')).output().expect("it starts");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    let figure = |row: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("| {row}"))).unwrap_or_else(|| panic!("{row}"));
        let value = line.split('|').nth(3).and_then(|cell| cell.split_whitespace().next());
        value.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("a figure in {line}"))
    };
    for row in ["pause of a room", "slots moved by one join", "drain of a node's primaries", "drain of a node whole"] {
        assert!(figure(row) > 0.0, "{said}");
    }
    for row in ["sockets dropped", "messages lost", "messages delivered twice", "messages out of order"] {
        assert_eq!(figure(row), 0.0, "{said}");
    }
}
