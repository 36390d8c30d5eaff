//! What a router sees of a node: one node in this process, on real etcd.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use roomring_proto::v1;
use roomring_proto::v1::event::Kind as Shown;
use roomring_proto::v1::node_message::Kind as FromNode;
use roomring_proto::v1::router_message::Kind as FromRouter;
use support::{Etcd, Link, Node, client, config, hello, publish, slot};
use tonic::Code;

fn texts(events: &[v1::Event]) -> Vec<String> {
    let text = |e: &v1::Event| match &e.kind {
        Some(Shown::Publication(p)) => format!("{} {}", p.seq, String::from_utf8_lossy(&p.data)),
        Some(Shown::Join(j)) => format!("+{}", j.info.as_ref().unwrap().client),
        Some(Shown::Leave(l)) => format!("-{}", l.info.as_ref().unwrap().client),
        None => "?".to_owned(),
    };
    events.iter().map(text).collect()
}

/// Reads until there is an answer to each of `numbers`; returns the answers and what was delivered meanwhile.
async fn published(link: &mut Link, numbers: usize) -> (Vec<v1::Published>, Vec<String>) {
    let (mut answers, mut delivered) = (Vec::new(), Vec::new());
    while answers.len() < numbers {
        match link.next().await {
            FromNode::Published(p) => answers.push(p),
            FromNode::Deliver(d) => delivered.extend(texts(&d.events)),
            other => panic!("{other:?}"),
        }
    }
    (answers, delivered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_from_attach_to_history() {
    let (etcd, home) = (Etcd::start(), tempfile::tempdir().unwrap());
    let node = Node::start(config(&etcd, "node-1", home.path(), &[])).await;
    let (mut a, greeting) = Link::open(node.addr, hello(1001, 1)).await;
    assert_eq!((greeting.node_id.as_str(), greeting.session), ("node-1", 1));
    assert!(greeting.incarnation > 0 && greeting.placement.is_some());

    let room = a.attach("lobby", &["a"], None).await;
    let epoch = room.epoch.unwrap();
    assert_eq!((room.seq, room.gap, room.refused), (0, false, None));

    // A batch of publishes comes back in order, each delivered once and acknowledged.
    let batch = (1..=20).map(|n| FromRouter::Publish(publish("lobby", n, &format!("m{n}")))).collect();
    a.send_batch(batch).await;
    let (answers, mut delivered) = published(&mut a, 20).await;
    while delivered.len() < 21 {
        delivered.extend(texts(&a.deliver().await.events));
    }
    let expected: Vec<String> = (1..=20).map(|n| format!("{n} m{n}")).collect();
    assert_eq!(delivered, ["+a".to_owned()].into_iter().chain(expected.clone()).collect::<Vec<_>>());
    assert!(answers.iter().zip(1..).all(|(p, n)| p.number == n && p.seq == n && p.epoch == Some(epoch)), "{answers:?}");

    // The same numbers again, with one new: answered from memory, delivered once.
    let again = [19, 20, 21].map(|n| FromRouter::Publish(publish("lobby", n, &format!("m{n}"))));
    a.send_batch(again.to_vec()).await;
    let (answers, mut delivered) = published(&mut a, 3).await;
    assert_eq!(answers.iter().map(|p| (p.number, p.seq)).collect::<Vec<_>>(), [(19, 19), (20, 20), (21, 21)]);
    if delivered.is_empty() {
        delivered = texts(&a.deliver().await.events);
    }
    assert_eq!(delivered, ["21 m21"]);

    // An id given by a client makes its retry harmless, under whatever number.
    for (number, duplicate) in [(22, false), (23, true)] {
        a.send(FromRouter::Publish(v1::Publish { id: "once".into(), ..publish("lobby", number, "x") })).await;
        let (answers, _) = published(&mut a, 1).await;
        assert_eq!((answers[0].seq, answers[0].duplicate), (22, duplicate));
    }

    let ask =
        v1::HistoryRequest { request: 5, slot: slot("lobby"), room: "lobby".into(), limit: 3, ..Default::default() };
    a.send(FromRouter::History(v1::HistoryRequest { reverse: true, ..ask })).await;
    let page = loop {
        match a.next().await {
            FromNode::History(page) => break page,
            FromNode::Deliver(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((page.request, page.seq, page.first_seq, page.epoch), (5, 22, 1, Some(epoch)));
    assert_eq!(page.publications.iter().map(|p| p.seq).collect::<Vec<_>>(), [22, 21, 20]);

    // Another router attaches where it left off: it gets what it missed, and the first sees its member come.
    let (mut b, _) = Link::open(node.addr, hello(1002, 1)).await;
    let lsn = page.publications[2].lsn;
    let replayed = b.attach("lobby", &["b"], Some((epoch, 20, lsn))).await;
    assert_eq!((replayed.seq, replayed.gap), (20, false));
    assert_eq!(texts(&replayed.replay)[..2], ["21 m21", "22 x"]);
    assert_eq!(texts(&a.deliver().await.events), ["+b"]);
    let query = v1::PresenceRequest { request: 6, slot: slot("lobby"), room: "lobby".into(), ..Default::default() };
    a.send(FromRouter::PresenceQuery(query)).await;
    let FromNode::Presence(present) = a.next().await else { panic!() };
    let mut clients: Vec<_> = present.clients.iter().map(|c| c.client.as_str()).collect();
    clients.sort_unstable();
    assert_eq!((clients, present.num_clients, present.num_users), (vec!["a", "b"], 2, 2));

    // Its process vanishes: after the grace its member leaves.
    let dropped = tokio::time::Instant::now();
    drop(b);
    assert_eq!(texts(&a.deliver().await.events), ["-b"]);
    assert!(dropped.elapsed() > Duration::from_millis(900), "before the grace: {:?}", dropped.elapsed());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_comes_back_within_the_grace_loses_nobody() {
    let (etcd, home) = (Etcd::start(), tempfile::tempdir().unwrap());
    let node = Node::start(config(&etcd, "node-1", home.path(), &[])).await;
    let (mut a, _) = Link::open(node.addr, hello(1001, 1)).await;
    a.attach("lobby", &["a"], None).await;
    assert_eq!(texts(&a.deliver().await.events), ["+a"]);
    let (mut b, _) = Link::open(node.addr, hello(1002, 4)).await;
    b.attach("lobby", &["b", "c"], None).await;
    assert_eq!(texts(&a.deliver().await.events), ["+b", "+c"]);

    // A newer link of the same process replaces the older, which is told why.
    let (mut newer, _) = Link::open(node.addr, hello(1002, 5)).await;
    let end = b.end().await;
    assert_eq!((end.code(), end.message()), (Code::Aborted, "replaced by a newer link of this router"));
    newer.attach("lobby", &["b"], None).await;
    // The member that did not come back with it leaves; the other stays. An older session is refused.
    assert_eq!(texts(&a.deliver().await.events), ["-c"]);
    let mut older = Link::silent(node.addr).await;
    older.send(FromRouter::Hello(hello(1002, 4))).await;
    assert_eq!(older.end().await.code(), Code::AlreadyExists);

    // Past the grace of the first link nobody else has left: the next event is the publication.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    newer.send(FromRouter::Publish(publish("lobby", 1, "still here"))).await;
    assert_eq!(texts(&a.deliver().await.events), ["1 still here"]);

    let joined = vec![client("d")];
    let change = v1::Presence { slot: slot("lobby"), room: "lobby".into(), joined, left: vec!["b".into()] };
    newer.send(FromRouter::Presence(change)).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(texts(&a.deliver().await.events));
    }
    seen.sort_unstable();
    assert_eq!(seen, ["+d", "-b"]);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_hellos_and_silence_end_only_their_own_link() {
    let (etcd, home) = (Etcd::start(), tempfile::tempdir().unwrap());
    let node = Node::start(config(&etcd, "node-1", home.path(), &[])).await;
    let (mut good, greeting) = Link::open(node.addr, hello(1001, 1)).await;
    good.attach("lobby", &["a"], None).await;

    let major = v1::Version { major: 9, minor: 3 };
    for (kinds, code, says) in [
        (
            vec![FromRouter::Hello(v1::RouterHello { version: Some(major), ..hello(1, 1) })],
            Code::FailedPrecondition,
            "link protocol 9.3 is not spoken here: this node speaks 1.0",
        ),
        (
            vec![FromRouter::Hello(v1::RouterHello { cluster: "other".into(), ..hello(1, 1) })],
            Code::FailedPrecondition,
            "this node belongs to cluster roomring, not \"other\"",
        ),
        (
            vec![FromRouter::Hello(v1::RouterHello { router_id: "a/b".into(), ..hello(1, 1) })],
            Code::InvalidArgument,
            "hello: node id may only have letters",
        ),
        (vec![FromRouter::Hello(hello(0, 1))], Code::InvalidArgument, "hello: the incarnation is missing"),
        (
            vec![FromRouter::Publish(publish("lobby", 1, "x"))],
            Code::InvalidArgument,
            "the first message must be a hello",
        ),
        (
            vec![FromRouter::Hello(hello(1, 1)), FromRouter::Publish(publish("lobby", 1, "x"))],
            Code::InvalidArgument,
            "the first batch must hold a hello and nothing else",
        ),
        (vec![], Code::InvalidArgument, "the first batch must hold a hello and nothing else"),
    ] {
        let mut link = Link::silent(node.addr).await;
        link.send_batch(kinds).await;
        let end = link.end().await;
        assert_eq!(end.code(), code, "{end}");
        assert!(end.message().starts_with(says), "{end}");
    }
    let (mut twice, _) = Link::open(node.addr, hello(1002, 1)).await;
    twice.send(FromRouter::Hello(hello(1002, 1))).await;
    assert_eq!(twice.end().await.message(), "a second hello");
    let (mut liar, _) = Link::open(node.addr, hello(1003, 1)).await;
    liar.send(FromRouter::Placement(vec![0xff; 40].into())).await;
    let end = liar.end().await;
    assert_eq!(end.code(), Code::InvalidArgument);
    assert!(end.message().starts_with("placement: "), "{end}");

    // One that says nothing, and one that says hello and then nothing.
    let (mut mute, mut hung) = (Link::silent(node.addr).await, Link::silent(node.addr).await);
    hung.send(FromRouter::Hello(hello(1004, 1))).await;
    let (mute, hung, ()) = tokio::join!(mute.end(), hung.end(), good.idle(Duration::from_secs(4)));
    assert_eq!((mute.code(), mute.message()), (Code::DeadlineExceeded, "no hello came within 3s"));
    assert_eq!((hung.code(), hung.message()), (Code::DeadlineExceeded, "nothing came for 3s"));

    // Bad requests on a good link are refused one by one.
    for (bad, number) in [("", 1), ("a\nb", 2), (&*"x".repeat(256), 3)] {
        let publish = v1::Publish { room: bad.to_owned(), ..publish("lobby", number, "x") };
        good.send(FromRouter::Publish(publish)).await;
        let (answers, _) = published(&mut good, 1).await;
        let refused = answers[0].refused.as_ref().expect("refused");
        assert_eq!(refused.reason(), v1::refusal::Reason::BadRequest, "{refused:?}");
        assert!(refused.text.contains("room name"), "{refused:?}");
    }
    good.send(FromRouter::Publish(publish("lobby", 4, "fine"))).await;
    let (answers, _) = published(&mut good, 1).await;
    assert_eq!((answers[0].seq, &answers[0].refused), (1, &None));
    // A slot that is nobody's.
    good.send(FromRouter::Publish(v1::Publish { slot: 4711, ..publish("lobby", 5, "x") })).await;
    let not_primary = loop {
        match good.next().await {
            FromNode::NotPrimary(n) => break n,
            FromNode::Published(p) => {
                let reason = p.refused.map(|r| r.reason());
                assert_eq!((p.number, reason), (5, Some(v1::refusal::Reason::NotPrimary)));
            }
            FromNode::Deliver(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((not_primary.slot, not_primary.placement), (4711, greeting.placement));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_is_behind_gets_the_placement() {
    let (etcd, home) = (Etcd::start(), tempfile::tempdir().unwrap());
    let node = Node::start(config(&etcd, "node-1", home.path(), &[])).await;
    let mut link = Link::silent(node.addr).await;
    link.send(FromRouter::Hello(hello(1001, 1))).await;
    let greeting = link.raw().await.unwrap().unwrap();
    assert!(matches!(greeting.messages[..], [v1::NodeMessage { kind: Some(FromNode::Hello(_)) }]), "{greeting:?}");
    let (mut beats, mut sent) = (0, 0);
    while beats < 3 {
        for message in link.raw().await.unwrap().unwrap().messages {
            match message.kind {
                Some(FromNode::Heartbeat(b)) => {
                    assert!(b.worker_age_ms < 2_000 && b.contact_age_ms < 10_000, "{b:?}");
                    beats += 1;
                }
                Some(FromNode::Placement(p)) => {
                    let placement = roomring_control::placement::Placement::decode(&p).unwrap();
                    link.send(FromRouter::Heartbeat(v1::RouterHeartbeat {
                        placement: Some(placement.reference().into()),
                    }))
                    .await;
                    // Nothing more to tell once it is up to date.
                    (beats, sent) = (0, sent + 1);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(sent, 1);
    node.end().await;
}
