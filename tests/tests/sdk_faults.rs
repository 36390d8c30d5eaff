//! Each SDK in each encoding, and one without WebSockets, while the node of their rooms dies, another is drained and their router
//! stops: everybody hears everything that was acknowledged, once and in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use jsonwebtoken::{EncodingKey, Header, encode};
use nix::sys::signal::Signal;
use roomring_tests::{
    Client, Cluster, Encoding, Options, Outcome, Proxy, Sdk, SdkKind, Traffic, Weight, eventually, evidence,
    go_is_missing, holder, write,
};
use serde_json::{Value, json};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of sufficient length";
/// Joined with tokens, which are refreshed meanwhile.
const ROOM: &str = "private:lobby";
/// Between two messages of one of them.
const PAUSE: Duration = Duration::from_millis(50);
/// What the last of a room's messages says.
const LAST: &str = "the last";

const CONFIG: &str = r#"
token_secret_file = "SECRET"
[rooms]
publish = "anyone"
[namespaces.private]
join = "token"
publish = "anyone"
"#;

fn token(mut claims: Value, seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    claims["exp"] = (now + seconds).into();
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

/// A client: an SDK that also speaks.
struct Member {
    name: String,
    sdk: Sdk,
}

impl Member {
    /// Comes through the balancer; the server makes it a member of `own`, and a token of [`ROOM`].
    async fn come(
        cluster: &Cluster,
        kind: SdkKind,
        encoding: Encoding,
        balancer: &Proxy,
        http: bool,
        own: &str,
    ) -> Self {
        let name = format!("{kind:?}-{encoding:?}{}", if http { "-http" } else { "" });
        let mut sdk = Sdk::start(kind, encoding, &name, &cluster.path("."));
        // The first ends in the middle of it.
        let tokens = |claims: Value| -> Vec<String> {
            [2, 600, 600, 600, 600].iter().map(|seconds| token(claims.clone(), *seconds)).collect()
        };
        let address = balancer.address();
        let mut connect = json!({"user": name, "tokens": tokens(json!({"sub": name, "channels": [own]}))});
        if http {
            let stream = format!("http://{address}/connection/http_stream");
            connect["url"] = json!([{"transport": "http_stream", "endpoint": stream}]);
            connect["emulation"] = json!(format!("http://{address}/emulation"));
        } else {
            connect["url"] = json!(format!("ws://{address}/connection/websocket"));
        }
        sdk.ok("connect", connect).await;
        sdk.event("connecting").await;
        sdk.event("connected").await;
        assert_eq!(sdk.event("server_subscribed").await["room"], own);
        sdk.ok("subscribe", json!({"room": ROOM, "tokens": tokens(json!({"sub": name, "channel": ROOM}))})).await;
        sdk.event("subscribed").await;
        Self { name, sdk }
    }

    /// Speaks until it is told to stop; gives what was acknowledged. What was not is said again under the same id.
    async fn speak(&mut self, mut stop: watch::Receiver<bool>) -> Vec<String> {
        let mut acknowledged = Vec::new();
        while !*stop.borrow() {
            let id = format!("{}-{}", self.name, acknowledged.len());
            let said = json!({"method": "room.publish", "data": {"channel": ROOM, "id": id, "data": id}});
            eventually(&format!("an acknowledgement of {id}"), LIMIT, async || {
                self.sdk.call("rpc", said.clone()).await.ok()
            })
            .await;
            acknowledged.push(id);
            let _ = tokio::time::timeout(PAUSE, stop.wait_for(|stop| *stop)).await;
        }
        acknowledged
    }

    /// All publications that it was told of by events of this name.
    async fn heard(&mut self, event: &str) -> Vec<Value> {
        let mut all = Vec::new();
        while all.last().is_none_or(|last: &Value| last["data"] != LAST) {
            all.push(self.sdk.event(event).await);
        }
        all
    }

    /// Whether what it heard of a room is all that was acknowledged, each once, at offsets without holes.
    async fn judge(&mut self, event: &str, acknowledged: &BTreeSet<String>) -> usize {
        let heard = self.heard(event).await;
        let offsets: Vec<u64> = heard.iter().filter_map(|p| p["offset"].as_u64()).collect();
        let expected: Vec<u64> = (1..=heard.len() as u64).collect();
        assert_eq!(offsets, expected, "{}: offsets of each {event}", self.name);
        let texts: BTreeSet<&str> = heard.iter().filter_map(|p| p["data"].as_str()).collect();
        assert_eq!(texts.len(), heard.len(), "{}: something came twice", self.name);
        let missing: Vec<_> = acknowledged.iter().filter(|text| !texts.contains(text.as_str())).collect();
        assert!(missing.is_empty(), "{} never heard {missing:?}", self.name);
        heard.len()
    }

    /// Events of a name that nobody took yet.
    fn told(&self, event: &str) -> Vec<&Value> {
        self.sdk.kept().iter().filter(|e| e["event"] == event).collect()
    }

    /// It was sent to another router once, and never told that it missed anything.
    fn check_told(&self) {
        for (event, times) in [("unsubscribed", 0), ("disconnected", 0), ("connecting", 1)] {
            assert_eq!(self.told(event).len(), times, "{}: {event} {:?}", self.name, self.told(event));
        }
        for event in ["subscribed", "server_subscribed"] {
            let recovered: Vec<&Value> = self.told(event).iter().map(|e| &e["recovered"]).collect();
            assert_eq!(recovered, [true], "{}: {event}", self.name);
        }
    }

    /// Afterwards everything can be asked as ever.
    async fn ask(&mut self, top: usize) {
        let newest = self.sdk.ok("history", json!({"room": ROOM, "limit": 2, "reverse": true})).await;
        let offsets = |page: &Value| -> Vec<u64> {
            page["publications"].as_array().into_iter().flatten().filter_map(|p| p["offset"].as_u64()).collect()
        };
        let top = top as u64;
        assert_eq!(offsets(&newest), [top, top - 1], "{newest}");
        let since = json!({"offset": top - 2, "epoch": newest["epoch"]});
        let rest = self.sdk.ok("history", json!({"room": ROOM, "limit": 10, "since": since})).await;
        assert_eq!(offsets(&rest), [top - 1, top], "{rest}");
        let present = self.sdk.ok("presence", json!({"room": ROOM})).await;
        assert!(present.as_object().into_iter().flatten().any(|(_, p)| p["user"] == self.name), "{present}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sdk_hears_everything_through_a_failover_and_a_drain() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, secret) = (dir.path().join("router.toml"), dir.path().join("secret"));
    write(&secret, SECRET);
    write(&file, &CONFIG.replace("SECRET", &secret.display().to_string()));
    let flag = &*Box::leak(format!("--config={}", file.display()).into_boxed_str());
    // The lease must not be what evicts.
    let mut cluster = Cluster::start(Options {
        weight: Weight::Heavy,
        replication: 2,
        lease_ttl: "20s",
        fence_after: "60s",
        router_flags: vec![flag],
        node_flags: vec!["--history-size", "1000"],
        ..Options::default()
    })
    .await;
    let placement = cluster.placement().await.expect("a placement");
    let victim = holder(&placement, ROOM).to_owned();
    // Its rooms are hit by the same faults.
    let own = (0..).map(|n| format!("own-{n}")).find(|room| holder(&placement, room) == victim).expect("a room");

    let routers = [cluster.routers["router-1"].http, cluster.routers["router-2"].http];
    let balancer = Proxy::start(routers[0]).await;
    let mut members = Vec::new();
    for (kind, encoding) in Sdk::ALL {
        match go_is_missing() {
            Some(why) if kind == SdkKind::Go => eprintln!("without centrifuge-go, which could not be built: {why}"),
            _ => members.push(Member::come(&cluster, kind, encoding, &balancer, false, &own).await),
        }
    }
    members.push(Member::come(&cluster, SdkKind::JavaScript, Encoding::Json, &balancer, true, &own).await);

    let bob = Arc::new(Client::connect(routers[1], "bob").await);
    let traffic = Traffic::start([ROOM, own.as_str()].map(|room| (bob.clone(), room.to_owned())), PAUSE, None);
    let stop = watch::Sender::new(false);
    let speaking = join_all(members.iter_mut().map(|member| member.speak(stop.subscribe())));
    let faults = async {
        cluster.kill_node(&victim);
        let after = eventually("another primary", LIMIT, async || {
            let now = cluster.placement().await?;
            (holder(&now, ROOM) != victim && holder(&now, &own) != victim).then_some(now)
        })
        .await;
        bob.publish(ROOM, "after the failover").await.expect("a publish");
        cluster.start_node(&victim).await;
        cluster.settled().await;

        let heir = holder(&after, ROOM).to_owned();
        let drained = cluster.roomctl_json(&["drain", &heir, "--wait", "--timeout", "60s"]).await;
        assert_eq!(drained["left"]["seats"], 0, "{drained}");
        bob.publish(ROOM, "after the drain").await.expect("a publish");

        balancer.point_to(routers[1]);
        cluster.routers["router-1"].process.signal(Signal::SIGTERM);
        cluster.stopped_router("router-1").await;
        bob.publish(ROOM, "after the router").await.expect("a publish");
        stop.send_replace(true);
        evidence(format!("{victim} was killed, {heir} drained, router-1 stopped, while everybody spoke"));
    };
    let (acknowledged, ()) = tokio::join!(speaking, faults);
    let sent = traffic.stop().await;
    for room in [ROOM, &own] {
        bob.publish(room, LAST).await.expect("a publish");
    }

    let of_bob = |room: &str| {
        let acked = sent.iter().filter(|s| s.room == room && s.outcome == Outcome::Acked);
        acked.map(|s| serde_json::from_str::<String>(&s.data).expect("a text")).collect::<BTreeSet<_>>()
    };
    let mut of_room = of_bob(ROOM);
    of_room.extend(acknowledged.into_iter().flatten());
    let of_own = of_bob(&own);
    for member in &mut members {
        let top = member.judge("publication", &of_room).await;
        let tops = member.judge("server_publication", &of_own).await;
        member.check_told();
        member.ask(top).await;
        println!("{}: {top} messages in {ROOM}, {tops} in {own}, each once and in order", member.name);
    }
}
