//! Published SDKs, unmodified, against a cluster: whatever an application does with them works, also across failures.

use std::net::SocketAddr;
use std::time::Duration;

use roomring_tests::{
    Client, Cluster, Encoding, Options, Proxy, Sdk, SdkKind, evidence, go_is_missing, holder, nowhere,
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centrifuge_js() {
    scenario(SdkKind::JavaScript, Encoding::Json, "js").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centrifuge_js_protobuf() {
    scenario(SdkKind::JavaScript, Encoding::Protobuf, "js-protobuf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centrifuge_python() {
    scenario(SdkKind::Python, Encoding::Json, "python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centrifuge_python_protobuf() {
    scenario(SdkKind::Python, Encoding::Protobuf, "python-protobuf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centrifuge_go() {
    match go_is_missing() {
        None => scenario(SdkKind::Go, Encoding::Protobuf, "go").await,
        Some(why) => eprintln!("SKIPPED: centrifuge-go could not be built on this machine: {why}"),
    }
}

/// A router's flag: rooms of several namespaces.
const NAMESPACES: &str = concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/configs/namespaces.toml");

/// Messages that a room keeps, unless it is configured otherwise.
const HISTORY: usize = 100;

async fn scenario(kind: SdkKind, encoding: Encoding, room: &str) {
    let mut cluster = Cluster::start(Options { router_flags: vec![NAMESPACES], ..Options::default() }).await;
    let routers = [cluster.routers["router-1"].http, cluster.routers["router-2"].http];
    let proxy = Proxy::start(routers[0]).await;
    let mut ann = Sdk::start(kind, encoding, "ann", &cluster.path("."));
    ann.connect(&format!("ws://{}/connection/websocket", proxy.address()), "ann").await;
    ann.ok("subscribe", json!({"room": room})).await;
    let joined = ann.event("subscribed").await;
    assert_eq!((&joined["recoverable"], &joined["was_recovering"]), (&json!(true), &json!(false)), "{joined}");
    assert_eq!(ann.event("join").await["user"], "ann", "her own join");

    let bob = Client::connect(routers[1], "bob").await;
    bob.subscribe(room).await;
    assert_eq!(ann.event("join").await["user"], "bob");
    talk(&mut ann, &bob, room).await;
    questions(&mut ann, room).await;
    refusals(&mut ann).await;
    namespaces(&mut ann).await;
    recoveries(&mut ann, &bob, room, &proxy, routers[0]).await;
    other_router(&mut ann, &bob, room, &mut cluster, &proxy).await;
    lost_node(&mut ann, &bob, room, &mut cluster).await;

    bob.unsubscribe(room).await;
    while ann.event("leave").await["user"] != "bob" {}
    ann.ok("unsubscribe", json!({"room": room})).await;
    assert_eq!(ann.event("unsubscribed").await["room"], room);
    ann.ok("resubscribe", json!({"room": room})).await;
    ann.event("subscribed").await;
    ann.ok("publish", json!({"room": room, "data": "back"})).await;
    ann.publication(&json!("back")).await;
    // centrifuge-python has no `send`. Nobody listens to one here, and the server says so.
    if kind == SdkKind::Python {
        ann.ok("disconnect", json!({})).await;
        ann.event("disconnected").await;
    } else {
        ann.ok("send", json!({"data": "to whom it may concern"})).await;
        assert_eq!(ann.event("disconnected").await["code"], 3508);
    }
}

/// Both hear both, in order, with everything that belongs to a message.
async fn talk(ann: &mut Sdk, bob: &Client, room: &str) {
    let data = json!({"text": "grüß dich 🧀\n", "n": [1, 2.5, null, true]});
    ann.ok("publish", json!({"room": room, "data": data})).await;
    let heard = ann.event("publication").await;
    assert_eq!((&heard["data"], &heard["offset"], &heard["user"]), (&data, &json!(1), &json!("ann")), "{heard}");
    bob.publish(room, "hello ann").await.expect("a publish");
    let heard = ann.event("publication").await;
    assert_eq!((&heard["data"], &heard["offset"], &heard["user"]), (&json!("hello ann"), &json!(2), &json!("bob")));
    bob.wait_message(room, "hello ann").await;

    let once = json!({"method": "room.publish", "data": {"channel": room, "id": "once-1", "data": "once"}});
    let first = ann.ok("rpc", once.clone()).await;
    assert_eq!(first["offset"], 3, "{first}");
    let heard = ann.event("publication").await;
    assert_eq!((&heard["data"], &heard["tags"]["id"]), (&json!("once"), &json!("once-1")), "{heard}");
    let second = ann.ok("rpc", once).await;
    assert_eq!((&second["offset"], &second["duplicate"]), (&json!(3), &json!(true)), "{second}");
}

/// History and presence.
async fn questions(ann: &mut Sdk, room: &str) {
    let all = ann.ok("history", json!({"room": room, "limit": 10})).await;
    assert_eq!(all["offset"], 3, "{all}");
    let offsets = |page: &Value| -> Vec<u64> {
        page["publications"].as_array().into_iter().flatten().filter_map(|p| p["offset"].as_u64()).collect()
    };
    assert_eq!(offsets(&all), [1, 2, 3], "{all}");
    let position = ann.ok("history", json!({"room": room, "limit": 0})).await;
    assert_eq!((&position["offset"], &position["epoch"], offsets(&position)), (&json!(3), &all["epoch"], vec![]));
    let newest = ann.ok("history", json!({"room": room, "limit": 2, "reverse": true})).await;
    assert_eq!(offsets(&newest), [3, 2], "{newest}");
    let since = json!({"offset": 1, "epoch": all["epoch"]});
    let rest = ann.ok("history", json!({"room": room, "limit": 10, "since": since})).await;
    assert_eq!(offsets(&rest), [2, 3], "{rest}");
    let other = json!({"offset": 1, "epoch": "other"});
    let error = ann.call("history", json!({"room": room, "limit": 10, "since": other})).await.expect_err("a refusal");
    assert_eq!(error["code"], 112, "{error}");

    let present = ann.ok("presence", json!({"room": room})).await;
    let mut users: Vec<&str> =
        present.as_object().into_iter().flatten().filter_map(|(_, p)| p["user"].as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, ["ann", "bob"], "{present}");
    let stats = ann.ok("presence_stats", json!({"room": room})).await;
    assert_eq!(stats, json!({"clients": 2, "users": 2}));
}

/// Errors come with the codes that applications act on.
async fn refusals(ann: &mut Sdk) {
    let elsewhere = json!({"room": "elsewhere", "data": 1});
    for (op, args, code) in [
        ("publish", elsewhere.clone(), 103),
        ("presence", elsewhere.clone(), 103),
        ("presence_stats", elsewhere, 103),
        ("history", json!({"room": "elsewhere", "limit": 1}), 103),
        ("rpc", json!({"method": "no.such.method", "data": {}}), 104),
    ] {
        let error = ann.call(op, args.clone()).await.expect_err("a refusal");
        assert_eq!(error["code"], code, "{op} {args}: {error}");
    }
    for (room, code) in [("x".repeat(256), 107), ("none:a".into(), 102), ("dialog#bob,carl".into(), 103)] {
        ann.ok("subscribe", json!({"room": room})).await;
        let ended = ann.event("unsubscribed").await;
        assert_eq!((&ended["room"], &ended["code"]), (&json!(room), &json!(code)), "ends the subscription: {ended}");
    }
}

/// Rooms go by their namespace.
async fn namespaces(ann: &mut Sdk) {
    for room in ["short:a", "news:a"] {
        ann.ok("subscribe", json!({"room": room})).await;
        assert_eq!(ann.event("subscribed").await["room"], room);
    }
    for n in 0..4 {
        ann.ok("publish", json!({"room": "short:a", "data": n})).await;
        ann.publication(&json!(n)).await;
    }
    let kept = ann.ok("history", json!({"room": "short:a", "limit": -1})).await;
    assert_eq!((&kept["offset"], kept["publications"].as_array().map(Vec::len)), (&json!(4), Some(2)), "{kept}");
    let hidden = ann.call("presence", json!({"room": "short:a"})).await.expect_err("a refusal");
    assert_eq!(hidden["code"], 108, "{hidden}");
    let quiet = ann.call("publish", json!({"room": "news:a", "data": 1})).await.expect_err("a refusal");
    assert_eq!(quiet["code"], 103, "{quiet}");
    for room in ["short:a", "news:a"] {
        ann.ok("unsubscribe", json!({"room": room})).await;
        assert_eq!(ann.event("unsubscribed").await["room"], room);
    }
}

/// Her connection breaks while nothing, and while more than a room keeps, is said.
async fn recoveries(ann: &mut Sdk, bob: &Client, room: &str, proxy: &Proxy, router: SocketAddr) {
    proxy.cut();
    ann.event("connecting").await;
    let back = came_back(ann, room).await;
    assert_eq!(back["recovered"], true, "nothing was missed: {back}");

    // Nobody listens there, so she stays away.
    proxy.point_to(nowhere());
    proxy.cut();
    ann.event("connecting").await;
    for n in 0..=HISTORY {
        bob.publish(room, format!("too many {n}")).await.expect("a publish");
    }
    proxy.point_to(router);
    let back = came_back(ann, room).await;
    assert_eq!(back["recovered"], false, "more than is kept was missed: {back}");
    bob.publish(room, "and on").await.expect("a publish");
    let heard = ann.event("publication").await;
    assert_eq!(heard["data"], "and on", "{heard}");
    evidence(format!("{room}: back with nothing missed, and with too much missed"));
}

/// Her router dies and she comes back: through another, then through the first one again. Nothing is missing.
async fn other_router(ann: &mut Sdk, bob: &Client, room: &str, cluster: &mut Cluster, proxy: &Proxy) {
    let old = cluster.kill_router("router-1");
    ann.event("connecting").await;
    for n in 0..3 {
        bob.publish(room, format!("while away {n}")).await.expect("a publish");
    }
    proxy.point_to(bob.router());
    let back = came_back(ann, room).await;
    assert_eq!(back["recovered"], true, "{back}");
    for n in 0..3 {
        let heard = ann.event("publication").await;
        assert_eq!(heard["data"], format!("while away {n}"), "{heard}");
    }
    evidence(format!("{room}: back through another router, recovered: {back}"));

    let moved = cluster.start_router_at("router-1", &old.to_string()).await;
    let carl = Client::connect(moved, "carl").await;
    carl.subscribe(room).await;
    proxy.point_to(moved);
    proxy.cut();
    carl.publish(room, "through the first").await.expect("a publish");
    let back = came_back(ann, room).await;
    assert_eq!(back["recovered"], true, "{back}");
    ann.publication(&json!("through the first")).await;
    carl.close().await;
}

/// The event with which the SDK tells that it is in again.
async fn came_back(ann: &mut Sdk, room: &str) -> Value {
    loop {
        let event = ann.event("subscribed").await;
        if event["room"] == room && event["was_recovering"] == true {
            return event;
        }
    }
}

/// The room's node dies: the connection stays, and the application is told that the history is lost.
async fn lost_node(ann: &mut Sdk, bob: &Client, room: &str, cluster: &mut Cluster) {
    let before = cluster.placement().await.expect("a placement");
    let victim = holder(&before, room).to_owned();
    cluster.kill_node(&victim);
    cluster.recreated(&before, &victim).await;
    loop {
        let event = ann.event("subscribing").await;
        if event["code"] == 2500 {
            break;
        }
    }
    let back = came_back(ann, room).await;
    assert_eq!(back["recovered"], false, "{back}");
    let in_again = |log: &roomring_tests::RoomLog| (log.recoveries() == [false] && log.subscribed).then_some(());
    bob.wait_log_for(room, "to be back", Duration::from_secs(60), in_again).await;
    bob.publish(room, "a new start").await.expect("a publish");
    assert_eq!(ann.publication(&json!("a new start")).await["offset"], 1);
}
