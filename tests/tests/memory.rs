//! A router that has used up its memory: who is there stays, and nothing new is taken.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use roomring_tests::{Client, Cluster, Options, Socket, Told, eventually, evidence, get, post};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// What the router may use more than at rest.
const MORE: u64 = 16 << 20;

/// It takes no more clients than that to use it up.
const MOST: usize = 10_000;

/// Somebody with a name, in a room.
async fn come(router: SocketAddr, n: usize) -> Result<Socket, Option<u16>> {
    let from = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(127, 88, 0, 1).to_bits() + n as u32 / 1_000));
    let mut socket = Socket::open(router, from, None).await?;
    socket.say(&json!({"id": 1, "connect": {"data": {"user": format!("crowd-{n}")}}})).await;
    let _ = socket.next().await;
    socket.say(&json!({"id": 2, "subscribe": {"channel": format!("crowd-{}", n / 10)}})).await;
    match socket.next().await {
        // Its answer, or that there is no memory for this.
        Told::Message(_) => Ok(socket),
        other => panic!("an answer, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_without_memory_takes_nothing_new_and_throws_nobody_out() {
    let mut cluster = Cluster::start(Options { nodes: 1, routers: 1, ..Options::default() }).await;
    let other = cluster.http()[0];
    let rest = cluster.router_status("router-1").await.rss_bytes;
    let most = rest + MORE;
    let process = cluster.spawn_router_with("router-2", "127.0.0.1:0", &[&format!("--memory-limit={most}")]);
    cluster.adopt_router("router-2", process).await;
    let router = cluster.routers["router-2"].http;
    let (ann, bob) = (Client::connect(router, "ann").await, Client::connect(other, "bob").await);
    for client in [&ann, &bob] {
        client.subscribe("lobby").await;
    }

    let mut crowd = Vec::new();
    let refused = loop {
        assert!(crowd.len() < MOST, "{MOST} clients came");
        match come(router, crowd.len()).await {
            Ok(socket) => crowd.push(socket),
            Err(status) => break status,
        }
    };
    assert_eq!(refused, Some(503));
    let used = cluster.router_status("router-2").await.rss_bytes;
    evidence(format!("refused after {} clients, at {used} bytes of {most}; {rest} at rest", crowd.len()));

    // Nobody comes in another way either.
    let hello = json!({"id": 1, "connect": {"data": {"user": "eve"}}}).to_string();
    let streamed = post(router, "/connection/http_stream", "", &hello).await;
    assert_eq!(streamed.status, 503, "{streamed:?}");
    assert_eq!(get(router, "/healthz").await.status, 200);
    // Who is there may not ask for more, but hears, is answered, and may leave.
    let more = [
        json!({"subscribe": {"channel": "another"}}),
        json!({"publish": {"channel": "lobby", "data": 1}}),
        json!({"history": {"channel": "lobby", "limit": 1}}),
        json!({"presence": {"channel": "lobby"}}),
    ];
    for command in more {
        let error = ann.call(command.clone()).await.expect_err("a refusal");
        assert_eq!((error.code, error.temporary), (111, true), "{command}");
    }
    ann.call(json!({"ping": {}})).await.expect("an answer");
    bob.publish("lobby", "still there?").await.expect("a publish by the other router");
    ann.wait_message("lobby", "still there?").await;
    ann.unsubscribe("lobby").await;
    assert_eq!(ann.now_closed(), None);
    let status = cluster.router_status("router-2").await;
    assert_eq!(status.connections, crowd.len() as u64 + 1, "nobody was thrown out");

    let log = cluster.routers["router-2"].process.log();
    assert!(log.contains("too little memory: nothing new is taken"), "{log}");

    // Once they have left there is room for others.
    drop(crowd);
    let left = eventually("the crowd to be gone", LIMIT, async || {
        let status = cluster.router_status("router-2").await;
        (status.connections == 1).then_some(status.rss_bytes)
    })
    .await;
    evidence(format!("{left} bytes when the crowd was gone"));
    eventually("the router to take something new", LIMIT, async || come(router, 0).await.ok()).await;
    ann.subscribe("another").await;
    let log = cluster.routers["router-2"].process.log();
    assert!(log.contains("enough memory again"), "{log}");
}
