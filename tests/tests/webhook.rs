//! What the business server is told of rooms by the routers of a real cluster, and what becomes of it while it is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use roomring_tests::openapi::fits;
use roomring_tests::{Answerer, Client, Cluster, Options, eventually, evidence, get, post, write};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of sufficient length";
const KEY: &str = "a key of sufficient length";

/// What the business server was told, and how it answers.
#[derive(Debug, Default)]
struct Server {
    /// By the router that told it.
    told: Vec<(String, Value)>,
    /// Whole requests.
    bodies: Vec<Value>,
    /// Ids of events in requests that it did not take.
    refused: Vec<Value>,
    status: Option<u16>,
}

impl Server {
    /// Takes a request, which must be signed.
    fn take(&mut self, request: &str) -> u16 {
        let (head, body) = request.split_once("\r\n\r\n").expect("a whole request");
        let header = |name: &str| {
            let line = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
            line.unwrap_or_else(|| panic!("no {name} in {head}")).trim().to_owned()
        };
        let timestamp = header("x-roomring-timestamp:");
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let mac = crypto::sign(format!("{timestamp}.{body}").as_bytes(), &key, Algorithm::HS256).expect("a signature");
        let mac = URL_SAFE_NO_PAD.decode(mac).expect("base64");
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(header("x-roomring-signature:"), format!("sha256={hex}"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        assert!(now.abs_diff(timestamp.parse().expect("a number")) < 600, "{timestamp}");
        let body: Value = serde_json::from_str(body).expect("JSON");
        self.bodies.push(body.clone());
        let events = body["events"].as_array().cloned().expect("events");
        if let Some(status) = self.status {
            self.refused.extend(events.into_iter().map(|event| event["id"].clone()));
            return status;
        }
        let router = body["router"].as_str().expect("a name").to_owned();
        self.told.extend(events.into_iter().map(|event| (router.clone(), event)));
        200
    }

    /// `router event user` of what was told of a room.
    fn of(&self, room: &str) -> Vec<String> {
        let of_room = self.told.iter().filter(|(_, event)| event["channel"] == room);
        let line = |(router, e): &(String, Value)| {
            let user = e["info"]["user"].as_str().map(|user| format!(" {user}")).unwrap_or_default();
            format!("{router} {}{user}", e["event"].as_str().unwrap_or_default())
        };
        of_room.map(line).collect()
    }
}

struct World {
    cluster: Cluster,
    server: Arc<Mutex<Server>>,
    _answerer: Answerer,
    _files: tempfile::TempDir,
}

impl World {
    async fn start(options: &str) -> Self {
        let server = Arc::new(Mutex::new(Server::default()));
        let taking = server.clone();
        let answerer =
            Answerer::start(move |request| Some((taking.lock().expect("not poisoned").take(request), String::new())))
                .await;
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        write(&dir.path().join("secret"), &format!("{SECRET}\n"));
        write(&dir.path().join("key"), KEY);
        let config = format!(
            "api_key_file = {:?}\n[webhook]\nurl = \"http://{}/events\"\nsecret_file = {:?}\n{options}",
            path("key"),
            answerer.address(),
            path("secret"),
        );
        write(&dir.path().join("router.toml"), &config);
        let flag = &*Box::leak(format!("--config={}", path("router.toml")).into_boxed_str());
        let (router_flags, node_flags) = (vec![flag], vec!["--presence-grace=1s"]);
        let options = Options { nodes: 2, routers: 2, router_flags, node_flags, ..Options::default() };
        Self { cluster: Cluster::start(options).await, server, _answerer: answerer, _files: dir }
    }

    fn server<T>(&self, f: impl FnOnce(&mut Server) -> T) -> T {
        f(&mut self.server.lock().expect("not poisoned"))
    }

    /// Waits until so many events of a room were told, and gives them.
    async fn told(&self, room: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} events of {room}"), LIMIT, async || {
            let told = self.server(|server| server.of(room));
            (told.len() >= count).then_some(told)
        })
        .await
    }

    /// A counter of a router.
    async fn counted(&self, router: &str, outcome: &str) -> u64 {
        let text = get(self.cluster.routers[router].admin, "/metrics").await.body;
        let series = format!("roomring_router_webhook_events_total{{outcome=\"{outcome}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    }
}

const ALL: &str = "[rooms]\nwebhook = [\"occupied\", \"vacated\", \"join\", \"leave\", \"published\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_told_once_by_the_router_that_it_is_of() {
    let mut world = World::start(ALL).await;
    let [one, two] = world.cluster.http()[..] else { panic!("two routers") };
    let (ann, bob) = (Client::connect(one, "ann").await, Client::connect(two, "bob").await);
    ann.subscribe("lobby").await;
    world.told("lobby", 2).await;
    bob.subscribe("lobby").await;
    world.told("lobby", 3).await;
    bob.publish("lobby", "hello").await.expect("an acknowledgement");
    world.told("lobby", 4).await;
    // What the business server publishes itself it knows.
    let headers = format!("X-API-Key: {KEY}\r\n");
    assert_eq!(post(one, "/api/publish", &headers, r#"{"channel":"lobby","data":1}"#).await.status, 200);
    ann.unsubscribe("lobby").await;
    world.told("lobby", 5).await;
    bob.close().await;
    let told = world.told("lobby", 7).await;
    let wanted = [
        "router-1 occupied",
        "router-1 join ann",
        "router-2 join bob",
        "router-2 published bob",
        "router-1 leave ann",
        "router-2 leave bob",
        "router-2 vacated",
    ];
    assert_eq!(told, wanted);
    let published = world.server(|server| server.told[3].1.clone());
    assert_eq!((&published["offset"], &published["data"]), (&json!(1), &json!("hello")), "{published}");

    // Whoever was on a router that died left, says another.
    let carl = Client::connect(two, "carl").await;
    carl.subscribe("hall").await;
    world.told("hall", 2).await;
    world.cluster.kill_router("router-2");
    let told = world.told("hall", 4).await;
    assert_eq!(told[2..], ["router-1 leave carl", "router-1 vacated"]);
    evidence("router-2 was killed, and router-1 told that its client left");

    let ids: Vec<Value> = world.server(|server| server.told.iter().map(|(_, event)| event["id"].clone()).collect());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for id in &ids {
        *counts.entry(id.to_string()).or_default() += 1;
    }
    assert!(counts.len() == 11 && counts.values().all(|count| *count == 1), "{counts:?}");

    // All of it is as the description of the API says.
    let description = get(one, "/api/openapi.json").await;
    let document: Value = serde_json::from_str(&description.body).expect("JSON");
    let body = &document["webhooks"]["events"]["post"]["requestBody"]["content"]["application/json"];
    let bodies = world.server(|server| server.bodies.clone());
    for told in bodies.iter().chain([&body["example"]]) {
        fits(&document, &body["schema"], told).unwrap_or_else(|e| panic!("{told}: {e}"));
    }
    assert!(fits(&document, &body["schema"], &json!({"router": "r", "events": [{"event": "other"}]})).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_taken_is_told_again_unless_it_is_refused() {
    let world = World::start("[namespaces.told]\nwebhook = [\"published\"]\n[namespaces.quiet]\n").await;
    let ann = Client::connect(world.cluster.http()[0], "ann").await;
    for room in ["told:a", "quiet:a"] {
        ann.subscribe(room).await;
    }
    world.server(|server| server.status = Some(503));
    for room in ["quiet:a", "told:a"] {
        ann.publish(room, "hello").await.expect("an acknowledgement");
    }
    let ids = eventually("the same to be told again", LIMIT, async || {
        let refused = world.server(|server| server.refused.clone());
        (refused.len() >= 2).then_some(refused)
    })
    .await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    world.server(|server| server.status = None);
    assert_eq!(world.told("told:a", 1).await, ["router-1 published ann"]);
    assert_eq!(world.server(|server| server.told[0].1["id"].clone()), ids[0]);
    evidence("the business server answered 503 to an event at least twice, and then took it");

    world.server(|server| server.status = Some(400));
    ann.publish("told:a", "bad").await.expect("an acknowledgement");
    eventually("it to be given up", LIMIT, async || (world.counted("router-1", "refused").await == 1).then_some(()))
        .await;
    world.server(|server| server.status = None);
    ann.publish("told:a", "good").await.expect("an acknowledgement");
    world.told("told:a", 2).await;
    let last = world.server(|server| server.told[1].1["data"].clone());
    assert_eq!((last, world.counted("router-1", "taken").await), (json!("good"), 2));
    assert_eq!(world.server(|server| server.of("quiet:a")), [] as [String; 0]);
}
