//! Clients without WebSockets: an unmodified SDK over HTTP streaming, and server-sent events byte by byte.

use std::time::Duration;

use roomring_tests::{Client, Cluster, Encoding, Options, Proxy, Sdk, SdkKind, Tcp, eventually, evidence, post};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

async fn cluster() -> Cluster {
    Cluster::start(Options { nodes: 1, routers: 2, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centrifuge_js_over_http_streaming() {
    over_http(Encoding::Json).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centrifuge_js_over_http_streaming_in_protobuf() {
    over_http(Encoding::Protobuf).await;
}

/// What it says goes to another router than the one that it listens to.
async fn over_http(encoding: Encoding) {
    let cluster = cluster().await;
    let [one, two] = cluster.http()[..] else { panic!("two routers") };
    let proxy = Proxy::start(one).await;
    let mut ann = Sdk::start(SdkKind::JavaScript, encoding, "ann", &cluster.path("."));
    let stream = format!("http://{}/connection/http_stream", proxy.address());
    let emulation = format!("http://{two}/emulation");
    ann.ok(
        "connect",
        json!({"url": [{"transport": "http_stream", "endpoint": stream}], "emulation": emulation, "user": "ann"}),
    )
    .await;
    ann.event("connected").await;
    ann.ok("subscribe", json!({"room": "lobby"})).await;
    ann.event("subscribed").await;
    let bob = Client::connect(two, "bob").await;
    bob.subscribe("lobby").await;
    ann.ok("publish", json!({"room": "lobby", "data": "from ann"})).await;
    bob.wait_message("lobby", "from ann").await;
    bob.publish("lobby", "from bob").await.expect("a publish");
    ann.publication(&json!("from bob")).await;
    // Cut off, it comes back and recovers.
    proxy.cut();
    ann.event("connecting").await;
    bob.publish("lobby", "meanwhile").await.expect("a publish");
    ann.publication(&json!("meanwhile")).await;
    evidence("the answer was cut, and begun again");
}

/// Reads the next event.
async fn event(tcp: &mut Tcp) -> Value {
    let mut all = tcp.read_until(b"\n\n").await;
    let text = String::from_utf8(std::mem::take(&mut all)).expect("text");
    let data = text.rsplit_once("data: ").unwrap_or_else(|| panic!("an event in {text:?}")).1;
    let data = data.split("\n\n").next().unwrap_or_default();
    serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events() {
    let cluster = cluster().await;
    let [one, two] = cluster.http()[..] else { panic!("two routers") };
    let connect = "%7B%22id%22:1,%22connect%22:%7B%22data%22:%7B%22user%22:%22ann%22%7D%7D%7D";
    let mut ann = Tcp::connect(one).await;
    ann.send(format!("GET /connection/sse?cf_connect={connect} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let opened = event(&mut ann).await;
    let (session, node) = (&opened["connect"]["session"], &opened["connect"]["node"]);
    assert!(session.as_str().is_some_and(|s| s.len() == 32) && node == "router-1", "{opened}");
    assert_ne!(session, &opened["connect"]["client"], "others are shown that");
    // At the router itself, and at the other.
    let mut id = 1;
    for (router, row) in [(one, "here"), (two, "there")] {
        id += 1;
        let command = json!({"id": id, "subscribe": {"channel": row}}).to_string();
        let request = json!({"session": session, "node": node, "data": command}).to_string();
        assert_eq!(post(router, "/emulation", "", &request).await.status, 204, "{row}");
        let answer = event(&mut ann).await;
        assert_eq!(answer["id"], id, "{answer}");
    }
    let long = "x".repeat(70_000);
    for (row, request, status) in [
        ("a session that is not there", json!({"session": "0".repeat(32), "node": node, "data": "{}"}), 204),
        ("a router that is not there", json!({"session": session, "node": "router-9", "data": "{}"}), 404),
        ("too much", json!({"session": session, "node": node, "data": long}), 413),
        ("nothing", json!({}), 400),
    ] {
        assert_eq!(post(one, "/emulation", "", &request.to_string()).await.status, status, "{row}");
    }
    for (row, request, status) in [
        ("no connect command", "GET /connection/sse HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("a page of others", "GET /connection/sse?cf_connect=x HTTP/1.1\r\nHost: x\r\nOrigin: http://y\r\n\r\n", 403),
        ("another method", "PUT /emulation HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("a browser that asks first", "OPTIONS /emulation HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n", 200),
    ] {
        let mut tcp = Tcp::connect(one).await;
        tcp.send(request.as_bytes()).await;
        assert_eq!(tcp.status().await, status, "{row}");
    }
    // What breaks the protocol ends the session, and says so.
    let request = json!({"session": session, "node": node, "data": "nonsense"}).to_string();
    post(one, "/emulation", "", &request).await;
    let mut told = event(&mut ann).await;
    while told["push"].get("disconnect").is_none() {
        told = event(&mut ann).await;
    }
    assert_eq!(told["push"]["disconnect"]["code"], 3501, "{told}");
    eventually("the session to be gone", LIMIT, async || {
        (cluster.router_status("router-1").await.connections == 0).then_some(())
    })
    .await;
}
