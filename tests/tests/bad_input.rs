//! What no well-behaved client sends: each row gets the answer that the protocol names, nobody else is affected, and
//! nothing leaks.

use std::net::SocketAddr;
use std::time::Duration;

use roomring_tests::{Client, Cluster, Crowd, Options, Tcp, Traffic, eventually, get};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// Longer than any of the router's own time-outs here.
const LIMIT: Duration = Duration::from_secs(60);
/// Rooms a connection may join in this test.
const ROOMS: usize = 8;

fn options() -> Options {
    let router_flags = [
        ["--rooms-per-connection", "8"],
        ["--connect-timeout", "3s"],
        ["--handshake-timeout", "3s"],
        ["--ping", "6s"],
        ["--pong-timeout", "3s"],
    ];
    Options { nodes: 1, routers: 1, router_flags: router_flags.concat(), ..Options::default() }
}

/// Open files of a process.
fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a running process").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_harms_only_who_sends_it_and_leaks_nothing() {
    let cluster = Cluster::start(options()).await;
    let router = cluster.http()[0];
    let pid = cluster.routers["router-1"].process.pid();
    // The innocent: they talk all the while and may not notice anything.
    let crowd = Crowd::gather("innocent", &[router], 4, 3, 4).await;
    crowd.roll_call("before").await;
    let connections = cluster.router_status("router-1").await.connections;
    assert_eq!(connections, crowd.clients().len() as u64);
    let traffic = Traffic::start(crowd.speakers(1), Duration::from_millis(50), None);
    let baseline = files(pid);

    breaks_of_the_protocol(router).await;
    refused_commands(router).await;
    frames_that_are_no_text(router).await;
    silence(router).await;
    half_closed(router).await;
    plain_http(router).await;

    let sent = traffic.stop().await;
    crowd.catch_up().await;
    crowd.check_open();
    for room in crowd.rooms() {
        crowd.oracle(room, &sent).judge_quiet();
    }
    eventually("the router to forget the bad clients", LIMIT, async || {
        (cluster.router_status("router-1").await.connections == connections).then_some(())
    })
    .await;
    // Connections of the status calls above close a moment after their answer.
    eventually(&format!("open files to fall to {baseline} again"), LIMIT, async || {
        (files(pid) <= baseline).then_some(())
    })
    .await;
}

/// Frames that end the connection with 3501, before or after a proper connect.
async fn breaks_of_the_protocol(router: SocketAddr) {
    let deep = format!(r#"{{"id":2,"publish":{{"channel":"x","data":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let rows = [
        ("not JSON", "hello".to_owned()),
        ("nothing", String::new()),
        ("half an object", r#"{"id":2,"#.to_owned()),
        ("an array", "[]".to_owned()),
        ("an unknown command", r#"{"id":2,"fly":{}}"#.to_owned()),
        ("no command", r#"{"id":2}"#.to_owned()),
        ("an id of the wrong type", r#"{"id":"2","presence":{"channel":"x"}}"#.to_owned()),
        ("a negative id", r#"{"id":-2,"presence":{"channel":"x"}}"#.to_owned()),
        ("a channel of the wrong type", r#"{"id":2,"subscribe":{"channel":7}}"#.to_owned()),
        ("a request of the wrong type", r#"{"id":2,"subscribe":"x"}"#.to_owned()),
        ("an offset of the wrong type", r#"{"id":2,"subscribe":{"channel":"x","offset":"1"}}"#.to_owned()),
        ("an empty channel", r#"{"id":2,"subscribe":{"channel":""}}"#.to_owned()),
        ("no channel", r#"{"id":2,"presence":{}}"#.to_owned()),
        ("no id", r#"{"presence":{"channel":"x"}}"#.to_owned()),
        ("a second connect", r#"{"id":2,"connect":{}}"#.to_owned()),
        ("deep nesting", deep),
        ("deep nesting, never closed", r#"{"id":2,"publish":{"channel":"x","data":"#.to_owned() + &"[".repeat(30_000)),
    ];
    for (row, text) in &rows {
        let client = Client::connect(router, "mallory").await;
        client.send_text(text.as_str()).await;
        assert_eq!(client.closed().await.code, Some(3501), "{row}");
    }
    let first = [
        ("publish", json!({"publish": {"channel": "innocent-0", "data": 1}})),
        ("subscribe", json!({"subscribe": {"channel": "innocent-0"}})),
        ("presence", json!({"presence": {"channel": "innocent-0"}})),
    ];
    for (row, command) in first {
        let client = Client::open(router, "mallory").await;
        let answer = client.call(command).await;
        assert!(answer.is_err(), "{row} before connect: {answer:?}");
        assert_eq!(client.closed().await.code, Some(3501), "{row} before connect");
    }
    let client = Client::connect(router, "mallory").await;
    client.send_text(r#"{"send":{"data":1}}"#).await;
    assert_eq!(client.closed().await.code, Some(3508), "send, which is not enabled");
    let client = Client::connect(router, "mallory").await;
    let big = json!({"id": 2, "publish": {"channel": "x", "data": "x".repeat(70_000)}});
    client.send_text(big.to_string()).await;
    assert_eq!(client.closed().await.code, Some(1009), "a message over the limit");
}

/// Commands that are refused with an error; the connection stays good.
async fn refused_commands(router: SocketAddr) {
    let client = Client::connect(router, "mallory").await;
    let long = "x".repeat(256);
    let rows = [
        (107, json!({"subscribe": {"channel": long}})),
        (107, json!({"subscribe": {"channel": "line\nbreak"}})),
        (107, json!({"subscribe": {"channel": "nul\u{0}"}})),
        (107, json!({"publish": {"channel": "line\nbreak", "data": 1}})),
        (103, json!({"publish": {"channel": "innocent-0", "data": "from outside"}})),
        (103, json!({"presence": {"channel": "innocent-0"}})),
        (103, json!({"presence_stats": {"channel": "innocent-0"}})),
        (103, json!({"history": {"channel": "innocent-0", "limit": 1}})),
        (104, json!({"rpc": {"method": "no.such.method", "data": {}}})),
    ];
    for (code, command) in rows {
        let error = client.call(command.clone()).await.expect_err("a refusal");
        assert_eq!(error.code, code, "{command}: {error}");
        assert!(!error.message.is_empty(), "{command}");
    }
    client.subscribe("mine").await;
    let rows = [
        (105, json!({"subscribe": {"channel": "mine"}})),
        (107, json!({"publish": {"channel": "mine"}})),
        (103, json!({"rpc": {"method": "room.publish", "data": {"channel": "innocent-0", "id": "1", "data": 1}}})),
    ];
    for (code, command) in rows {
        let error = client.call(command.clone()).await.expect_err("a refusal");
        assert_eq!(error.code, code, "{command}: {error}");
    }
    for n in 1..ROOMS {
        client.subscribe(&format!("mine-{n}")).await;
    }
    let error = client.call(json!({"subscribe": {"channel": "one too many"}})).await.expect_err("a refusal");
    assert_eq!(error.code, 106, "{error}");
    client.unsubscribe("mine-1").await;
    client.unsubscribe("never joined").await;
    client.subscribe("one less").await;
    client.publish("mine", "still good").await.expect("a publish");
    client.wait_message("mine", "still good").await;
    assert_eq!(client.faults(), Vec::<String>::new());
    client.close().await;
}

/// Frames that are not text, or not even WebSocket.
async fn frames_that_are_no_text(router: SocketAddr) {
    let client = Client::connect(router, "mallory").await;
    client.send_frame(Message::binary(vec![0_u8, 1, 2])).await;
    assert_eq!(client.closed().await.code, Some(3501), "a binary frame");

    let client = Client::connect(router, "mallory").await;
    let bad = Frame::message(vec![0xff_u8, 0xfe], OpCode::Data(Data::Text), true);
    client.send_frame(Message::Frame(bad)).await;
    let closed = client.closed().await;
    assert!(matches!(closed.code, Some(1007 | 3501)), "text that is not UTF-8: {closed:?}");

    let mut tcp = websocket(router).await;
    tcp.send(&[0xff; 64]).await;
    assert!(tcp.read_to_close(LIMIT).await.is_some(), "bytes that are no frame end the connection");
}

/// Clients that stop talking: before the handshake is whole, before the connect, before the pong.
async fn silence(router: SocketAddr) {
    let mut nothing = Tcp::connect(router).await;
    let mut half = Tcp::connect(router).await;
    half.send(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: webs").await;
    let unconnected = Client::open(router, "mallory").await;
    // Everything but the pongs: its socket is never read or answered after this.
    let mut mute = websocket(router).await;
    mute.send(&text_frame(r#"{"id":1,"connect":{}}"#)).await;
    mute.read_until(b"\"client\"").await;

    let mut drip = Tcp::connect(router).await;
    drip.send(b"GET / HTTP/1.1\r\n").await;
    let dripping = async {
        loop {
            drip.send(b"X").await;
            if drip.read_to_close(Duration::from_millis(200)).await.is_some() {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, dripping).await.expect("a handshake that never ends is ended");
    assert!(nothing.read_to_close(LIMIT).await.is_some(), "a connection without a request is ended");
    assert!(half.read_to_close(LIMIT).await.is_some(), "half a request is ended");
    assert_eq!(unconnected.closed().await.code, Some(3502), "no connect command");
    let heard = mute.read_to_close(LIMIT).await.expect("no pong ends the connection");
    assert!(contains(&heard, b"{}"), "it was pinged: {}", String::from_utf8_lossy(&heard));
    assert!(contains(&heard, b"no pong") && contains(&heard, &3012_u16.to_be_bytes()), "closed with 3012");
}

/// A client that closes its sending half is let go.
async fn half_closed(router: SocketAddr) {
    for command in [None, Some(r#"{"id":1,"connect":{}}"#)] {
        let mut tcp = websocket(router).await;
        if let Some(command) = command {
            tcp.send(&text_frame(command)).await;
            tcp.read_until(b"\"client\"").await;
        }
        tcp.finish().await;
        assert!(tcp.read_to_close(LIMIT).await.is_some(), "a half-closed connection is ended; command {command:?}");
    }
}

/// HTTP that is no WebSocket handshake.
async fn plain_http(router: SocketAddr) {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let get_of = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let socket = "/connection/websocket";
    let rows: [(&str, String, &[u16]); 9] = [
        ("a GET to the WebSocket path", get_of(socket, ""), &[400, 426]),
        (
            "a POST to the WebSocket path",
            format!("POST {socket} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
            &[405],
        ),
        ("a GET to a room", get_of("/rooms/lobby", ""), &[400, 426]),
        ("a room with a bad name", get_of("/rooms/a%0ab", &format!("{upgrade}{version}")), &[400]),
        ("a room that is not UTF-8", get_of("/rooms/a%ff", &format!("{upgrade}{version}")), &[400]),
        ("an old version of WebSocket", get_of(socket, &format!("{upgrade}Sec-WebSocket-Version: 8\r\n")), &[400, 426]),
        ("no key", get_of(socket, &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{version}")), &[400]),
        ("an unknown path", get_of("/no/such/path", ""), &[404]),
        ("headers without end", get_of("/", &format!("X: {}\r\n", "x".repeat(200_000))), &[400, 431]),
    ];
    for (row, request, statuses) in rows {
        let mut tcp = Tcp::connect(router).await;
        tcp.send(request.as_bytes()).await;
        let response = tcp.response().await;
        assert!(statuses.contains(&response.status), "{row}: {} {}", response.head, response.body);
    }
    let mut tcp = Tcp::connect(router).await;
    tcp.send(b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n").await;
    let said = tcp.read_to_close(LIMIT).await.expect("garbage ends the connection");
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&said));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(router, path).await.status, 200, "{path} after all that");
    }
    let room: Value = serde_json::from_str(&get(router, "/api/room?room=innocent-0").await.body).expect("JSON");
    assert_eq!(room["node"], "node-1", "{room}");
}

/// A WebSocket connection, past its handshake, as bare TCP.
async fn websocket(router: SocketAddr) -> Tcp {
    let mut tcp = Tcp::connect(router).await;
    let request = "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    tcp.send(request.as_bytes()).await;
    let answer = tcp.read_until(b"\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    tcp
}

/// A whole masked text frame; the mask is zero.
fn text_frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|&n| n < 126).expect("a short text");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|w| w == part)
}
