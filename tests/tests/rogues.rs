//! Good clients beside as many that mean harm: the good lose nothing and stay, the others get what is documented. How soon messages
//! come is for `make bench-rogues`.

use std::time::Duration;

use roomring_tests::{
    Cluster, Crowd, Got, Options, Outcome, Rogue, Rogues, Traffic, Weight, eventually, evidence, resident_bytes, write,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Far more than such a cluster uses in a debug build, and far less than 56 rogues could make it use in this time.
const MOST_MEMORY: u64 = 512 << 20;

/// Every rogue has come to its end several times by then.
const HARM: Duration = Duration::from_secs(8);

const CONFIG: &str = r#"
connections_per_address = 100
commands_per_connection = "50/300"
publishes_per_room = "200/1000"
handshake_timeout = "2s"
client_queue_bytes = "64KiB"
"#;

/// What each kind may get, and what it must get.
fn documented(rogue: Rogue) -> (&'static [&'static str], &'static [&'static str]) {
    match rogue {
        // Closed with 3008, which is lost when the kernel resets a connection that has unread bytes.
        Rogue::SlowReader => (&["close 3008", "cut off", "left"], &[]),
        Rogue::SlowHandshake => (&["cut off", "HTTP 408"], &[]),
        // Its answers may be more than it reads.
        Rogue::CommandFlood => {
            (&["sent", "error 111", "close 3008", "close 3013", "cut off"], &["error 111", "close 3013"])
        }
        Rogue::PingFlood => (&["sent", "close 3013", "cut off"], &["close 3013"]),
        Rogue::Churn => (&["left"], &["left"]),
        Rogue::Oversize => (&["close 1009", "cut off"], &["close 1009"]),
        Rogue::Garbage => (
            &["close 1002", "close 1007", "close 1009", "close 3501", "HTTP 400", "cut off", "left"],
            &["close 3501", "HTTP 400"],
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_clients_notice_nothing_of_rogues() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("router.toml");
    write(&file, CONFIG);
    let flag = &*Box::leak(format!("--config={}", file.display()).into_boxed_str());
    let options =
        Options { weight: Weight::Heavy, routers: 1, replication: 2, router_flags: vec![flag], ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let router = cluster.http()[0];
    let crowd = Crowd::gather("good", &[router], 10, 5, 1).await;
    let traffic = Traffic::start(crowd.speakers(2), Duration::from_millis(50), None);
    crowd.roll_call("before").await;

    let slow = cluster.router_status("router-1").await.slow_clients_total;
    let rogues = Rogues::start(router, 56, &Rogue::ALL, Duration::from_millis(200));
    tokio::time::sleep(HARM).await;
    crowd.roll_call("among rogues").await;
    eventually("slow readers to be cut off", LIMIT, async || {
        (cluster.router_status("router-1").await.slow_clients_total > slow).then_some(())
    })
    .await;
    let routers = cluster.routers.values_mut().map(|r| &mut r.process);
    for process in routers.chain(cluster.nodes.values_mut().map(|n| &mut n.process)) {
        assert!(process.is_running(), "{}", process.tail());
        let used = resident_bytes(process.pid());
        assert!(used < MOST_MEMORY, "{} has {used} bytes", process.name());
        evidence(format!("{}: {} MiB among rogues", process.name(), used >> 20));
    }
    let got: Got = rogues.stop().await;
    crowd.roll_call("after").await;
    let sent = traffic.stop().await;

    for rogue in Rogue::ALL {
        let what: Vec<(&str, u64)> =
            got.iter().filter(|((kind, _), _)| *kind == rogue).map(|((_, what), n)| (what.as_str(), *n)).collect();
        evidence(format!("{rogue}: {what:?}"));
        let (may, must) = documented(rogue);
        assert!(!what.is_empty(), "{rogue} got nothing");
        assert!(what.iter().all(|(what, _)| may.contains(what)), "{rogue}: {what:?}, not of {may:?}");
        assert!(
            must.iter().all(|must| what.iter().any(|(what, n)| what == must && *n > 0)),
            "{rogue}: {what:?} without {must:?}"
        );
    }
    crowd.catch_up().await;
    crowd.check_open();
    let failed: Vec<_> = sent.iter().filter(|s| s.outcome != Outcome::Acked).collect();
    assert!(failed.is_empty(), "{} of {} publishes failed, such as {:?}", failed.len(), sent.len(), failed.first());
    let messages: usize = crowd.rooms().map(|room| crowd.oracle(room, &sent).judge_quiet().messages.len()).sum();
    assert!(messages >= sent.len());
    println!("{messages} messages of good clients, in order, to everybody");
    eventually("the rogues to be gone", LIMIT, async || {
        (cluster.router_status("router-1").await.connections == crowd.clients().len() as u64).then_some(())
    })
    .await;
}
