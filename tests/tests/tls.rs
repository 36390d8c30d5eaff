//! Clients within TLS, and certificates that change under them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use roomring_tests::{Client, Cluster, Options, Tcp, eventually, evidence, within, write};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const LIMIT: Duration = Duration::from_secs(60);

/// Writes a certificate of its own making; gives it.
fn certify(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    // The key first: between the two writes the pair does not match, and the router must bear that.
    write(&dir.join("key.pem"), &made.signing_key.serialize_pem());
    write(&dir.join("cert.pem"), &made.cert.pem());
    made.cert.der().clone()
}

/// A WebSocket within TLS, which trusts this certificate only.
async fn open(https: SocketAddr, trusted: &CertificateDer<'static>) -> Option<WebSocketStream<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let tcp = within("a TCP connection", LIMIT, TcpStream::connect(https)).await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = within("a TLS handshake", LIMIT, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.ok()?;
    let request = format!("wss://localhost:{}/connection/websocket", https.port());
    let opened = within("a handshake", LIMIT, tokio_tungstenite::client_async(request, tls)).await;
    Some(opened.expect("a WebSocket").0)
}

/// Sends a command; gives the answer, past whatever else comes.
async fn ask(ws: &mut WebSocketStream<TlsStream<TcpStream>>, command: Value) -> Value {
    ws.send(Message::text(command.to_string())).await.expect("an open socket");
    loop {
        let told = next(ws).await;
        if told["id"] == command["id"] || told.get("close").is_some() {
            return told;
        }
    }
}

async fn next(ws: &mut WebSocketStream<TlsStream<TcpStream>>) -> Value {
    loop {
        match within("a frame", LIMIT, ws.next()).await {
            Some(Ok(Message::Text(text))) if text.as_str() == "{}" => {
                ws.send(Message::text("{}")).await.expect("an open socket");
            }
            Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).expect("JSON"),
            Some(Ok(Message::Close(frame))) => return json!({"close": frame.map(|frame| u16::from(frame.code))}),
            Some(Ok(_)) => {}
            other => panic!("a frame, not {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_stay_while_certificates_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = certify(dir.path());
    let flag =
        |name: &str, file: &str| &*Box::leak(format!("--{name}={}", dir.path().join(file).display()).into_boxed_str());
    // The harness knows two addresses; the third has to be known in advance.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port();
    let https = SocketAddr::from(([127, 0, 0, 1], port));
    let address = &*Box::leak(format!("--https={https}").into_boxed_str());
    let certificate = [flag("tls-certificate-file", "cert.pem"), flag("tls-key-file", "key.pem")];
    let options = Options { nodes: 1, routers: 0, ..Options::default() };
    let cluster = Cluster::start(options).await;
    let mut process = cluster.spawn_router_with("router-1", "127.0.0.1:0", &[address, certificate[0], certificate[1]]);
    let ready = process.line("its ready line", LIMIT).await;
    assert!(ready.ends_with(&format!(" https={https}")), "{ready}");
    let http: SocketAddr =
        ready.split(' ').find_map(|part| part.strip_prefix("http=")?.parse().ok()).expect("an address");

    let mut ann = open(https, &first).await.expect("a certificate that is trusted");
    let connected = ask(&mut ann, json!({"id": 1, "connect": {"data": {"user": "ann"}}})).await;
    assert!(connected.get("connect").is_some(), "{connected}");
    ask(&mut ann, json!({"id": 2, "subscribe": {"channel": "lobby"}})).await;
    let bob = Client::connect(http, "bob").await;
    bob.subscribe("lobby").await;
    ask(&mut ann, json!({"id": 3, "publish": {"channel": "lobby", "data": "from ann"}})).await;
    bob.wait_message("lobby", "from ann").await;

    let second = certify(dir.path());
    eventually("the new certificate to be used", LIMIT, async || open(https, &second).await.map(|_| ())).await;
    assert!(open(https, &first).await.is_none(), "the old one is used no longer");
    evidence("another certificate, and ann is still there");
    bob.publish("lobby", "still there?").await.expect("a publish");
    let mut heard = next(&mut ann).await;
    while heard["push"]["pub"]["data"] != "still there?" {
        heard = next(&mut ann).await;
    }
    // Rogues.
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1]] {
        let mut tcp = Tcp::connect(https).await;
        tcp.send(garbage).await;
        assert!(tcp.read_to_close(LIMIT).await.is_some(), "what is no TLS is ended");
    }
    let mut big = open(https, &second).await.expect("a certificate that is trusted");
    let close = ask(&mut big, json!({"id": 1, "connect": {"data": "x".repeat(70_000)}})).await;
    assert_eq!(close["close"], 1009);
    let mut wrong = open(https, &second).await.expect("a certificate that is trusted");
    assert_eq!(ask(&mut wrong, json!({"id": 1, "publish": {}})).await["close"], 3501);

    // A router that stops says so here too.
    process.signal(Signal::SIGTERM);
    let mut told = next(&mut ann).await;
    while told.get("close").is_none() {
        told = next(&mut ann).await;
    }
    assert_eq!(told["close"], 3001);
    assert_eq!(process.exit(LIMIT).await.code(), Some(0));
    cluster.settled().await;
}
