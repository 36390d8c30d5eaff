//! A recorded run, written where one asks for it: the history checker's own tests are fed with one.

use std::fs::File;
use std::io::BufWriter;
use std::time::Duration;

use roomring_tests::checker::{self, Claim, Recording, What};
use roomring_tests::{Cluster, Crowd, Options, Traffic, evidence};

/// Names a file that the recording is to be written to.
const RECORD: &str = "ROOMRING_RECORD";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_in_which_a_node_dies_is_recorded_and_holds_every_rule() {
    let mut cluster = Cluster::start(Options::default()).await;
    let crowd = Crowd::gather("recorded", &cluster.http(), 6, 4, 3).await;
    let before = cluster.placement().await.expect("a placement");
    let victim = roomring_tests::holder(&before, "recorded-0").to_owned();
    crowd.roll_call("before").await;
    let traffic = Traffic::start(crowd.speakers(1), Duration::from_millis(20), Some(8));
    traffic.finish().await;
    cluster.kill_node(&victim);
    cluster.expired(&victim).await;
    cluster.recreated(&before, &victim).await;
    cluster.settled().await;
    let traffic = Traffic::start(crowd.speakers(2), Duration::from_millis(20), Some(4));
    traffic.finish().await;
    crowd.catch_up().await;
    crowd.check_open();

    let mut driver = Recording::default();
    driver.say(What::Claimed { claim: Claim::SocketsStay });
    driver.lines.extend(crowd.recording().lines);
    driver.say(What::Calm);
    let calm = driver.lines.len();
    for room in crowd.rooms() {
        crowd.members(room)[0].presence(room).await.expect("an answer");
    }
    let asked = crowd.recording().lines;
    driver.lines.extend(asked.into_iter().skip(calm - 2));

    let violations = checker::violations(&driver);
    assert!(violations.is_empty(), "{violations:#?}");
    let verdicts = checker::check(&driver);
    let idle: Vec<&str> = verdicts.iter().filter(|v| v.findings.looked_at == 0).map(|v| v.rule).collect();
    evidence(format!("{} events; rules with nothing to check: {idle:?}", driver.lines.len()));
    if let Some(path) = std::env::var_os(RECORD) {
        let file = File::create(&path).expect("a file for the recording");
        driver.write(BufWriter::new(file)).expect("a recording");
    }
}
