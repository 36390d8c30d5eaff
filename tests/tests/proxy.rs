//! What a router passes on to the business server, and what becomes of it when that does not do its part.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use roomring_tests::{
    Answerer, Authority, Client, Cluster, Options, Tcp, TlsFront, Visitor, binary, evidence, get, run, write,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// The business server: what it does depends on the path. It ends when it is dropped.
struct Business {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Business {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("address of a bound socket");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, task }
    }
}

impl Drop for Business {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request.
async fn serve(mut stream: TcpStream) {
    let mut head = [0; 8 << 10];
    // Looked at only: a handshake is left to its library.
    let path = loop {
        let Ok(read @ 1..) = stream.peek(&mut head).await else { return };
        let text = String::from_utf8_lossy(&head[..read]);
        if let Some((request, _)) = text.split_once("\r\n\r\n") {
            break request.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        tokio::task::yield_now().await;
    };
    if path.starts_with("/ws") {
        // Headers both ways. What it returns is the library's.
        #[allow(clippy::result_large_err)]
        let callback = |request: &Request, mut response: Response| {
            let host = request.headers()["x-forwarded-host"].clone();
            response.headers_mut().insert("x-seen-host", host);
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, callback).await.expect("a handshake");
        let (mut sink, mut messages) = socket.split();
        while let Some(Ok(message)) = messages.next().await {
            if message.is_text() || message.is_binary() {
                sink.send(message).await.expect("an echo");
            }
        }
        return;
    }
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    let split = request.windows(4).position(|w| w == b"\r\n\r\n").expect("just seen") + 4;
    let (head, body) = (String::from_utf8_lossy(&request[..split]).into_owned(), request[split..].to_vec());
    match path.as_str() {
        "/hang" => std::future::pending().await,
        "/half" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        }
        "/garbage" => {
            let _ = stream.write_all(b"this is no HTTP\r\n\r\n").await;
        }
        // Sends back what comes, as it comes.
        "/echo" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
            let mut part = body;
            loop {
                if stream.write_all(&part).await.is_err() || part.ends_with(b"0\r\n\r\n") {
                    return;
                }
                part.clear();
                if !matches!(stream.read_buf(&mut part).await, Ok(1..)) {
                    return;
                }
            }
        }
        _ => {
            let answer = format!(
                "HTTP/1.1 201 Created\r\nContent-Length: {}\r\nKeep-Alive: timeout=5\r\nX-Business: yes\r\nConnection: close\r\n\r\n{head}",
                head.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }
}

async fn cluster(config: &str) -> (Cluster, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    write(&dir.path().join("router.toml"), config);
    let flag = &*Box::leak(format!("--config={}", dir.path().join("router.toml").display()).into_boxed_str());
    let options = Options { nodes: 1, routers: 1, router_flags: vec![flag], ..Options::default() };
    (Cluster::start(options).await, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_router_does_not_answer_is_the_business_servers() {
    let business = Business::start().await;
    let config = format!("[proxy]\nurl = \"http://{}/base\"\n", business.address);
    let (cluster, _files) = cluster(&config).await;
    let router = cluster.http()[0];

    for path in ["/", "/x?y=1", "/api/users"] {
        let answer = get(router, path).await;
        assert_eq!(answer.status, 201, "{path}: {answer:?}");
        assert!(answer.body.starts_with(&format!("GET /base{path} HTTP/1.1\r\n")), "{}", answer.body);
        assert!(answer.head.contains("x-business: yes") && !answer.head.contains("keep-alive"), "{}", answer.head);
    }
    for (path, status) in [("/healthz", 200), ("/api/room?room=a", 200), ("/api/publish", 404), ("/rooms/a", 426)] {
        assert_eq!(get(router, path).await.status, status, "{path}");
    }
    let ann = Client::connect(router, "ann").await;
    ann.subscribe("lobby").await;

    // What a client says of others is not believed, and what is between it and the router stays there.
    let mut tcp = Tcp::connect(router).await;
    let head = "GET /x HTTP/1.1\r\nHost: chat.example\r\nX-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\
                Connection: close, X-Mine\r\nX-Mine: 1\r\nCookie: a=1\r\n\r\n";
    tcp.send(head.as_bytes()).await;
    let seen = tcp.response().await.body.to_ascii_lowercase();
    for line in [
        "host: chat.example",
        "cookie: a=1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: chat.example",
    ] {
        assert!(seen.lines().any(|l| l == line), "no {line} in {seen}");
    }
    assert!(!seen.contains("1.2.3.4") && !seen.contains("x-mine") && !seen.contains("connection:"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_flow_both_ways_and_websockets_pass_through() {
    let business = Business::start().await;
    let (mut cluster, _files) = cluster(&format!("[proxy]\nurl = \"http://{}\"\n", business.address)).await;
    let router = cluster.http()[0];

    // Each part comes back before the next is sent.
    let mut tcp = Tcp::connect(router).await;
    tcp.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    tcp.send(b"5\r\nfirst\r\n").await;
    tcp.read_until(b"first").await;
    tcp.send(b"6\r\nsecond\r\n").await;
    tcp.read_until(b"second").await;
    tcp.send(b"0\r\n\r\n").await;
    // The echo's own end, and that of the answer.
    tcp.read_until(b"0\r\n\r\n").await;

    let (mut socket, answer) =
        tokio_tungstenite::connect_async(format!("ws://{router}/ws/x")).await.expect("a handshake");
    assert_eq!(answer.headers()["x-seen-host"], router.to_string());
    for text in ["hello".to_owned(), "x".repeat(1 << 20)] {
        socket.send(Message::text(text.clone())).await.expect("a message");
        let back = socket.next().await.expect("an answer").expect("an answer");
        assert!(back == Message::text(text), "another message");
    }
    // A router that stops does not wait for it.
    cluster.stop_router("router-1").await;
    assert!(!matches!(socket.next().await, Some(Ok(Message::Text(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_business_server_that_fails_costs_only_its_own_requests() {
    let business = Business::start().await;
    let options = "timeout = \"500ms\"\nconnections = 2\n";
    let (cluster, _files) = cluster(&format!("[proxy]\nurl = \"http://{}\"\n{options}", business.address)).await;
    let router = cluster.http()[0];
    let ann = Client::connect(router, "ann").await;
    ann.subscribe("lobby").await;

    assert_eq!(get(router, "/hang").await.status, 504);
    assert_eq!(get(router, "/garbage").await.status, 502);
    // An answer that breaks off is not taken for a whole one.
    let mut tcp = Tcp::connect(router).await;
    tcp.send(b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let half = tcp.read_to_close(Duration::from_secs(30)).await.expect("the end of it");
    let half = String::from_utf8_lossy(&half).to_ascii_lowercase();
    assert!(half.contains("content-length: 10\r\n") && half.ends_with("\r\n\r\nhalf"), "{half}");
    // A request that does not come.
    let mut tcp = Tcp::connect(router).await;
    tcp.send(b"POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").await;
    assert_eq!(tcp.status().await, 408);

    // Two echoes wait for their clients: a third request finds no place.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut tcp = Tcp::connect(router).await;
        tcp.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
        tcp.read_until(b"first").await;
        held.push(tcp);
    }
    assert_eq!(get(router, "/x").await.status, 503);
    drop(held);
    roomring_tests::eventually("a place", Duration::from_secs(30), async || {
        (get(router, "/x").await.status == 201).then_some(())
    })
    .await;

    drop(business);
    assert_eq!(get(router, "/x").await.status, 502);
    ann.publish("lobby", Value::from("still here")).await.expect("an acknowledgement");
    evidence("the business server hung, spoke nonsense, broke off and was gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_business_server_within_tls_is_trusted_by_its_authority_only() {
    let files = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(files.path());
    authority.issue("business", &["127.0.0.1"]);
    authority.issue("other", &["other.example"]);
    let business = Business::start().await;
    let front = TlsFront::start(&authority, "business", business.address).await;
    let other = TlsFront::start(&authority, "other", business.address).await;
    let who = Answerer::start(|_| Some((200, json!({"result": {"user": "ann"}}).to_string()))).await;
    let who_front = TlsFront::start(&authority, "business", who.address()).await;
    let trust = format!("business_ca_file = {:?}\n", authority.file("ca.pem").display().to_string());
    let config = format!(
        "{trust}[proxy]\nurl = \"https://{}\"\n[connect]\nurl = \"https://{}/connect\"\n",
        front.address(),
        who_front.address()
    );
    let (mut cluster, dir) = cluster(&config).await;
    let router = cluster.http()[0];

    let answer = get(router, "/x").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.body.starts_with("GET /x HTTP/1.1\r\n"), "{}", answer.body);
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{router}/ws/x")).await.expect("a handshake");
    socket.send(Message::text("hello")).await.expect("a message");
    assert_eq!(socket.next().await.expect("an answer").expect("an answer"), Message::text("hello"));
    // Its calls go by the same authority.
    let (mut ann, answer) = Visitor::connect(router, &[], json!({})).await;
    assert!(answer.get("connect").is_some(), "{answer}");
    ann.ask(json!({"id": 2, "subscribe": {"channel": "lobby"}})).await;
    let present = ann.ask(json!({"id": 3, "presence": {"channel": "lobby"}})).await;
    assert!(present.to_string().contains(r#""user":"ann""#), "{present}");

    // Another router trusts only what the system does, a third is shown a certificate of another server.
    let rows = [
        ("router-2", String::new(), front.address(), "UnknownIssuer"),
        ("router-3", trust.clone(), other.address(), "not valid for name"),
    ];
    for (id, trust, address, why) in rows {
        // The file that every router of the cluster is given.
        write(&dir.path().join("router.toml"), &format!("{trust}[proxy]\nurl = \"https://{address}\"\n"));
        cluster.start_router(id).await;
        assert_eq!(get(cluster.routers[id].http, "/x").await.status, 502, "{id}");
        let log = cluster.routers[id].process.log();
        let line = log.lines().find(|line| line.contains("the business server can't be reached"));
        assert!(line.is_some_and(|line| line.contains(why)), "{id}: {line:?}, not {why}");
        // Its own paths are served all the same.
        assert_eq!(get(cluster.routers[id].http, "/healthz").await.status, 200);
        evidence(format!("{id}: 502, {}", line.unwrap_or_default()));
    }

    write(&dir.path().join("empty.pem"), "nothing\n");
    for (file, why) in [("empty.pem", "has no certificate"), ("absent.pem", "No such file")] {
        let path = dir.path().join(file).display().to_string();
        let ran =
            run(&binary("roomring-router"), &["--id", "other", "--business-ca-file", &path], Duration::from_secs(30))
                .await;
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains("business_ca_file") && ran.stderr.contains(why), "{}", ran.stderr);
    }
}
