//! What rogues send, one row each: what they get, what the router's log says of it, and that somebody who does nothing wrong is
//! served after every one of them; how soon is printed.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use roomring_tests::{Cluster, Options, Tcp, Visitor, alive, evidence, get, within, write};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

const LIMIT: Duration = Duration::from_secs(60);

/// Most lines that one row may add to the log.
const MOST_LINES: usize = 2;

const SECRET: &str = "a secret of sufficient length";
const KEY: &str = "a key of sufficient length";

const CONFIG: &str = r#"
token_secret_file = "DIR/secret"
token_issuer = "us"
api_key_file = "DIR/key"
connections_per_address = 4
connections_per_user = 3
commands_per_connection = "20/40"
publishes_per_room = "1/5"
rooms_per_connection = 4
max_message_bytes = "4KiB"
client_queue_bytes = "64KiB"
allowed_origins = ["https://app.example.com"]
trusted_proxies = ["127.0.0.1/32"]
handshake_timeout = "2s"
connect_timeout = "2s"
[namespaces.small]
max_payload = "10B"
[namespaces.quiet]
publish = "nobody"
[namespaces.closed]
join = "token"
[namespaces.bytes]
payload = "binary"
"#;

/// What a row must come to.
#[derive(Debug, Clone, Copy)]
enum Gets {
    /// The connection closed with this code.
    Close(u16),
    /// A reply with this error.
    Error(u32),
    /// An answer of HTTP with one of these statuses; 0 = the connection ended without one.
    Status(&'static [u16]),
}

/// A server under attack, and somebody who does nothing wrong.
struct Siege {
    cluster: Cluster,
    router: SocketAddr,
    witness: Visitor,
    rows: u32,
    /// Bytes of the router's log that were there before this row.
    logged: usize,
    /// Every row comes from an address of its own.
    addresses: u32,
}

impl Siege {
    async fn begin() -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        write(&dir.path().join("secret"), SECRET);
        write(&dir.path().join("key"), KEY);
        let file = dir.path().join("router.toml");
        write(&file, &CONFIG.replace("DIR", &dir.path().display().to_string()));
        let flag = &*Box::leak(format!("--config={}", file.display()).into_boxed_str());
        let router_flags = vec![flag];
        let options = Options { nodes: 1, routers: 1, insecure_names: false, router_flags, ..Options::default() };
        let cluster = Cluster::start(options).await;
        let router = cluster.http()[0];
        let (mut witness, _) = Visitor::connect(router, &[("X-Forwarded-For", "192.0.2.1")], good("witness")).await;
        let joined = witness.ask(json!({"id": 2, "subscribe": {"channel": "lobby"}})).await;
        assert!(joined.get("subscribe").is_some(), "{joined}");
        (Self { cluster, router, witness, rows: 0, logged: 0, addresses: 0 }, dir)
    }

    /// An address that nobody came from yet.
    fn address(&mut self) -> String {
        self.addresses += 1;
        format!("10.{}.{}.1", self.addresses / 256, self.addresses % 256)
    }

    async fn open(&mut self, path: &str, more: &[(&str, &str)]) -> Result<Visitor, u16> {
        let address = self.address();
        let headers: Vec<(&str, &str)> =
            [("X-Forwarded-For", address.as_str())].into_iter().chain(more.iter().copied()).collect();
        Visitor::open(self.router, path, &headers).await
    }

    /// A client that is in.
    async fn client(&mut self, user: &str) -> Visitor {
        loop {
            let mut client = self.open("/connection/websocket", &[]).await.expect("a handshake");
            let answer = client.ask(json!({"id": 1, "connect": good(user)})).await;
            if answer.get("connect").is_some() {
                return client;
            }
            // The router has not noticed yet that the client of the row before is gone.
            assert_eq!(answer["close"], 3504, "{answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Judges a row, and whether the witness is served as before.
    async fn judge(&mut self, row: &str, gets: Gets, got: &Value) {
        self.rows += 1;
        let fits = match gets {
            Gets::Close(code) => got["close"] == code,
            Gets::Error(code) => got["error"]["code"] == code,
            Gets::Status(statuses) => statuses.iter().any(|status| got["status"] == *status),
        };
        assert!(fits, "{row}: {got}, not {gets:?}");
        let asked = Instant::now();
        let alive = self.witness.ask(json!({"id": self.rows + 9, "presence_stats": {"channel": "lobby"}})).await;
        assert_eq!(alive["presence_stats"]["num_clients"], 1, "after {row}: {alive}");
        let took = asked.elapsed();
        let log = self.cluster.routers["router-1"].process.log();
        let said: Vec<&str> = log.get(self.logged..).unwrap_or_default().lines().collect();
        self.logged = log.len();
        // Whoever sends nonsense is not to fill the disk, and nothing of it is an error of ours.
        assert!(said.len() <= MOST_LINES, "{row}: {said:#?}");
        assert!(said.iter().all(|line| !line.contains("ERROR") && !line.contains("panicked")), "{row}: {said:#?}");
        println!("| {row} | {gets:?} | {} | {took:.1?} |", said.join(" "));
        // The witness, too, may not ask faster than that.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

fn signed(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

/// A connect command that lets in.
fn good(user: &str) -> Value {
    json!({"token": signed(&json!({"sub": user, "iss": "us"}))})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rogues_get_their_answer_and_nobody_else_notices() {
    let (mut siege, _files) = Siege::begin().await;
    let pid = siege.cluster.routers["router-1"].process.pid();
    siege.logged = siege.cluster.routers["router-1"].process.log().len();
    println!("| what is sent | what comes back | the router's log | a witness is answered within |\n|---|---|---|---|");
    http(&mut siege).await;
    pages_and_addresses(&mut siege).await;
    tokens(&mut siege).await;
    commands(&mut siege).await;
    frames(&mut siege).await;
    floods(&mut siege).await;
    assert!(siege.rows >= 60, "{} rows", siege.rows);
    assert!(alive(pid), "the router lives");
    let log = std::fs::read_to_string(siege.cluster.log("router-1")).expect("a log");
    for secret in [SECRET, KEY, "panicked"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    evidence(format!("{} rows, one process, one witness", siege.rows));
}

/// Requests as bytes.
async fn http(siege: &mut Siege) {
    let upgrade = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let socket = |headers: &str| format!("GET /connection/websocket HTTP/1.1\r\n{headers}\r\n");
    let without = |header: &str| {
        socket(&upgrade.split_inclusive("\r\n").filter(|line| !line.starts_with(header)).collect::<String>())
    };
    let api = |headers: &str, body: &str| {
        format!("POST /api/publish HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let key = format!("X-API-Key: {KEY}\r\n");
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let rows: [(&str, String, &'static [u16]); 32] = [
        ("bytes that are no HTTP", "\u{16}\u{3}\u{1} hello\r\n\r\n".into(), &[0, 400]),
        ("a request line without end", "G".repeat(100_000), &[0, 400, 414, 431]),
        ("no path", "GET\r\n\r\n".into(), &[0, 400]),
        ("HTTP of the future", "GET / HTTP/9.9\r\nHost: x\r\n\r\n".into(), &[0, 400, 505]),
        ("HTTP/1.0 to the socket", socket(upgrade).replace("HTTP/1.1", "HTTP/1.0"), &[426]),
        ("a header without a colon", "GET / HTTP/1.1\r\nHost x\r\n\r\n".into(), &[0, 400]),
        ("a header with a NUL", "GET / HTTP/1.1\r\nHost: x\r\nA: \u{0}\r\n\r\n".into(), &[0, 400]),
        ("a header too large", format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(100_000)), &[0, 400, 431]),
        ("too many headers", format!("GET / HTTP/1.1\r\n{many}\r\n"), &[0, 400, 431]),
        (
            "two lengths",
            "POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".into(),
            &[0, 400],
        ),
        ("a negative length", "POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".into(), &[0, 400]),
        (
            "a chunk of nonsense",
            format!("POST /api/publish HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
            &[0, 400],
        ),
        ("a path that leads out", "GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".into(), &[404]),
        ("a path of another host", "GET http://evil.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n".into(), &[200, 404]),
        ("CONNECT", "CONNECT evil.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n".into(), &[0, 400, 404, 405]),
        ("DELETE of the page", "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n".into(), &[405]),
        ("no upgrade", without("Upgrade"), &[426]),
        ("no connection header", without("Connection"), &[426]),
        ("no version", without("Sec-WebSocket-Version"), &[426]),
        ("no key", without("Sec-WebSocket-Key"), &[400]),
        ("a short key", socket(&upgrade.replace("AAAAAAAAAAAAAAAAAAAAAA==", "AA==")), &[400]),
        ("a room without a name", "GET /rooms/ HTTP/1.1\r\n".to_owned() + upgrade + "\r\n", &[400]),
        ("a room that is not UTF-8", "GET /rooms/%ff HTTP/1.1\r\n".to_owned() + upgrade + "\r\n", &[400]),
        (
            "a room for nobody in particular",
            "GET /rooms/lobby?user=eve HTTP/1.1\r\n".to_owned() + upgrade + "\r\n",
            &[403],
        ),
        ("a name too long", format!("GET /rooms/lobby?user={} HTTP/1.1\r\n{upgrade}\r\n", "x".repeat(300)), &[400]),
        ("the API without a key", api("", "{}"), &[401]),
        ("the API with a wrong key", api("X-API-Key: guess\r\n", "{}"), &[401]),
        ("the API with an empty key", api("X-API-Key: \r\n", "{}"), &[401]),
        ("the API, GET", format!("GET /api/publish HTTP/1.1\r\nHost: x\r\n{key}\r\n"), &[405]),
        ("the API, an unknown method", api(&key, "{}").replace("/api/publish", "/api/nuke"), &[404]),
        ("the API, too large a request", api(&key, &"x".repeat(5 << 20)), &[413]),
        (
            "the API, half a request",
            format!("POST /api/publish HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 9\r\n\r\n{{}}"),
            &[0, 400, 408],
        ),
    ];
    for (row, request, statuses) in rows {
        let mut tcp = Tcp::connect(siege.router).await;
        tcp.send(request.as_bytes()).await;
        let status = tcp.status().await;
        siege.judge(row, Gets::Status(statuses), &json!({"status": status})).await;
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(siege.router, path).await.status, 200);
    }
}

/// Pages of others, and too many connections.
async fn pages_and_addresses(siege: &mut Siege) {
    let socket = "/connection/websocket";
    for (row, origin, status) in [
        ("a page of somebody else", "https://evil.example.com", 403),
        ("a page with a similar name", "https://app.example.com.evil.org", 403),
        ("a page of another scheme", "http://app.example.com", 403),
        ("a page from nowhere", "null", 403),
        ("our page", "https://app.example.com", 101),
    ] {
        let opened = siege.open(socket, &[("Origin", origin)]).await;
        let status_got = opened.as_ref().err().copied().unwrap_or(101);
        siege
            .judge(row, Gets::Status(if status == 403 { &[403] } else { &[101] }), &json!({"status": status_got}))
            .await;
    }
    let from = [("X-Forwarded-For", "203.0.113.7")];
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(Visitor::open(siege.router, socket, &from).await.expect("a handshake"));
    }
    let fifth = Visitor::open(siege.router, socket, &from).await.err();
    siege.judge("a fifth connection from an address", Gets::Status(&[429]), &json!({"status": fifth})).await;
    let lie = [("X-Forwarded-For", "198.51.100.1, 203.0.113.7")];
    let lied = Visitor::open(siege.router, socket, &lie).await.err();
    siege.judge("an address made up by the client", Gets::Status(&[429]), &json!({"status": lied})).await;
    drop(open);

    let mut same = Vec::new();
    for _ in 0..3 {
        same.push(siege.client("greedy").await);
    }
    let mut fourth = siege.open(socket, &[]).await.expect("a handshake");
    let answer = fourth.ask(json!({"id": 1, "connect": good("greedy")})).await;
    siege.judge("a fourth connection of a user", Gets::Close(3504), &answer).await;
}

/// Connect commands that let in nobody.
async fn tokens(siege: &mut Siege) {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": "ann", "iss": "us"});
    let with = |more: Value| {
        let mut claims = claims.clone();
        claims.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        signed(&claims)
    };
    let other = |secret: &str, algorithm| {
        encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret.as_bytes()))
    };
    let good = signed(&claims);
    let mut flipped = good.clone().into_bytes();
    let middle = good.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let rows: Vec<(&str, Value, Gets)> = vec![
        ("no token", json!({}), Gets::Close(3501)),
        ("a name instead of a token", json!({"data": {"user": "ann"}}), Gets::Close(3501)),
        ("no token but a text", json!({"token": "let me in"}), Gets::Close(3500)),
        ("two dots", json!({"token": ".."}), Gets::Close(3500)),
        (
            "an unsigned token",
            json!({"token": format!("{}.{}.", part(json!({"alg": "none"})), part(claims.clone()))}),
            Gets::Close(3500),
        ),
        (
            "a token of an unknown algorithm",
            json!({"token": format!("{}.{}.AA", part(json!({"alg": "XX"})), part(claims.clone()))}),
            Gets::Close(3500),
        ),
        (
            "a token for a public key, of which there is none",
            json!({"token": format!("{}.{}.AA", part(json!({"alg": "RS256"})), part(claims.clone()))}),
            Gets::Close(3500),
        ),
        (
            "a token by somebody else",
            json!({"token": other("another secret of that length", Algorithm::HS256).expect("a token")}),
            Gets::Close(3500),
        ),
        ("a token that was changed", json!({"token": String::from_utf8(flipped).expect("text")}), Gets::Close(3500)),
        ("a token cut short", json!({"token": &good[..good.len() - 5]}), Gets::Close(3500)),
        ("a token of another issuer", json!({"token": with(json!({"iss": "them"}))}), Gets::Close(3500)),
        ("a token that is over", json!({"token": with(json!({"exp": now() - 9}))}), Gets::Error(109)),
        ("a token that is not valid yet", json!({"token": with(json!({"nbf": now() + 999}))}), Gets::Close(3500)),
        ("a token whose time is text", json!({"token": with(json!({"exp": "never"}))}), Gets::Close(3500)),
        ("a token whose user is a number", json!({"token": with(json!({"sub": 7}))}), Gets::Close(3500)),
        ("a token with a long name", json!({"token": with(json!({"sub": "x".repeat(300)}))}), Gets::Close(3500)),
        ("a token for a room", json!({"token": with(json!({"channel": "lobby"}))}), Gets::Close(3500)),
        ("a token with a room that can't be", json!({"token": with(json!({"channels": [""]}))}), Gets::Close(3500)),
        (
            "a token with too many rooms",
            json!({"token": with(json!({"channels": ["a", "b", "c", "d", "e"]}))}),
            Gets::Close(3505),
        ),
        (
            "a token with a room of no namespace",
            json!({"token": with(json!({"channels": ["none:a"]}))}),
            Gets::Error(102),
        ),
        ("a token of the wrong type", json!({"token": 7}), Gets::Close(3501)),
    ];
    for (row, connect, gets) in rows {
        let mut visitor = siege.open("/connection/websocket", &[]).await.expect("a handshake");
        let answer = visitor.ask(json!({"id": 1, "connect": connect})).await;
        siege.judge(row, gets, &answer).await;
    }
}

/// Commands of somebody who is in.
async fn commands(siege: &mut Siege) {
    let room_token = |claims: Value| signed(&claims);
    let rows: Vec<(&str, Value, Gets)> = vec![
        ("a room of no namespace", json!({"subscribe": {"channel": "none:a"}}), Gets::Error(102)),
        ("a room for others", json!({"subscribe": {"channel": "dialog#ann,bob"}}), Gets::Error(103)),
        ("a room for those with a token", json!({"subscribe": {"channel": "closed:a"}}), Gets::Error(103)),
        (
            "a token for another room",
            json!({"subscribe": {"channel": "closed:a", "token": room_token(json!({"sub": "mallory", "iss": "us", "channel": "closed:b"}))}}),
            Gets::Close(3500),
        ),
        (
            "a token of another user",
            json!({"subscribe": {"channel": "closed:a", "token": room_token(json!({"sub": "ann", "iss": "us", "channel": "closed:a"}))}}),
            Gets::Close(3500),
        ),
        (
            "a token for the room that is over",
            json!({"subscribe": {"channel": "closed:a", "token": room_token(json!({"sub": "mallory", "iss": "us", "channel": "closed:a", "exp": 1}))}}),
            Gets::Error(109),
        ),
        ("binary messages in JSON", json!({"subscribe": {"channel": "bytes:a"}}), Gets::Error(107)),
        ("a publish from outside", json!({"publish": {"channel": "lobby", "data": 1}}), Gets::Error(103)),
        ("history from outside", json!({"history": {"channel": "lobby", "limit": -1}}), Gets::Error(103)),
        ("presence from outside", json!({"presence": {"channel": "lobby"}}), Gets::Error(103)),
        ("a refresh of what does not expire", json!({"refresh": {"token": "x"}}), Gets::Close(3501)),
        ("an unknown procedure", json!({"rpc": {"method": "system", "data": "rm"}}), Gets::Error(104)),
        (
            "a publish with an id too long",
            json!({"rpc": {"method": "room.publish", "data": {"channel": "a", "data": 1, "id": "x".repeat(65)}}}),
            Gets::Error(107),
        ),
        ("another connect", json!({"connect": {}}), Gets::Close(3501)),
        (
            "an offset beyond all numbers",
            json!({"subscribe": {"channel": "a", "recover": true, "offset": 1e30}}),
            Gets::Close(3501),
        ),
        (
            "a position of an epoch that never was",
            json!({"subscribe": {"channel": "a", "recover": true, "offset": 7, "epoch": "../..", "flag": 2}}),
            Gets::Error(112),
        ),
    ];
    for (row, mut command, gets) in rows {
        let mut client = siege.client("mallory").await;
        command["id"] = json!(2);
        let answer = client.ask(command).await;
        siege.judge(row, gets, &answer).await;
    }
    let mut client = siege.client("mallory").await;
    for room in ["small:a", "quiet:a", "r1", "r2"] {
        let joined = client.ask(json!({"id": 2, "subscribe": {"channel": room}})).await;
        assert!(joined.get("subscribe").is_some(), "{room}: {joined}");
    }
    for (row, command, gets) in [
        ("one room too many", json!({"subscribe": {"channel": "r3"}}), Gets::Error(106)),
        (
            "a payload over the room's limit",
            json!({"publish": {"channel": "small:a", "data": "far too long"}}),
            Gets::Error(106),
        ),
        ("a publish where nobody may", json!({"publish": {"channel": "quiet:a", "data": 1}}), Gets::Error(103)),
        ("a publish of nothing", json!({"publish": {"channel": "r1"}}), Gets::Error(107)),
        ("the room again", json!({"subscribe": {"channel": "r1"}}), Gets::Error(105)),
    ] {
        let mut command = command;
        command["id"] = json!(3);
        let answer = client.ask(command).await;
        siege.judge(row, gets, &answer).await;
    }
}

/// Frames, as WebSockets have them.
async fn frames(siege: &mut Siege) {
    let text = |data: Vec<u8>, end: bool| Message::Frame(Frame::message(data, OpCode::Data(Data::Text), end));
    let more = |data: Vec<u8>, end: bool| Message::Frame(Frame::message(data, OpCode::Data(Data::Continue), end));
    let rows: [(&str, Vec<Message>, &'static [u16]); 9] = [
        ("a message over the limit", vec![Message::text("x".repeat(5_000))], &[1009]),
        (
            "a message over the limit in parts",
            (0..100)
                .map(|n| if n == 0 { text(vec![b'x'; 100], false) } else { more(vec![b'x'; 100], n == 99) })
                .collect(),
            &[1009],
        ),
        ("a part of nothing", vec![more(b"x".to_vec(), true)], &[1002]),
        ("text that is not UTF-8", vec![text(vec![0xff, 0xfe], true)], &[1007, 3501]),
        ("a binary frame", vec![Message::binary(vec![0, 1, 2])], &[3501]),
        ("half JSON", vec![Message::text("{\"id\":2,")], &[3501]),
        ("deep JSON", vec![Message::text("[".repeat(4_000))], &[3501]),
        ("an id beyond all numbers", vec![Message::text(r#"{"id":99999999999,"ping":{}}"#)], &[3501]),
        ("a pong that nobody asked for", vec![Message::text("{}")], &[3501]),
    ];
    for (row, messages, codes) in rows {
        let mut client = siege.client("mallory").await;
        for message in messages {
            client.send(message).await;
        }
        let got = client.next().await;
        let code = codes.iter().find(|code| got["close"] == **code).copied().unwrap_or(codes[0]);
        siege.judge(row, Gets::Close(code), &got).await;
    }
}

/// Too much of what would be fine.
async fn floods(siege: &mut Siege) {
    let mut client = siege.client("flood").await;
    let mut refused = Value::Null;
    for id in 2..300 {
        client.send(Message::text(json!({"id": id, "ping": {}}).to_string())).await;
    }
    let mut closed = Value::Null;
    let answers = async {
        while closed["close"].is_null() {
            let answer = client.next().await;
            if answer.get("close").is_some() {
                closed = answer;
                break;
            }
            if answer["error"]["code"] == 111 {
                refused = answer;
            }
        }
    };
    within("the flood to be ended", LIMIT, answers).await;
    siege.judge("commands faster than allowed", Gets::Error(111), &refused).await;
    siege.judge("commands that go on all the same", Gets::Close(3013), &closed).await;

    let mut client = siege.client("loud").await;
    client.ask(json!({"id": 2, "subscribe": {"channel": "loud"}})).await;
    let mut refused = Value::Null;
    for id in 3..12 {
        let mut answer = client.ask(json!({"id": id, "publish": {"channel": "loud", "data": 1}})).await;
        while answer.get("id").is_none() {
            answer = client.next().await;
        }
        if answer.get("error").is_some() {
            refused = answer;
        }
    }
    siege.judge("publishes faster than a room may take", Gets::Error(111), &refused).await;

    for (row, pings, gets) in [("50 pings", 50, Gets::Error(103)), ("2,000 pings", 2_000, Gets::Close(3013))] {
        let mut client = siege.client("pings").await;
        for _ in 0..pings {
            client.send(Message::Ping(vec![b'x'; 100].into())).await;
        }
        let answer = client.ask(json!({"id": 2, "publish": {"channel": "lobby", "data": 1}})).await;
        siege.judge(row, gets, &answer).await;
    }
    let mut client = siege.client("parts").await;
    let part = |code: Data, end: bool| Message::Frame(Frame::message(Vec::new(), OpCode::Data(code), end));
    client.send(part(Data::Text, false)).await;
    for _ in 0..10_000 {
        client.send(part(Data::Continue, false)).await;
    }
    let answer = client.next().await;
    siege.judge("a message of nothing but parts", Gets::Close(1009), &answer).await;

    // A reader that never reads is fed until its queue is full.
    let mut idle = siege.open("/connection/websocket", &[]).await.expect("a handshake");
    let closed = idle.next().await;
    siege.judge("no connect command", Gets::Close(3502), &closed).await;
    let mut slow = Tcp::connect(siege.router).await;
    slow.send(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nX: ").await;
    let dripping = async {
        while slow.read_to_close(Duration::from_millis(100)).await.is_none() {
            slow.send(b"y").await;
        }
    };
    within("a handshake by the byte to be ended", LIMIT, dripping).await;
    siege.judge("a handshake by the byte", Gets::Status(&[0]), &json!({"status": 0})).await;
}
