//! A node's start, its place in a cluster, and its end: nodes in this process, and the built binary, on real etcd.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use roomring_proto::v1;
use roomring_proto::v1::admin_client::AdminClient;
use roomring_proto::v1::node_message::Kind as FromNode;
use roomring_proto::v1::router_message::Kind as FromRouter;
use support::{Etcd, Link, Node, PATIENCE, SLOTS, config, hello, publish};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn status(addr: std::net::SocketAddr) -> v1::NodeStatusReply {
    let mut admin = AdminClient::connect(format!("http://{addr}")).await.unwrap();
    admin.node_status(v1::NodeStatusRequest { slots: true }).await.unwrap().into_inner()
}

async fn health(addr: std::net::SocketAddr) -> HealthClient<Channel> {
    HealthClient::new(Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap())
}

/// What the admin port answers.
fn get(admin: std::net::SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(admin).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// Asks until `done`; the last answer is shown if that takes too long.
async fn until(addr: std::net::SocketAddr, done: impl Fn(&v1::NodeStatusReply) -> bool) -> v1::NodeStatusReply {
    let started = Instant::now();
    loop {
        let status = status(addr).await;
        if done(&status) {
            return status;
        }
        assert!(started.elapsed() < PATIENCE, "{status:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// How a node that can't start ends.
async fn failure(config: roomring_node::config::Config) -> String {
    let (ready, is_ready) = oneshot::channel();
    let end = timeout(PATIENCE, roomring_node::run(config, CancellationToken::new(), ready)).await.expect("an end");
    assert!(is_ready.await.is_err(), "it was ready");
    end.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_status_and_a_lone_stop() {
    let (etcd, home) = (Etcd::start(), tempfile::tempdir().unwrap());
    let node = Node::start(config(&etcd, "node-1", home.path(), &[])).await;
    let mut client = health(node.addr).await;
    for service in ["", "roomring.v1.Link", "roomring.v1.Admin"] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(client.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let (mut link, greeting) = Link::open(node.addr, hello(1001, 1)).await;
    link.attach("lobby", &["a", "b"], None).await;
    link.send(FromRouter::Publish(publish("lobby", 1, "x"))).await;
    while !matches!(link.next().await, FromNode::Published(_)) {}
    let s = status(node.addr).await;
    assert_eq!((s.node_id.as_str(), s.incarnation), ("node-1", greeting.incarnation));
    assert_eq!((s.primaries, s.replicas, s.learners, s.slots.len()), (SLOTS, 0, 0, SLOTS as usize));
    assert_eq!((s.rooms, s.members, s.routers, s.publishes_total), (1, 2, 1, 1));
    assert!(s.deliveries_total >= 3 && s.rss_bytes > 1 << 20 && s.contact_age_ms < 10_000, "{s:?}");

    // Nobody could take its rooms, so it does not wait.
    let told = Instant::now();
    node.end().await;
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    // The stream was ended by the node, not by its socket.
    let end = link.end().await;
    assert_eq!(end.message(), "the node is stopping", "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_takes_its_share_and_a_stopping_one_hands_over() {
    let (etcd, homes) = (Etcd::start(), tempfile::tempdir().unwrap());
    let first = Node::start(config(&etcd, "node-1", &homes.path().join("1"), &[])).await;
    until(first.addr, |s| s.primaries == SLOTS).await;
    // A room in every slot, with history that must move along.
    let (mut link, _) = Link::open(first.addr, hello(1001, 1)).await;
    let rooms: Vec<String> =
        (0..SLOTS).map(|slot| (0..).map(|n| format!("r{n}")).find(|r| support::slot(r) == slot).unwrap()).collect();
    let mut positions = Vec::new();
    for room in &rooms {
        let epoch = link.attach(room, &[], None).await.epoch.unwrap();
        link.send(FromRouter::Publish(publish(room, 1, "before"))).await;
        let (mut answered, mut delivered) = (None, None);
        while answered.is_none() || delivered.is_none() {
            match link.next().await {
                FromNode::Published(p) => answered = Some((p.seq, p.refused)),
                FromNode::Deliver(d) => match d.events[..] {
                    [v1::Event { kind: Some(v1::event::Kind::Publication(ref p)) }] => delivered = Some(p.lsn),
                    ref other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answered, Some((1, None)));
        positions.push((epoch, 1, delivered.unwrap()));
    }

    let second = Node::start(config(&etcd, "node-2", &homes.path().join("2"), &[])).await;
    let s = until(second.addr, |s| s.primaries > 0 && s.primaries < SLOTS && s.learners == 0).await;
    let moved: Vec<u32> = s.slots.iter().map(|s| s.slot).collect();
    // The router is told by the one that lost them.
    let mut told = Vec::new();
    while told.len() < moved.len() {
        if let FromNode::NotPrimary(n) = link.next().await {
            told.push(n.slot);
        }
    }
    told.sort_unstable();
    assert_eq!(told, moved);

    // The first is told to stop: it serves until the second has everything, then goes.
    let addr = first.addr;
    first.stop.cancel();
    let mut client = health(addr).await;
    let end = timeout(PATIENCE, first.task);
    let s = until(second.addr, |s| s.primaries == SLOTS).await;
    end.await.expect("ends in time").unwrap().unwrap();
    assert_eq!(s.rooms, u64::from(SLOTS));
    let gone = client.check(HealthCheckRequest::default()).await;
    assert!(gone.is_err(), "{gone:?}");

    let (mut link, _) = Link::open(second.addr, hello(1001, 2)).await;
    for (room, position) in rooms.iter().zip(positions) {
        let attached = link.attach(room, &[], Some(position)).await;
        let found = (attached.epoch, attached.seq, attached.gap, attached.replay.len());
        assert_eq!(found, (Some(position.0), 1, false, 0), "the same room, where it was");
        // The number that was taken before the move is answered from memory.
        link.send(FromRouter::Publish(publish(room, 1, "before"))).await;
        match link.next().await {
            FromNode::Published(p) => assert_eq!((p.seq, p.refused), (1, None)),
            FromNode::Deliver(d) => panic!("delivered twice: {d:?}"),
            other => panic!("{other:?}"),
        }
    }
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_start_says_why() {
    let (etcd, homes) = (Etcd::start(), tempfile::tempdir().unwrap());
    let home = homes.path().join("1");
    let ttl = "--lease-ttl=2s";
    let node = Node::start(config(&etcd, "node-1", &home, &[ttl])).await;

    let mut taken = config(&etcd, "node-2", &homes.path().join("2"), &[]);
    taken.listen = node.addr;
    let says = failure(taken).await;
    assert!(says.starts_with(&format!("listen {}: Address already in use", node.addr)), "{says}");
    let says = failure(config(&etcd, "node-1", &home, &[])).await;
    assert!(says.starts_with(&format!("home {}: in use by another process", home.display())), "{says}");
    let says = failure(config(&etcd, "node-1", &homes.path().join("2"), &[ttl])).await;
    assert!(says.starts_with(&format!("node id node-1 is in use by {}", node.addr)), "{says}");
    assert_eq!(says.lines().count(), 1);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_begins_a_new_history() {
    let (mut etcd, home) = (Etcd::start(), tempfile::tempdir().unwrap());
    let node = Node::start(config(&etcd, "node-1", home.path(), &["--lease-ttl=2s", "--fence-after=500ms"])).await;
    let (mut link, before) = Link::open(node.addr, hello(1001, 1)).await;
    let old = link.attach("lobby", &["a"], None).await.epoch.unwrap();

    etcd.wipe();
    let end = link.end().await;
    assert_eq!(end.message(), "the node is stopping", "{end:?}");
    let s = until_back(node.addr, before.incarnation).await;
    assert_ne!(s.placement.unwrap().uid, before.placement.unwrap().uid);
    let (mut link, after) = Link::open(node.addr, hello(1001, 2)).await;
    assert_ne!(after.incarnation, before.incarnation);
    let new = link.attach("lobby", &["a"], Some((old, 0, 0))).await;
    assert!(new.epoch != Some(old) && new.gap, "{new:?}");
    node.end().await;
}

/// Waits until the node at `addr` has another incarnation and all slots.
async fn until_back(addr: std::net::SocketAddr, incarnation: u64) -> v1::NodeStatusReply {
    let started = Instant::now();
    loop {
        if let Ok(mut admin) = AdminClient::connect(format!("http://{addr}")).await
            && let Ok(status) = admin.node_status(v1::NodeStatusRequest { slots: false }).await
            && status.get_ref().incarnation != incarnation
            && status.get_ref().primaries == SLOTS
        {
            return status.into_inner();
        }
        assert!(started.elapsed() < PATIENCE, "not back");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_says_when_it_is_ready_and_what_is_wrong() {
    use std::io::{BufRead, BufReader, Read};
    let (etcd, home) = (Etcd::start(), tempfile::tempdir().unwrap());
    let binary = env!("CARGO_BIN_EXE_roomring-node");
    let mut child = Command::new(binary)
        .args(["--id=node-1", "--listen=127.0.0.1:0", "--slots=8", "--log-format=json"])
        .arg(format!("--etcd={}", etcd.url))
        .arg(format!("--home={}", home.path().display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let told = line.trim_end().strip_prefix("ready id=node-1 grpc=").and_then(|rest| rest.split_once(" admin="));
    let (addr, admin) = told.unwrap_or_else(|| panic!("{line:?}"));
    let s = status(addr.parse().unwrap()).await;
    assert_eq!(s.primaries, 8);
    assert!(get(admin.parse().unwrap(), "/healthz").starts_with("HTTP/1.1 200 "));
    let killed = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let (mut rest, mut log) = (String::new(), String::new());
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "one line on stdout");
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.lines().all(|l| l.starts_with('{') && l.ends_with('}')), "{log}");
    assert!(log.contains("\"message\":\"drained\""), "{log}");

    let bad = Command::new(binary).args(["--id=node-1", "--weight=0"]).output().unwrap();
    assert_eq!((bad.status.code(), bad.stdout.len()), (Some(2), 0));
    let says = String::from_utf8(bad.stderr).unwrap();
    assert_eq!(says, "roomring-node: configuration: `weight`: is 0, it must be 1 to 10000\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_all_told_to_stop_do_not_wait_for_each_other() {
    let (etcd, homes) = (Etcd::start(), tempfile::tempdir().unwrap());
    let mut nodes = Vec::new();
    for id in ["node-1", "node-2", "node-3"] {
        nodes.push(Node::start(config(&etcd, id, &homes.path().join(id), &["--stop-grace=60s"])).await);
    }
    for node in &nodes {
        until(node.addr, |s| (1..SLOTS).contains(&s.primaries) && s.learners == 0).await;
    }
    let told = Instant::now();
    nodes.iter().for_each(|n| n.stop.cancel());
    for node in nodes {
        node.end().await;
    }
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}
