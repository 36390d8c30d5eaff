//! The business server's API on two routers of a real cluster, and its description against what it does.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use roomring_tests::openapi::fits;
use roomring_tests::{
    Client, Cluster, Encoding, Options, Proxy, Sdk, SdkKind, eventually, evidence, get, holder, post, write,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const KEY: &str = "a key of sufficient length";
const SECRET: &str = "a secret of sufficient length";

/// A cluster whose routers take [`KEY`], and tokens if `config` says so.
async fn cluster(config: &str) -> (Cluster, tempfile::TempDir) {
    cluster_with(config, Options::default()).await
}

async fn cluster_with(config: &str, options: Options) -> (Cluster, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    write(&dir.path().join("key"), KEY);
    write(&dir.path().join("secret"), SECRET);
    let insecure_names = !config.contains("SECRET");
    let config = config.replace("SECRET", &format!("{:?}", path("secret")));
    write(&dir.path().join("router.toml"), &format!("api_key_file = {:?}\n{config}", path("key")));
    let flag = &*Box::leak(format!("--config={}", path("router.toml")).into_boxed_str());
    let options = Options { nodes: 2, routers: 2, router_flags: vec![flag], insecure_names, ..options };
    (Cluster::start(options).await, dir)
}

/// What a method answers to these arguments.
async fn call(router: SocketAddr, method: &str, arguments: &Value) -> Value {
    let headers = format!("X-API-Key: {KEY}\r\nContent-Type: application/json\r\n");
    let answer = post(router, &format!("/api/{method}"), &headers, &arguments.to_string()).await;
    assert_eq!(answer.status, 200, "{method} {arguments}: {answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.body))
}

/// The result of a method, which must have one.
async fn result(router: SocketAddr, method: &str, arguments: Value) -> Value {
    let answer = call(router, method, &arguments).await;
    assert!(answer.get("error").is_none(), "{method} {arguments}: {answer}");
    answer["result"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_business_server_reaches_rooms_and_users_on_every_router() {
    let (mut cluster, _files) = cluster("[namespaces.off]\nhistory_size = 0\npresence = false\n").await;
    let [one, two] = cluster.http()[..] else { panic!("two routers") };
    let (ann, bob) = (Client::connect(one, "ann").await, Client::connect(two, "bob").await);
    for client in [&ann, &bob] {
        client.subscribe("lobby").await;
    }
    // Published once, whoever says it again, at whichever router.
    let hello = json!({"channel": "lobby", "data": "hello", "idempotency_key": "k1"});
    let first = result(one, "publish", hello.clone()).await;
    let again = result(two, "publish", hello).await;
    assert_eq!((&first["offset"], &first["duplicate"]), (&json!(1), &json!(false)));
    assert_eq!((&again["offset"], &again["duplicate"], &again["epoch"]), (&json!(1), &json!(true), &first["epoch"]));
    bob.wait_message("lobby", "hello").await;

    let history = result(two, "history", json!({"channel": "lobby", "limit": -1})).await;
    let publication = json!({"offset": 1, "data": "hello", "tags": {"id": "k1"}});
    assert_eq!(history, json!({"publications": [publication], "offset": 1, "epoch": first["epoch"]}));
    let present = result(one, "presence", json!({"channel": "lobby"})).await;
    let users: Vec<_> = present["presence"].as_object().into_iter().flatten().map(|(_, p)| p["user"].clone()).collect();
    assert!(users.len() == 2 && users.contains(&json!("ann")) && users.contains(&json!("bob")), "{present}");
    let stats = result(two, "presence_stats", json!({"channel": "lobby"})).await;
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 2}));
    let channels = result(one, "channels", json!({"pattern": "lob*"})).await;
    assert_eq!(channels, json!({"channels": {"lobby": {"num_clients": 2}}, "left_out": 0, "unreached": []}));
    let info = result(one, "info", json!({})).await;
    assert_eq!(info["nodes"].as_array().map(Vec::len), Some(2), "{info}");
    for (method, arguments, code) in [
        ("history", json!({"channel": "off:a", "limit": 1}), 108),
        ("presence", json!({"channel": "off:a"}), 108),
        ("publish", json!({"channel": "none:a", "data": 1}), 102),
        ("history", json!({"channel": "lobby", "limit": 1, "since": {"offset": 0, "epoch": "other"}}), 112),
    ] {
        assert_eq!(call(one, method, &arguments).await["error"]["code"], code, "{method} {arguments}");
    }
    let spread = result(one, "broadcast", json!({"channels": ["lobby", "none:a", "hall"], "data": 2})).await;
    let codes: Vec<_> =
        spread["responses"].as_array().into_iter().flatten().map(|r| r["error"]["code"].clone()).collect();
    assert_eq!(codes, [json!(null), json!(102), json!(null)], "{spread}");

    // Orders reach users on whichever router they are.
    let done = result(one, "subscribe", json!({"user": "bob", "channel": "hall"})).await;
    assert_eq!(done, json!({"connections": 1, "unreached": []}));
    eventually("bob to be in the hall", LIMIT, async || {
        let stats = result(one, "presence_stats", json!({"channel": "hall"})).await;
        (stats["num_users"] == 1).then_some(())
    })
    .await;
    result(one, "unsubscribe", json!({"user": "bob", "channel": "hall"})).await;
    result(two, "ban", json!({"user": "ann", "channel": "lobby", "seconds": 600})).await;
    eventually("both to be out", LIMIT, async || {
        let channels = result(two, "channels", json!({})).await;
        (channels["channels"] == json!({"lobby": {"num_clients": 1}})).then_some(())
    })
    .await;
    assert_eq!(ann.call(json!({"subscribe": {"channel": "lobby"}})).await.expect_err("a refusal").code, 103);
    result(one, "unban", json!({"user": "ann", "channel": "lobby"})).await;
    ann.subscribe("lobby").await;
    result(two, "ban", json!({"user": "ann", "seconds": 600})).await;
    assert_eq!(ann.closed().await.code, Some(3507));
    // A router that was not there has it from etcd.
    cluster.start_router("router-3").await;
    let three = cluster.routers["router-3"].http;
    let late = Client::open(three, "ann").await;
    assert!(late.call(json!({"connect": {"data": {"user": "ann"}}})).await.is_err());
    assert_eq!(late.closed().await.code, Some(3507));
    result(two, "disconnect", json!({"user": "bob"})).await;
    assert_eq!(bob.closed().await.code, Some(3503));

    // A router that can't be asked is named.
    cluster.kill_router("router-3");
    let done = result(one, "disconnect", json!({"user": "bob"})).await;
    assert_eq!(done, json!({"connections": 0, "unreached": ["router-3"]}));
    evidence("router-3 was killed, and named as not reached");
}

/// What is left of the publication at `offset`, as clients have it.
fn gone(offset: u64) -> Value {
    json!({"data": {}, "offset": offset, "tags": {"deleted": "1"}})
}

/// The publication at `offset` that tells of others.
fn word(offset: u64, tag: &str, of: u64) -> Value {
    json!({"data": {}, "offset": offset, "tags": {tag: of.to_string()}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_seen_by_nobody_any_more() {
    let options = Options { replication: 2, lease_ttl: "20s", fence_after: "60s", ..Options::default() };
    let (mut cluster, _files) = cluster_with("[namespaces.off]\nhistory_size = 0\n", options).await;
    let [one, two] = cluster.http()[..] else { panic!("two routers") };
    let (ann, bob) = (Client::connect(one, "ann").await, Client::connect(two, "bob").await);
    for client in [&ann, &bob] {
        client.subscribe("lobby").await;
        client.subscribe("off:a").await;
    }
    for text in ["first", "second", "third"] {
        result(one, "publish", json!({"channel": "lobby", "data": text})).await;
    }
    ann.wait_message("lobby", "third").await;
    let epoch = ann.log("lobby").epoch;

    // Everybody who is there hears of it, at either router.
    let delete = json!({"channel": "lobby", "offset": 2, "epoch": epoch});
    assert_eq!(result(two, "delete", delete.clone()).await, json!({"deleted": true}));
    for client in [&ann, &bob] {
        let tags = client.wait_log("lobby", "the deletion", |log| log.tags(4).cloned()).await;
        assert_eq!(tags, [("deletes".to_owned(), "2".to_owned())].into());
    }
    let (lobby, nowhere) = (|offset: u64| json!({"channel": "lobby", "offset": offset}), "nowhere");
    for nothing in [delete, lobby(2), lobby(4), lobby(99), json!({"channel": nowhere, "offset": 1})] {
        assert_eq!(result(one, "delete", nothing.clone()).await, json!({"deleted": false}), "{nothing}");
    }
    for (arguments, code) in [
        (json!({"channel": "lobby", "offset": 1, "epoch": "1-1-1"}), 112),
        (json!({"channel": "lobby", "offset": 1, "epoch": "other"}), 112),
        (lobby(0), 107),
        (json!({"channel": "none:a", "offset": 1}), 102),
    ] {
        assert_eq!(call(one, "delete", &arguments).await["error"]["code"], code, "{arguments}");
    }
    let batch = result(two, "batch", json!({"commands": [{"delete": lobby(3)}, {"delete": lobby(3)}]})).await;
    let replies = [true, false].map(|deleted| json!({"delete": {"result": {"deleted": deleted}}}));
    assert_eq!(batch["replies"], json!(replies));

    // Whoever comes later, or back, finds places without holes.
    let kept = [json!({"data": "first", "offset": 1}), gone(2), gone(3), word(4, "deletes", 2), word(5, "deletes", 3)];
    let late = Client::connect(two, "late").await;
    let recovered = late.recover("lobby", &epoch, 1).await.expect("a membership");
    assert_eq!((&recovered["recovered"], &recovered["publications"]), (&json!(true), &json!(kept[1..])));
    assert_eq!(late.history("lobby", json!({"limit": -1})).await.expect("a history")["publications"], json!(kept));

    // Without a history there is nothing to recover, but who is there hears of it.
    result(one, "publish", json!({"channel": "off:a", "data": "unkept"})).await;
    for offset in [2, 3] {
        let deleted = result(one, "delete", json!({"channel": "off:a", "offset": 1})).await;
        assert_eq!(deleted, json!({"deleted": true}), "nobody remembers that it was");
        let tags = bob.wait_log("off:a", "the deletion", |log| log.tags(offset).cloned()).await;
        assert_eq!(tags["deletes"], "1");
    }

    // The node that did it dies; the other has it all the same.
    let placement = cluster.settled().await;
    let node = holder(&placement, "lobby").to_owned();
    cluster.kill_node(&node);
    eventually("another primary", LIMIT, async || {
        let placement = cluster.placement().await?;
        (holder(&placement, "lobby") != node).then_some(())
    })
    .await;
    assert_eq!(late.history("lobby", json!({"limit": -1})).await.expect("a history")["publications"], json!(kept));
    bob.publish("lobby", "sixth").await.expect("a publish");
    ann.wait_message("lobby", "sixth").await;
    assert_eq!((ann.log("lobby").unsubscribed(), ann.log("lobby").offset), (vec![], 6));
    evidence(format!("{node} died; its successor kept what was deleted deleted"));

    // Cleared, it goes on where it was.
    let cleared = result(two, "history_remove", json!({"channel": "lobby"})).await;
    assert_eq!(cleared, json!({"offset": 7, "epoch": epoch}));
    let tags = ann.wait_log("lobby", "the clearing", |log| log.tags(7).cloned()).await;
    assert_eq!(tags["clears"], "6");
    let history = result(one, "history", json!({"channel": "lobby", "limit": -1})).await;
    assert_eq!(history, json!({"publications": [word(7, "clears", 6)], "offset": 7, "epoch": epoch}));
    for (offset, recovered) in [(5, false), (6, true)] {
        late.unsubscribe("lobby").await;
        let back = late.recover("lobby", &epoch, offset).await.expect("a membership");
        assert_eq!((back["recovered"] == true, &back["offset"]), (recovered, &json!(7 - u64::from(recovered))));
    }
    assert_eq!(result(one, "history_remove", json!({"channel": nowhere})).await, json!({}));
    bob.publish("lobby", "eighth").await.expect("a publish");
    ann.wait_message("lobby", "eighth").await;
    assert_eq!((ann.log("lobby").unsubscribed(), bob.log("lobby").offset), (vec![], 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_sdks_recover_over_a_deletion() {
    let (cluster, _files) = cluster("").await;
    let [one, two] = cluster.http()[..] else { panic!("two routers") };
    let proxy = Proxy::start(two).await;
    let url = format!("ws://{}/connection/websocket", proxy.address());
    let mut all = Vec::new();
    for (kind, encoding, name) in [
        (SdkKind::JavaScript, Encoding::Json, "js"),
        (SdkKind::JavaScript, Encoding::Protobuf, "js-protobuf"),
        (SdkKind::Python, Encoding::Json, "python"),
    ] {
        let mut sdk = Sdk::start(kind, encoding, name, &cluster.path("."));
        sdk.connect(&url, name).await;
        sdk.ok("subscribe", json!({"room": "lobby"})).await;
        sdk.event("subscribed").await;
        all.push(sdk);
    }
    let say = async |data: &str| result(one, "publish", json!({"channel": "lobby", "data": data})).await;
    say("first").await;
    result(one, "delete", json!({"channel": "lobby", "offset": 1})).await;
    for sdk in &mut all {
        assert_eq!(sdk.event("publication").await["data"], "first");
        let heard = sdk.event("publication").await;
        assert_eq!((&heard["offset"], &heard["data"], &heard["tags"]["deletes"]), (&json!(2), &json!({}), &json!("1")));
    }
    proxy.point_to(([127, 0, 0, 1], 1).into());
    proxy.cut();
    for sdk in &mut all {
        sdk.event("connecting").await;
    }
    say("third").await;
    result(one, "delete", json!({"channel": "lobby", "offset": 3})).await;
    say("fifth").await;
    proxy.point_to(two);
    for sdk in &mut all {
        assert_eq!(sdk.event("subscribed").await["recovered"], true);
        for (offset, tag, value) in [(3, "deleted", "1"), (4, "deletes", "3")] {
            let heard = sdk.event("publication").await;
            let (data, tag) = (&heard["data"], &heard["tags"][tag]);
            assert_eq!((&heard["offset"], data, tag), (&json!(offset), &json!({}), &json!(value)), "{heard}");
        }
        assert_eq!(sdk.event("publication").await["data"], "fifth");
    }
    // Live again, and still without a gap.
    result(one, "history_remove", json!({"channel": "lobby"})).await;
    for sdk in &mut all {
        let heard = sdk.event("publication").await;
        assert_eq!((&heard["offset"], &heard["tags"]["clears"]), (&json!(6), &json!("5")), "{heard}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_tokens_let_nobody_in_until_there_is_a_new_one() {
    let (cluster, _files) = cluster("token_secret_file = SECRET\n").await;
    let [one, two] = cluster.http()[..] else { panic!("two routers") };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let token = |issued: u64| {
        let claims = json!({"sub": "ann", "iat": issued, "exp": issued + 3_600});
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
    };
    let mut ann = Sdk::start(SdkKind::JavaScript, Encoding::Json, "ann", &cluster.path("."));
    // Comes back with what it has, is told to get another, and does.
    let tokens = [token(now()), token(now()), token(now() + 600)];
    let url = format!("ws://{two}/connection/websocket");
    ann.ok("connect", json!({"url": url, "user": "ann", "tokens": tokens})).await;
    assert_eq!(ann.event("connecting").await["code"], 0);
    ann.event("connected").await;
    let done = result(one, "revoke", json!({"user": "ann", "seconds": 3600})).await;
    assert_eq!(done, json!({"connections": 1, "unreached": []}));
    assert_eq!(ann.event("connecting").await["code"], 3005);
    ann.event("connected").await;
    let old = Client::open(one, "ann").await;
    let refused = old.call(json!({"connect": {"token": token(now() - 10)}})).await.expect_err("a refusal");
    assert_eq!(refused.code, 109);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_key_lets_in_and_the_description_is_true() {
    let (cluster, _files) = cluster("").await;
    let router = cluster.http()[0];
    let publish = r#"{"channel":"lobby","data":1}"#;
    let long = "x".repeat((4 << 20) + 1);
    for (headers, path, body, status) in [
        ("", "/api/publish", publish, 401),
        ("X-API-Key: a key of sufficient lengtH\r\n", "/api/publish", publish, 401),
        ("Authorization: Bearer a key of sufficient length\r\n", "/api/publish", publish, 401),
        ("Authorization: apikey a key of sufficient length\r\n", "/api/publish", publish, 200),
        ("X-API-Key: a key of sufficient length\r\n", "/api/fly", publish, 404),
        ("X-API-Key: a key of sufficient length\r\n", "/api/publish", &long, 413),
    ] {
        let answer = post(router, path, headers, body).await;
        assert_eq!(answer.status, status, "{headers}{path}: {}", answer.body);
        assert!(!answer.body.contains(KEY));
    }
    assert_eq!(get(router, "/api/publish").await.status, 401);
    let log = std::fs::read_to_string(cluster.log("router-1")).expect("a log");
    assert!(!log.contains(KEY), "the key is in the log");

    let description = get(router, "/api/openapi.json").await;
    assert_eq!(description.status, 200);
    let document: Value = serde_json::from_str(&description.body).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let unknown = post(router, "/api/fly", &format!("X-API-Key: {KEY}\r\n"), "").await.body;
    let mut served: Vec<&str> = unknown.rsplit_once("has ").expect("a list").1.trim().split(", ").collect();
    let mut described: Vec<&str> = paths.keys().map(|path| &path[1..]).collect();
    served.sort_unstable();
    described.sort_unstable();
    assert_eq!(served, described);
    for (path, item) in paths {
        let method = &path[1..];
        let content = &item["post"]["requestBody"]["content"]["application/json"];
        let (wanted, example) = (&content["schema"], &content["example"]);
        fits(&document, wanted, example).unwrap_or_else(|e| panic!("the example of {method}: {e}"));
        let answer = call(router, method, example).await;
        assert!(answer.get("error").is_none(), "the example of {method}: {answer}");
        let answers = &item["post"]["responses"]["200"]["content"]["application/json"]["schema"];
        fits(&document, answers, &answer).unwrap_or_else(|e| panic!("the answer of {method}, {answer}: {e}"));
        // What is required is, what is described is taken, and nothing else.
        for field in wanted["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let mut without = example.clone();
            without.as_object_mut().expect("an object").remove(field);
            let refused = call(router, method, &without).await;
            assert!(refused["error"]["message"].as_str().is_some_and(|m| m.contains(field)), "{method}: {refused}");
            fits(&document, answers, &refused).unwrap_or_else(|e| panic!("{refused}: {e}"));
        }
        let fields = wanted["properties"].as_object().expect("properties");
        for field in fields.keys().map(String::as_str).chain(["unheard_of"]) {
            let mut with = example.clone();
            with[field] = json!({"of": "no type that any field has"});
            let refused = call(router, method, &with).await["error"]["message"].as_str().unwrap_or_default().to_owned();
            let unknown = refused.contains(&format!("unknown field `{field}`"));
            assert_eq!(unknown, field == "unheard_of", "{method} {field}: {refused}");
        }
    }
}
