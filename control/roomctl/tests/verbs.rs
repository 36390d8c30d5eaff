//! The verbs that ask, against an etcd that holds what a cluster would have written.
#![allow(clippy::unwrap_used)] // A test may.

mod support;

use support::{etcd, member, place, register, roomctl};

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named_with_advice() {
    let ran = roomctl(&["status", "--etcd", "http://127.0.0.1:1"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(
        ran.stderr.contains("(http://127.0.0.1:1: Connection refused") && ran.stderr.contains("--etcd"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[tokio::test]
async fn a_cluster_that_is_not_formed_is_trouble() {
    let (etcd, _client) = etcd().await;
    for verb in [&["status"][..], &["nodes"], &["where", "lobby"], &["explain", "lobby"]] {
        let ran = roomctl(&[verb, &["--etcd", &etcd.url()]].concat()).await;
        assert_eq!(ran.code, Some(1), "{verb:?}");
        assert!((ran.stdout + &ran.stderr).contains("is not formed yet"), "{verb:?}");
    }
}

#[tokio::test]
async fn status_tells_slots_and_who_does_not_answer() {
    let (etcd, mut client) = etcd().await;
    let (a, b) = (member("a", 5, true), member("b", 6, true));
    register(&mut client, &a).await;
    register(&mut client, &b).await;
    place(&mut client, vec![a, b, member("c", 7, true)]).await;
    let common = ["--etcd", &etcd.url(), "--cluster", "test"];
    let ran = roomctl(&[&["status", "-o", "json"], &common[..]].concat()).await;
    let status = ran.json();
    assert_eq!(ran.code, Some(1), "nobody answers");
    assert_eq!(status["slots"], serde_json::json!({"ok": 3, "moving": 1, "under_replicated": 0, "offline": 0}));
    assert_eq!(status["placement"]["version"], 9);
    assert_eq!(status["placement"]["room_limits"]["members"], 1);
    assert!(status["nodes"][0]["unreachable"].as_str().unwrap().contains("refused"), "{status}");
    assert_eq!(status["nodes"][0]["wanted"], 2);

    // b's key goes: half of the slots have nobody.
    client.delete("/roomring/test/nodes/b", None).await.unwrap();
    let ran = roomctl(&[&["status"], &common[..]].concat()).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("2 ok, 0 moving, 0 under-replicated, 2 offline"), "{}", ran.stdout);
    assert!(ran.stdout.contains("lost"), "{}", ran.stdout);
    assert!(ran.stdout.contains("0 messages, 0s, 0 KiB; 0 publish ids, 0s"), "{}", ran.stdout);
    assert!(ran.stdout.contains("1 members, 0 listed"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "no colours into a pipe");
    let nodes = roomctl(&[&["nodes", "-o", "json"], &common[..]].concat()).await.json();
    assert_eq!(nodes[2]["state"], "left", "it has no seat: nobody misses it");
    assert_eq!((&nodes[1]["state"], &nodes[1]["primaries"]), (&"lost".into(), &2.into()));
}

#[tokio::test]
async fn where_names_the_primary_of_the_rooms_slot() {
    let (etcd, mut client) = etcd().await;
    let (a, b) = (member("a", 5, true), member("b", 6, true));
    register(&mut client, &a).await;
    place(&mut client, vec![a, b]).await;
    let rooms: Vec<String> = (0..40).map(|n| format!("room {n}")).collect();
    let room_in = |slot: u32| {
        let in_slot = |room: &&String| roomring_proto::RoomId::new(room).unwrap().slot(4).0 == slot;
        rooms.iter().find(in_slot).unwrap()
    };
    let common = ["--etcd", &etcd.url(), "--cluster", "test"];
    let ran = roomctl(&[&["where", room_in(1), "-o", "json"], &common[..]].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let place = ran.json();
    assert_eq!((&place["slot"], &place["node"], &place["term"]), (&1.into(), &"a".into(), &3.into()));
    assert_eq!((&place["state"], &place["in_sync"]), (&"ok".into(), &serde_json::json!(["a"])));

    let ran = roomctl(&[&["where", room_in(3)], &common[..]].concat()).await;
    assert_eq!(ran.code, Some(1), "its primary is gone");
    assert!(ran.stdout.contains("offline") && ran.stderr.contains("start it again"), "{}{}", ran.stdout, ran.stderr);
}

#[tokio::test]
async fn status_and_explain_tell_who_was_evicted_and_why_a_slot_is_where_it_is() {
    let (etcd, mut client) = etcd().await;
    let (a, b) = (member("a", 5, true), member("b", 6, true));
    register(&mut client, &a).await;
    register(&mut client, &b).await;
    place(&mut client, vec![a, b]).await;
    let common = ["--etcd", &etcd.url(), "--cluster", "test"];
    let status = roomctl(&[&["status", "-o", "json"], &common[..]].concat()).await.json();
    let eviction = &status["evictions"][0];
    assert_eq!(
        (&eviction["node"], &eviction["cause"], &eviction["silent_ms"]),
        (&"c".into(), &"silent".into(), &912.into())
    );
    assert_eq!(eviction["at"], "2023-11-14T22:13:20.000Z");
    let shown = roomctl(&[&["status"], &common[..]].concat()).await.stdout;
    assert!(shown.contains("EVICTED") && shown.contains("912 ms before"), "{shown}");

    let room_in = |slot: u32| {
        (0..).map(|n| format!("room {n}")).find(|r| roomring_proto::RoomId::new(r).unwrap().slot(4).0 == slot).unwrap()
    };
    let mut differing = 0;
    for slot in 0..4 {
        let ran = roomctl(&[&["explain", &room_in(slot), "-o", "json"], &common[..]].concat()).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let told = ran.json();
        assert_eq!((&told["slot"], &told["term"], &told["generation"]), (&slot.into(), &3.into(), &1.into()));
        let elsewhere = told["wish"][0] != told["primary"];
        assert_eq!(told["why"].as_array().unwrap().is_empty(), !elsewhere, "{told}");
        differing += usize::from(elsewhere);
        let changes = told["changes"].as_array().unwrap();
        assert_eq!(changes.len(), usize::from(slot == 3), "only that slot was touched: {told}");
    }
    println!("{differing} slots are not where the ring wants them");
    let shown = roomctl(&[&["explain", &room_in(3)], &common[..]].concat()).await.stdout;
    assert!(shown.contains("evict c (silent)") && shown.contains("ring wants"), "{shown}");
    assert!(shown.contains("a room keeps") && shown.contains("1 members"), "{shown}");

    client.delete("/roomring/test/nodes/b", None).await.unwrap();
    let ran = roomctl(&[&["explain", &room_in(2)], &common[..]].concat()).await;
    assert_eq!(ran.code, Some(1), "offline");
    assert!(ran.stdout.contains("b has no key in etcd: it is the last copy"), "{}", ran.stdout);
}

#[tokio::test]
async fn a_bad_command_line_is_refused_with_its_flag_named() {
    for (args, named) in [
        (&["status", "--etcd", "nonsense"][..], "--etcd"),
        (&["where"], "<ROOM>"),
        (&["dev", "--routers", "0"], "--routers"),
        (&["dev", "--http", "127.0.0.1:65535", "--routers", "2"], "--http"),
    ] {
        let ran = roomctl(args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(named), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn dev_names_a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let ran = roomctl(&["dev", "--http", &addr, "--routers", "1"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.starts_with(&format!("roomctl: {addr} is in use; ")), "{}", ran.stderr);
}

#[tokio::test]
async fn completions_are_written() {
    let ran = roomctl(&["completions", "bash"]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains("roomctl") && ran.stdout.contains("--fence-after"));
}
