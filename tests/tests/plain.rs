//! The plain endpoint `/rooms/{room}`: text in, a JSON line an event out.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{EncodingKey, Header, encode};
use roomring_tests::{Client, Cluster, Options, Visitor, evidence, holder, within, write};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const LIMIT: Duration = Duration::from_secs(60);

/// What a tool such as websocat is.
struct Plain(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Plain {
    async fn join(router: SocketAddr, path: &str) -> Self {
        let url = format!("ws://{router}/rooms/{path}");
        let (socket, _) = within("a handshake", LIMIT, tokio_tungstenite::connect_async(url)).await.expect("a socket");
        Self(socket)
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("an open socket");
    }

    /// The next event of this type; others before it are skipped.
    async fn event(&mut self, kind: &str) -> Value {
        let reading = async {
            loop {
                let frame = self.0.next().await.expect("an open socket").expect("a frame");
                let Message::Text(text) = frame else { continue };
                for line in text.lines() {
                    let event: Value = serde_json::from_str(line).expect("JSON");
                    if event["type"] == kind {
                        return event;
                    }
                }
            }
        };
        within(&format!("an event {kind}"), LIMIT, reading).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_and_the_sdks_protocol_share_a_room() {
    let mut cluster = Cluster::start(Options { nodes: 2, ..Options::default() }).await;
    let [first, second] = cluster.http()[..] else { panic!("two routers") };
    let bob = Client::connect(second, "bob").await;
    bob.subscribe("tea room").await;
    let mut ann = Plain::join(first, "tea%20room?user=ann").await;
    bob.wait_log("tea room", "ann to join", |log| {
        log.events.iter().any(|e| matches!(e, roomring_tests::Event::Joined(m) if m.user == "ann")).then_some(())
    })
    .await;

    // Whatever is said is a string, also if it looks like JSON.
    for (seq, text) in ["hello", r#"{"a":1}"#, "", "käse 🧀"].into_iter().filter(|t| !t.is_empty()).enumerate() {
        ann.say(text).await;
        let event = ann.event("message").await;
        assert_eq!(event["room"], "tea room", "{event}");
        assert_eq!(event["seq"], seq + 1, "{event}");
        assert_eq!(event["user"], "ann", "{event}");
        assert_eq!(event["data"], text, "{event}");
        assert_eq!(event["epoch"], bob.log("tea room").epoch.as_str(), "{event}");
        bob.wait_message("tea room", text).await;
    }
    bob.publish("tea room", json!({"text": "structured"})).await.expect("a publish");
    assert_eq!(ann.event("message").await["data"], json!({"text": "structured"}));

    let mut carl = Plain::join(second, "tea%20room?user=carl").await;
    assert_eq!(ann.event("join").await["user"], "carl");
    carl.0.close(None).await.expect("a close");
    assert_eq!(ann.event("leave").await["user"], "carl");

    // Its node dies: the socket stays, the loss is said, and the talk goes on.
    let before = cluster.placement().await.expect("a placement");
    let victim = holder(&before, "tea room").to_owned();
    cluster.kill_node(&victim);
    cluster.recreated(&before, &victim).await;
    let gap = ann.event("gap").await;
    assert_eq!(gap["room"], "tea room", "{gap}");
    evidence(format!("after the loss of {victim}, ann was told {gap}"));
    let back = |log: &roomring_tests::RoomLog| (log.recoveries() == [false]).then_some(());
    bob.wait_log_for("tea room", "to be back", LIMIT, back).await;
    ann.say("again").await;
    assert_eq!(ann.event("message").await["data"], "again");
    bob.wait_message("tea room", "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_open_rooms() {
    const SECRET: &str = "a secret of sufficient length";
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    write(&dir.path().join("secret"), SECRET);
    let config = format!("token_secret_file = {:?}\n[rooms]\njoin = \"token\"\n[namespaces.open]\n", path("secret"));
    write(&dir.path().join("router.toml"), &config);
    let flag = &*Box::leak(format!("--config={}", path("router.toml")).into_boxed_str());
    let options =
        Options { nodes: 1, routers: 1, insecure_names: false, router_flags: vec![flag], ..Options::default() };
    let cluster = Cluster::start(options).await;
    let router = cluster.http()[0];
    let token = |claims: Value| {
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
    };
    let who = token(json!({"sub": "ann", "info": {"n": 1}}));
    let into = token(json!({"sub": "ann", "channel": "lobby"}));
    for (path, status) in [
        ("open:a?user=ann".to_owned(), 403),
        (format!("lobby?token={who}"), 403),
        (format!("hall?token={into}"), 403),
        (format!("open:a?token={who}x"), 401),
        (format!("open:a?token={}", token(json!({"sub": "ann", "exp": 1}))), 401),
    ] {
        let refused = Visitor::open(router, &format!("/rooms/{path}"), &[]).await;
        assert_eq!(refused.err(), Some(status), "{path}");
    }
    let mut ann = Plain::join(router, &format!("open:a?token={who}")).await;
    ann.say("hello").await;
    let event = ann.event("message").await;
    assert_eq!((&event["user"], &event["data"]), (&json!("ann"), &json!("hello")), "{event}");
    let mut ann = Plain::join(router, &format!("lobby?token={into}")).await;
    ann.say("hello").await;
    ann.event("message").await;
    let bearer = format!("Bearer {into}");
    assert!(Visitor::open(router, "/rooms/lobby", &[("Authorization", &bearer)]).await.is_ok());
}
