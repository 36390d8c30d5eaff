//! The verbs that change something, against an etcd that holds what a cluster would have written.
#![allow(clippy::unwrap_used)] // A test may.

mod support;

use etcd_client::Client;
use roomring_control::embedded_etcd::EmbeddedEtcd;
use roomring_control::view::Intents;
use roomring_proto::{NodeId, RoomId, SlotId};
use support::{Ran, etcd, member, place, register, roomctl};

/// Nodes `a`, `b` and `c`, registered; four slots on `a` and `b`, one copy each.
struct Cluster {
    etcd: EmbeddedEtcd,
    client: Client,
}

impl Cluster {
    async fn start() -> Self {
        let (etcd, mut client) = etcd().await;
        let members = ["a", "b", "c"].into_iter().zip(5..).map(|(id, i)| member(id, i, true)).collect::<Vec<_>>();
        for member in &members {
            register(&mut client, member).await;
        }
        place(&mut client, members).await;
        Self { etcd, client }
    }

    async fn roomctl(&self, args: &[&str]) -> Ran {
        roomctl(&[args, &["--etcd", &self.etcd.url(), "--cluster", "test"]].concat()).await
    }

    /// Runs a verb that gives JSON and must succeed.
    async fn json(&self, args: &[&str]) -> serde_json::Value {
        let ran = self.roomctl(&[args, &["-o", "json"]].concat()).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        ran.json()
    }

    /// Runs a verb that must not change anything.
    async fn refused(&mut self, args: &[&str], code: i32, says: &str) {
        let before = self.intents().await;
        let ran = self.roomctl(args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {}", ran.stderr);
        assert_eq!(self.intents().await, before, "{args:?}");
    }

    async fn intents(&mut self) -> Intents {
        let answer = self.client.get("/roomring/test/intents", None).await.unwrap();
        answer.kvs().first().map_or_else(Intents::default, |kv| Intents::decode(kv.value()).unwrap())
    }
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

#[tokio::test]
async fn a_drain_is_written_once_and_taken_back() {
    let mut cluster = Cluster::start().await;
    let ran = cluster.roomctl(&["drain", "b", "--reason", "new disks"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("b is drained from now on, holds 2 seats, 2 of them primaries"), "{}", ran.stdout);
    let intents = cluster.intents().await;
    assert_eq!(intents.drained, [id("b")].into());
    let noted = intents.decisions.iter().next().unwrap();
    assert_eq!((noted.text.as_str(), noted.reason.as_str()), ("drain b", "new disks"));
    let again = cluster.json(&["drain", "b"]).await;
    assert_eq!((&again["changed"], &again["left"]["seats"]), (&false.into(), &2.into()));
    // Nobody moves anything here.
    let ran = cluster.roomctl(&["drain", "b", "--wait", "--timeout", "300ms", "-o", "json"]).await;
    assert_eq!((ran.code, &ran.json()["left"]["primaries"]), (Some(5), &2.into()), "{}", ran.stderr);
    assert!(ran.stderr.contains("not drained in time"), "{}", ran.stderr);
    // `c` has nothing.
    let empty = cluster.json(&["drain", "c", "--wait", "--yes"]).await;
    assert_eq!((&empty["changed"], &empty["left"]["seats"]), (&true.into(), &0.into()));

    let back = cluster.json(&["undrain", "b"]).await;
    assert_eq!((&back["change"], &back["changed"]), (&"undrain b".into(), &true.into()));
    assert_eq!(cluster.json(&["undrain", "b"]).await["changed"], false);
    assert_eq!(cluster.intents().await.drained, [id("c")].into());
}

#[tokio::test]
async fn what_hurts_needs_a_yes() {
    let mut cluster = Cluster::start().await;
    cluster.json(&["drain", "a"]).await;
    cluster.json(&["drain", "b"]).await;
    cluster.refused(&["drain", "c"], 3, "c is the last node that takes slots").await;
    cluster.refused(&["drain", "c", "-o", "json"], 3, "give --yes").await;
    cluster.refused(&["weight", "c", "0"], 3, "with weight 0 every slot but pinned ones leaves c").await;
    let made = cluster.json(&["drain", "c", "--yes"]).await;
    assert!(made["confirmed"][0].as_str().unwrap().contains("last node"), "{made}");
    assert_eq!(cluster.intents().await.drained.len(), 3);
}

#[tokio::test]
async fn a_pin_is_for_the_slot_and_says_so() {
    let mut cluster = Cluster::start().await;
    let slot = RoomId::new("lobby").unwrap().slot(4);
    let ran = cluster.roomctl(&["pin", "lobby", "c"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let says =
        format!("lobby is in slot {}, and other rooms of that slot go with it: the slot is pinned to c\n", slot.0);
    assert_eq!(ran.stdout, says, "nobody answers here");
    assert_eq!(cluster.intents().await.pins, [(slot, id("c"))].into());
    let number = slot.0.to_string();
    cluster.refused(&["pin", "lobby", "a"], 3, &format!("slot {number} is pinned to c already")).await;
    cluster.refused(&["move", &number, "a"], 3, "a pin wins over a move").await;
    let pinned = cluster.json(&["pin", "lobby", "a", "-y"]).await;
    assert_eq!((&pinned["slot"], &pinned["room"]), (&slot.0.into(), &"lobby".into()));
    assert_eq!(cluster.json(&["unpin", "lobby"]).await["changed"], true);
    assert_eq!(cluster.json(&["unpin", "--slot", &number]).await["changed"], false);
    assert!(cluster.intents().await.pins.is_empty());
}

#[tokio::test]
async fn a_move_is_an_override_that_is_given_back() {
    let mut cluster = Cluster::start().await;
    let ran = cluster.roomctl(&["move", "3", "c"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("slot 3 moves to c"), "{}", ran.stdout);
    let intents = cluster.intents().await;
    assert_eq!(intents.overridden(), [(SlotId(3), id("c"))].into());
    assert_eq!(cluster.json(&["move", "3", "c"]).await["changed"], false);
    assert_eq!(cluster.json(&["move", "3", "--back"]).await["changed"], true);
    assert!(cluster.intents().await.overrides.is_empty());
    cluster.json(&["drain", "a"]).await;
    cluster.refused(&["move", "3", "a"], 3, "a is being drained").await;
}

#[tokio::test]
async fn a_weight_is_given_and_taken_back() {
    let mut cluster = Cluster::start().await;
    assert_eq!(cluster.json(&["weight", "b", "50"]).await["change"], "weight of b is 50");
    assert_eq!(cluster.intents().await.weights, [(id("b"), 50)].into());
    let nodes = cluster.roomctl(&["nodes", "-o", "json"]).await.json();
    assert_eq!((&nodes[1]["id"], &nodes[1]["weight"]), (&"b".into(), &50.into()));
    assert_eq!(cluster.json(&["weight", "b", "--registered"]).await["changed"], true);
    assert!(cluster.intents().await.weights.is_empty());
}

#[tokio::test]
async fn nodes_and_slots_that_are_not_there_are_named() {
    let mut cluster = Cluster::start().await;
    for args in
        [&["drain", "z"][..], &["undrain", "z"], &["weight", "z", "5"], &["pin", "lobby", "z"], &["move", "1", "z"]]
    {
        cluster.refused(args, 3, "no node is called z; there are a, b, c").await;
    }
    for args in [&["move", "4", "a"][..], &["move", "4", "--back"], &["unpin", "--slot", "4"]] {
        cluster.refused(args, 3, "there is no slot 4; the cluster has slots 0 to 3").await;
    }
}

#[tokio::test]
async fn changes_made_at_once_do_not_undo_each_other() {
    let mut cluster = Cluster::start().await;
    // One of the three would be the last: whoever comes third is refused, or told that it came late.
    let (a, b, c) = (&["drain", "a"], &["drain", "b"], &["drain", "c"]);
    let (a, b, c) = tokio::join!(cluster.roomctl(a), cluster.roomctl(b), cluster.roomctl(c));
    let ran = [a, b, c];
    let done = ran.iter().filter(|r| r.code == Some(0)).count();
    assert_eq!(done, 2, "{:?}", ran.iter().map(|r| (r.code, &r.stderr)).collect::<Vec<_>>());
    let late = ran.iter().find(|r| r.code != Some(0)).unwrap();
    assert!(matches!(late.code, Some(3 | 4)) && late.stderr.contains("last node"), "{:?} {}", late.code, late.stderr);
    assert_eq!(cluster.intents().await.drained.len(), 2);
}

#[tokio::test]
async fn a_change_that_others_always_come_before_is_a_conflict() {
    let cluster = Cluster::start().await;
    let mut other = cluster.client.clone();
    let value = Intents { rebalancing_off: true, ..Intents::default() }.encode();
    let never_idle = tokio::spawn(async move {
        loop {
            other.put("/roomring/test/intents", value.clone(), None).await.unwrap();
        }
    });
    let mut tries = 0;
    let ran = loop {
        let ran = cluster.roomctl(&["weight", "b", "50"]).await;
        tries += 1;
        // It may come between two writes of the other.
        if ran.code != Some(0) || tries == 100 {
            break ran;
        }
    };
    never_idle.abort();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[tokio::test]
async fn intents_that_can_not_be_read_are_not_overwritten() {
    let mut cluster = Cluster::start().await;
    cluster.client.put("/roomring/test/intents", vec![0xff; 3], None).await.unwrap();
    let ran = cluster.roomctl(&["drain", "a"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("/roomring/test/intents") && ran.stderr.contains("newer roomctl"), "{}", ran.stderr);
}

#[tokio::test]
async fn rebalancing_is_switched_off_and_on_and_says_what_it_lacks() {
    let mut cluster = Cluster::start().await;
    cluster.refused(&["rebalance", "--dry-run"], 3, "the load of a, b is not known").await;
    assert_eq!(cluster.json(&["rebalance", "--off"]).await["changed"], true);
    assert!(cluster.intents().await.rebalancing_off);
    let status = cluster.roomctl(&["status"]).await;
    assert!(status.stdout.contains("rebalancing off"), "{}", status.stdout);
    let ran = cluster.roomctl(&["rebalance", "--on"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "automatic rebalancing is on\n"), "{}", ran.stderr);
    assert!(!cluster.intents().await.rebalancing_off);
}

#[tokio::test]
async fn what_is_wanted_is_told_by_status_explain_and_events() {
    let cluster = Cluster::start().await;
    cluster.json(&["drain", "c", "--reason", "new disks"]).await;
    let pinned = cluster.json(&["pin", "lobby", "a"]).await;
    let slot = pinned["slot"].as_u64().unwrap();
    let moved = ((slot + 1) % 4).to_string();
    cluster.json(&["move", &moved, "b"]).await;
    let ran = cluster.roomctl(&["status", "-o", "json"]).await;
    let wishes = &ran.json()["wishes"];
    assert_eq!(wishes["drained"], serde_json::json!(["c"]));
    assert_eq!(wishes["pins"], serde_json::json!({ slot.to_string(): "a" }));
    assert_eq!(
        (&wishes["overrides"][&moved]["node"], &wishes["overrides"][&moved]["by"]),
        (&"b".into(), &"operator".into())
    );
    assert_eq!(wishes["rebalancing"], true);
    let shown = cluster.roomctl(&["status"]).await.stdout;
    let line = format!("drained c, pinned s{slot} to a, 1 slot(s) moved by operators, rebalancing on");
    assert!(shown.contains(&line), "{shown}");
    let why = cluster.roomctl(&["explain", "lobby"]).await.stdout;
    assert!(why.contains("The slot is pinned to a."), "{why}");

    let events = cluster.json(&["events"]).await;
    let texts: Vec<_> = events.as_array().unwrap().iter().map(|e| e["text"].as_str().unwrap()).collect();
    assert_eq!(texts[0], "evict c (silent)", "what happened in 2023 comes first: {texts:?}");
    assert_eq!(texts[1..], ["drain c".to_owned(), format!("pin s{slot} to a"), format!("move s{moved} to b")]);
    assert_eq!(events[1]["reason"], "new disks");
    let last = cluster.roomctl(&["events", "-n", "1"]).await;
    assert_eq!((last.code, last.stdout.lines().count()), (Some(0), 2), "a header and one line: {}", last.stdout);
}

#[tokio::test]
async fn rooms_tail_and_top_say_what_they_lack() {
    let cluster = Cluster::start().await;
    let ran = cluster.roomctl(&["rooms"]).await;
    assert_eq!(ran.code, Some(1), "nobody answers");
    assert!(
        ran.stderr.contains("a at 127.0.0.1:1") && ran.stderr.contains("its rooms are missing here"),
        "{}",
        ran.stderr
    );
    let ran = cluster.roomctl(&["rooms", "--node", "z"]).await;
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.contains("no node z is registered; there are a, b, c"), "{}", ran.stderr);
    let ran = cluster.roomctl(&["tail", "lobby"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("no router is registered"), "{}", ran.stderr);
    let ran = cluster.roomctl(&["top"]).await;
    assert_eq!(ran.code, Some(2), "this is no terminal");
    assert!(ran.stderr.contains("--once"), "{}", ran.stderr);
    let ran = cluster.roomctl(&["top", "--once"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("unreachable") && ran.stdout.contains("b -> a"), "{}", ran.stdout);
}

#[tokio::test]
async fn every_verb_is_in_the_completions() {
    let help = roomctl(&["--help"]).await.stdout;
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let verbs = commands.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).filter(|v| !v.is_empty());
    let verbs: Vec<&str> = verbs.collect();
    assert!(verbs.len() >= 18, "{verbs:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = roomctl(&["completions", shell]).await.stdout;
        for verb in &verbs {
            assert!(script.contains(verb), "{verb} for {shell}");
        }
    }
}
