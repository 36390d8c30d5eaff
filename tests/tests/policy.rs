//! What routers are configured to allow, and what rooms are configured to keep, with real tokens and real SDKs.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use jsonwebtoken::{EncodingKey, Header, encode};
use roomring_tests::{
    Client, Cluster, Encoding, Error, Options, Proxy, Sdk, SdkKind, evidence, go_is_missing, holder, nowhere, write,
};
use serde_json::{Value, json};

const SECRET: &str = "a secret of sufficient length";

/// A token with these claims.
fn token(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() + seconds
}

/// A cluster with two copies of each slot, whose router has this configuration, `SECRET` being the file of the secret.
async fn cluster(config: &str) -> (Cluster, tempfile::TempDir) {
    let insecure_names = !config.contains("SECRET");
    let dir = tempfile::tempdir().expect("a directory");
    let (file, secret) = (dir.path().join("router.toml"), dir.path().join("secret"));
    write(&secret, SECRET);
    write(&file, &config.replace("SECRET", &format!("{:?}", secret.display().to_string())));
    let flag = &*Box::leak(format!("--config={}", file.display()).into_boxed_str());
    let options =
        Options { replication: 2, routers: 1, router_flags: vec![flag], insecure_names, ..Options::default() };
    (Cluster::start(options).await, dir)
}

fn code(result: Result<Value, Error>) -> u32 {
    result.expect_err("a refusal").code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_go_by_their_namespace_also_after_a_failover() {
    let config = "[namespaces.short]\nhistory_size = 2\n[namespaces.news]\npublish = \"nobody\"\npresence = false\n\
                  [namespaces.open]\npublish = \"anyone\"\nhistory_size = 0\nmax_payload = \"10B\"\n";
    let (mut cluster, _files) = cluster(config).await;
    let ann = Client::connect(cluster.http()[0], "ann").await;
    for room in ["short:a", "news:a", "usual"] {
        ann.subscribe(room).await;
    }
    for n in 0..4 {
        ann.publish("short:a", n).await.expect("a publish");
        ann.publish("usual", n).await.expect("a publish");
    }
    let offsets = async |room: &str| -> Vec<u64> {
        let page = ann.history(room, json!({"limit": -1})).await.expect("history");
        page["publications"].as_array().into_iter().flatten().filter_map(|p| p["offset"].as_u64()).collect()
    };
    assert_eq!((offsets("short:a").await, offsets("usual").await), (vec![3, 4], vec![1, 2, 3, 4]));
    assert_eq!(code(ann.presence("news:a").await), 108);
    assert_eq!(ann.publish("news:a", 1).await.expect_err("a refusal").code, 103);
    assert_eq!(code(ann.call(json!({"subscribe": {"channel": "none:a"}})).await), 102);
    assert_eq!(code(ann.call(json!({"subscribe": {"channel": "a#bob"}})).await), 103);
    ann.publish("open:a", "short").await.expect("a publish without joining");
    assert_eq!(ann.publish("open:a", "far too long").await.expect_err("a refusal").code, 106);
    ann.subscribe("open:a").await;
    assert_eq!(code(ann.history("open:a", json!({"limit": 1})).await), 108);

    // What the room keeps was logged with it: the other copy goes by it too.
    let placement = cluster.settled().await;
    let victim = holder(&placement, "short:a").to_owned();
    cluster.kill_node(&victim);
    ann.publish("short:a", "after").await.expect("a publish after the failover");
    assert_eq!(offsets("short:a").await, [4, 5]);
    evidence(format!("{victim} was killed, and short:a still keeps two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sdk_with_tokens() {
    let (cluster, _files) = cluster("token_secret_file = SECRET\n[namespaces.private]\njoin = \"token\"\n").await;
    // Side by side: each waits for its tokens to run out.
    let all = Sdk::ALL.iter().filter(|(kind, _)| *kind != SdkKind::Go || go_is_missing().is_none());
    join_all(all.map(|&(kind, encoding)| tokens(&cluster, kind, encoding))).await;

    // Without a token, or with somebody else's, nobody gets in.
    let mut eve = Sdk::start(SdkKind::JavaScript, Encoding::Json, "eve", &cluster.path("."));
    let forged =
        encode(&Header::default(), &json!({"sub": "ann"}), &EncodingKey::from_secret(b"guessed")).expect("a token");
    let url = format!("ws://{}/connection/websocket", cluster.http()[0]);
    eve.ok("connect", json!({"url": url, "user": "eve", "tokens": [forged]})).await;
    assert_eq!(eve.event("disconnected").await["code"], 3500);
}

async fn tokens(cluster: &Cluster, kind: SdkKind, encoding: Encoding) {
    let router = cluster.http()[0];
    let proxy = Proxy::start(router).await;
    let name = format!("ann-{kind:?}-{encoding:?}");
    let (own, private) = (format!("own-{name}"), format!("private:{name}"));
    let mut ann = Sdk::start(kind, encoding, &name, &cluster.path("."));
    let connection = |exp: u64| token(&json!({"sub": name, "exp": in_seconds(exp), "channels": [own]}));
    let member = |exp: u64| token(&json!({"sub": name, "exp": in_seconds(exp), "channel": private}));
    // The first is expired: another is asked for. The second ends in 3 s and is refreshed.
    let connections = [connection(0), connection(3), connection(600), connection(600), connection(600)];
    let url = format!("ws://{}/connection/websocket", proxy.address());
    ann.ok("connect", json!({"url": url, "user": "eve", "tokens": connections})).await;
    ann.event("connecting").await;
    ann.event("connected").await;
    assert_eq!(ann.event("server_subscribed").await["room"], own);

    ann.ok("subscribe", json!({"room": private, "tokens": [member(3), member(600), member(600), member(600)]})).await;
    ann.event("subscribed").await;
    let present = ann.ok("presence", json!({"room": private})).await;
    assert!(present.as_object().into_iter().flatten().all(|(_, p)| p["user"] == name), "{present}");

    // Cut off, it misses something in its own room, and gets it when it is back.
    let mut bob = Sdk::start(SdkKind::JavaScript, Encoding::Json, &format!("bob-{name}"), &cluster.path("."));
    let bobs = token(&json!({"sub": "bob", "channels": [own]}));
    bob.ok("connect", json!({"url": format!("ws://{router}/connection/websocket"), "user": "x", "tokens": [bobs]}))
        .await;
    bob.event("connected").await;
    proxy.point_to(nowhere());
    proxy.cut();
    ann.event("connecting").await;
    bob.ok("publish", json!({"room": own, "data": "hello"})).await;
    proxy.point_to(router);
    let back = ann.event("server_subscribed").await;
    assert_eq!((&back["was_recovering"], &back["recovered"]), (&json!(true), &json!(true)), "{back}");
    let heard = ann.event("server_publication").await;
    assert_eq!((&heard["data"], &heard["user"]), (&json!("hello"), &json!("bob")), "{heard}");

    // Longer than the short tokens and what they may be late: both were refreshed.
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    ann.ok("publish", json!({"room": private, "data": "still here"})).await;
    ann.publication(&json!("still here")).await;
}
