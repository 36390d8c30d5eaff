//! Who clients are, by keys that a server gives, by sessions in Redis, and by the business server: each also when it is away.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use roomring_tests::{Answerer, Cluster, Options, Process, Tcp, Visitor, eventually, evidence, write};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(60);

/// The keys of the router's own tests: x and y of the public one as they stand in a JWK.
const EC: &str = include_str!("../../router/src/auth/testdata/ec.pem");
const EC_PUBLIC: &str = include_str!("../../router/src/auth/testdata/ec.pub.pem");

async fn cluster(config: &str) -> (Cluster, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("router.toml");
    write(&file, config);
    let flag = &*Box::leak(format!("--config={}", file.display()).into_boxed_str());
    let router_flags = vec![flag];
    let insecure_names = config.contains("[permit]");
    let options = Options { nodes: 1, routers: 1, insecure_names, router_flags, ..Options::default() };
    (Cluster::start(options).await, dir)
}

/// Connects with a cookie.
async fn visit(router: SocketAddr, cookie: Option<&str>, connect: Value) -> (Visitor, Value) {
    let headers: Vec<(&str, &str)> = cookie.iter().map(|cookie| ("Cookie", *cookie)).collect();
    Visitor::connect(router, &headers, connect).await
}

/// The name of the only one in a room, that others see.
async fn name(visitor: &mut Visitor) -> Value {
    visitor.ask(json!({"id": 2, "subscribe": {"channel": "lobby"}})).await;
    let present = visitor.ask(json!({"id": 3, "presence": {"channel": "lobby"}})).await;
    let all = present["presence"]["presence"].as_object().cloned().unwrap_or_default();
    assert_eq!(all.len(), 1, "{present}");
    all.into_iter().map(|(_, info)| info["user"].clone()).next().unwrap_or_default()
}

/// That a client is still connected, and served; gives how soon.
async fn check_alive(visitor: &mut Visitor) -> Duration {
    let asked = Instant::now();
    assert_eq!(visitor.ask(json!({"id": 9, "ping": {}})).await, json!({"id": 9, "ping": {}}));
    asked.elapsed()
}

fn code(answer: &Value) -> Value {
    answer["error"]["code"].clone()
}

/// A set with the test's public key under this name.
fn keys(kid: &str) -> String {
    let der: String = EC_PUBLIC.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(der).expect("PEM");
    // The point is what the structure ends with: 32 bytes each.
    let [x, y] = [&der[der.len() - 64..der.len() - 32], &der[der.len() - 32..]].map(|n| URL_SAFE_NO_PAD.encode(n));
    json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": x, "y": y}]}).to_string()
}

fn token(kid: &str) -> Value {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_pem(EC.as_bytes()).expect("a key");
    json!({"token": encode(&header, &json!({"sub": "ann"}), &key).expect("a token")})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_server_are_rotated_and_outlive_it() {
    let served = Arc::new(Mutex::new(Some(keys("first"))));
    let answers = served.clone();
    // `None` = it hangs.
    let server = Answerer::start(move |_| Some((200, answers.lock().expect("not poisoned").clone()?))).await;
    let (cluster, _files) = cluster(&format!("token_jwks = \"http://{}/jwks.json\"\n", server.address())).await;
    let router = cluster.http()[0];
    let connected = async |kid: &str| visit(router, None, token(kid)).await;
    let mut first = eventually("the keys to be there", LIMIT, async || {
        let (visitor, answer) = connected("first").await;
        answer.get("connect").map(|_| visitor)
    })
    .await;
    assert_eq!(name(&mut first).await, "ann");

    // A key that the server has only now: come back in a moment, and then it is known.
    *served.lock().expect("not poisoned") = Some(keys("second"));
    eventually("the new key to be there", LIMIT, async || {
        let (_, answer) = connected("second").await;
        // While the server was asked a moment ago, such a key can only be made up.
        assert!(answer.get("connect").is_some() || code(&answer) == 100 || answer["close"] == 3500, "{answer}");
        answer.get("connect").map(|_| ())
    })
    .await;
    let forged = "x".repeat(43) + "A";
    let (_, answer) = visit(router, None, json!({"token": format!("e30.e30.{forged}")})).await;
    assert_eq!(answer["close"], 3500);

    // It hangs: those whose key is known get in, and nobody is thrown out.
    *served.lock().expect("not poisoned") = None;
    assert!(connected("second").await.1.get("connect").is_some());
    let asked = Instant::now();
    let (_, unknown) = connected("third").await;
    let told = asked.elapsed();
    assert!(code(&unknown) == 100 || unknown["close"] == 3500, "{unknown}");
    drop(server);
    let asked = Instant::now();
    assert!(connected("second").await.1.get("connect").is_some());
    let (known, alive) = (asked.elapsed(), check_alive(&mut first).await);
    evidence(format!(
        "the server of the keys hung, and then was gone: an unknown key was answered within {told:.1?}, a known one let in \
         within {known:.1?}, who was there was served within {alive:.1?}"
    ));
}

/// Redis on a port.
async fn redis(port: u16, dir: &Path) -> Process {
    let args =
        ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"].map(str::to_owned);
    let process = Process::start("redis", Path::new("/usr/bin/redis-server"), &args, &dir.join("redis.log"));
    eventually("redis to answer", LIMIT, async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    process
}

/// Sets a key there.
async fn set(port: u16, key: &str, value: &str) {
    let mut tcp = Tcp::connect(([127, 0, 0, 1], port).into()).await;
    let command = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len());
    tcp.send(command.as_bytes()).await;
    assert_eq!(tcp.read_until(b"\r\n").await, b"+OK\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_in_redis_and_its_absence() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port();
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = redis(port, dir.path()).await;
    let session = json!({"passport": {"user": "ann"}, "profile": {"n": 1}}).to_string();
    set(port, "sess:abc", &session).await;
    let config = format!(
        "[session_cookie]\nname = \"sid\"\nredis = \"redis://127.0.0.1:{port}/0\"\nkey = \"sess:{{id}}\"\n\
         user = \"passport.user\"\ninfo = \"profile\"\ncache = \"0s\"\ntimeout = \"1s\"\n"
    );
    let (cluster, _files) = cluster(&config).await;
    let router = cluster.http()[0];
    let (mut ann, _) = visit(router, Some("theme=dark; sid=abc"), json!({"data": {"user": "eve"}})).await;
    assert_eq!(name(&mut ann).await, "ann");
    for cookie in [Some("sid=other"), Some("sid="), Some("sid=a%0ab"), Some("other=abc"), None] {
        let (_, answer) = visit(router, cookie, json!({})).await;
        assert_eq!(answer["close"], 3501, "{cookie:?}: {answer}");
    }
    server.kill();
    let asked = Instant::now();
    let (_, away) = visit(router, Some("sid=abc"), json!({})).await;
    let told = asked.elapsed();
    assert_eq!((code(&away), &away["error"]["temporary"]), (json!(100), &json!(true)));
    let alive = check_alive(&mut ann).await;
    let mut server = redis(port, dir.path()).await;
    set(port, "sess:abc", &session).await;
    let back = Instant::now();
    eventually("log-ins to work again", LIMIT, async || {
        let (_, answer) = visit(router, Some("sid=abc"), json!({})).await;
        answer.get("connect").map(|_| ())
    })
    .await;
    let back = back.elapsed();
    check_alive(&mut ann).await;
    evidence(format!(
        "redis was killed: a log-in was told to come back within {told:.1?}, who was there was served within {alive:.1?}; \
         started again: log-ins after {back:.1?}"
    ));
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_business_server_says_who_a_client_is() {
    let hangs = Arc::new(Mutex::new(false));
    let hung = hangs.clone();
    let server = Answerer::start(move |request| {
        if *hung.lock().expect("not poisoned") {
            return None;
        }
        let lower = request.to_ascii_lowercase();
        assert!(
            !lower.contains("theme=dark") && !lower.contains("user-agent: x"),
            "more was shown than was configured"
        );
        let verdict = match lower.split_once("\r\ncookie: sid=").map(|(_, rest)| rest.split_once("\r\n")) {
            Some(Some(("abc", _))) => json!({"result": {"user": "ann", "channels": ["own"]}}),
            Some(Some(("banned", _))) => json!({"disconnect": {"code": 4500, "reason": "go"}}),
            Some(Some(("broken", _))) => return Some((500, String::new())),
            Some(Some(("denied", _))) => json!({"error": {"code": 1000, "message": "no"}}),
            _ => json!({}),
        };
        Some((200, verdict.to_string()))
    })
    .await;
    let config = format!(
        "anonymous = true\n[connect]\nurl = \"http://{}/connect\"\ncookies = [\"sid\"]\ntimeout = \"1s\"\n",
        server.address()
    );
    let (cluster, _files) = cluster(&config).await;
    let router = cluster.http()[0];
    let (mut ann, answer) = visit(router, Some("theme=dark; sid=abc"), json!({"data": {"n": 1}})).await;
    assert!(answer["connect"]["subs"].get("own").is_some(), "{answer}");
    assert_eq!(name(&mut ann).await, "ann");
    let come = async |cookie: &'static str| visit(router, Some(cookie), json!({})).await.1;
    assert_eq!(come("sid=banned").await["close"], 3507);
    assert_eq!(code(&come("sid=denied").await), 103);
    assert_eq!(code(&come("sid=broken").await), 100);
    // Nobody that it knows: the next way in.
    assert!(come("sid=stranger").await.get("connect").is_some());
    *hangs.lock().expect("not poisoned") = true;
    let mut told = Vec::new();
    for _ in 0..6 {
        let asked = Instant::now();
        assert_eq!(code(&come("sid=abc").await), 100);
        told.push(asked.elapsed());
    }
    let alive = check_alive(&mut ann).await;
    *hangs.lock().expect("not poisoned") = false;
    let back = Instant::now();
    eventually("the server to be asked again", LIMIT, async || come("sid=abc").await.get("connect").map(|_| ())).await;
    evidence(format!(
        "the business server hung: log-ins were told to come back within {told:.1?}, who was there was served within \
         {alive:.1?}; answering again: log-ins after {:.1?}",
        back.elapsed()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_business_server_says_what_a_client_may_do() {
    let hangs = Arc::new(Mutex::new(false));
    let hung = hangs.clone();
    let server = Answerer::start(move |request| {
        if *hung.lock().expect("not poisoned") {
            return None;
        }
        let question: Value = serde_json::from_str(request.split_once("\r\n\r\n")?.1).expect("JSON");
        assert_eq!(question["user"], "ann");
        let may = match (question["ask"].as_str(), question["channel"].as_str()) {
            (Some("subscribe"), Some("chat:open")) => true,
            (Some("publish"), Some("chat:open")) => question["data"] != "bad",
            _ => false,
        };
        let verdict = if may { json!({"result": {}}) } else { json!({"error": {"code": 1000, "message": "no"}}) };
        Some((200, verdict.to_string()))
    })
    .await;
    let config = format!(
        "[permit]\nurl = \"http://{}/may\"\ntimeout = \"1s\"\nretries = 0\n\
         [namespaces.chat]\nask = [\"subscribe\", \"publish\"]\n",
        server.address()
    );
    let (cluster, _files) = cluster(&config).await;
    let (mut ann, _) = visit(cluster.http()[0], None, json!({"data": {"user": "ann"}})).await;
    let closed = ann.ask(json!({"id": 2, "subscribe": {"channel": "chat:closed"}})).await;
    assert_eq!(code(&closed), 103);
    let open = ann.ask(json!({"id": 3, "subscribe": {"channel": "chat:open"}})).await;
    assert!(open.get("subscribe").is_some(), "{open}");
    let bad = ann.ask(json!({"id": 4, "publish": {"channel": "chat:open", "data": "bad"}})).await;
    assert_eq!(code(&bad), 103);
    let good = json!({"id": 5, "publish": {"channel": "chat:open", "data": "good"}});
    // Its answer and its own message come in either order.
    let both = [ann.ask(good).await, ann.next().await];
    assert!(both.iter().any(|said| *said == json!({"id": 5, "publish": {}})), "{both:?}");

    // While it hangs nothing new is allowed, and who is there goes on.
    *hangs.lock().expect("not poisoned") = true;
    let asked = Instant::now();
    let unasked = ann.ask(json!({"id": 6, "publish": {"channel": "chat:open", "data": "later"}})).await;
    let told = asked.elapsed();
    assert_eq!((code(&unasked), &unasked["error"]["temporary"]), (json!(100), &json!(true)));
    let alive = check_alive(&mut ann).await;
    *hangs.lock().expect("not poisoned") = false;
    eventually("the server to be asked again", LIMIT, async || {
        let said = ann.ask(json!({"id": 7, "subscribe": {"channel": "chat:closed"}})).await;
        (code(&said) == 103).then_some(())
    })
    .await;
    evidence(format!(
        "the business server hung when it was asked whether a client may publish: told to come back within {told:.1?}, served \
         otherwise within {alive:.1?}"
    ));
}
