//! Clients on real sockets at the edge: what goes well, and every way in which a client can misbehave.

mod support;

use std::time::{Duration, Instant};

use jsonwebtoken::{EncodingKey, Header, encode};
use roomring_router::auth::{Auth, Tokens};
use roomring_router::http::Readiness;
use roomring_router::session::{Limits, Policy};
use support::{Edge, MAX_MESSAGE, SOON, Ws, handshake, limits, status_and_body};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

const BAD_REQUEST: (u16, &str) = (3501, "bad request");

async fn assert_closed(ws: &mut Ws, expected: (u16, &str)) {
    let (code, reason) = ws.closed().await;
    assert_eq!((code, reason.as_str()), expected);
}

#[tokio::test]
async fn members_of_a_room_hear_each_other() {
    let edge = Edge::start(limits()).await;
    let mut ann = edge.member("ann", "lobby").await;
    let mut bob = edge.member("bob", "lobby").await;
    ann.send(r#"{"id":3,"publish":{"channel":"lobby","data":{"t":"hi"}}}"#).await;
    let pushed = bob.line().await;
    assert!(
        pushed.starts_with(r#"{"push":{"channel":"lobby","pub":{"data":{"t":"hi"},"info":{"user":"ann","client":""#)
    );
    assert!(pushed.ends_with(r#""},"offset":1}}}"#));
    let both = [ann.line().await, ann.line().await];
    assert!(both.contains(&pushed) && both.contains(&r#"{"id":3,"publish":{}}"#.to_owned()));
    let presence = bob.ask(r#"{"id":3,"presence_stats":{"channel":"lobby"}}"#).await;
    assert_eq!(presence, r#"{"id":3,"presence_stats":{"num_clients":2,"num_users":2}}"#);
    bob.0.close(None).await.unwrap();
    edge.wait(|| edge.rooms.members("lobby") == 1).await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_only_their_own_connection() {
    let edge = Edge::start(limits()).await;
    let mut witness = edge.member("witness", "lobby").await;
    let deep =
        format!(r#"{{"id":3,"publish":{{"channel":"lobby","data":{}{}}}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    for bad in [
        "not json",
        "",
        r#"{"id":3,"no_such_command":{}}"#,
        r#"{"id":"three","ping":{}}"#,
        r#"{"id":3,"subscribe":{"channel":["lobby"]}}"#,
        r#"{"id":3,"publish":{"channel":"lobby","data":"#,
        "{\"id\":3,\"ping\":{}}\n\n{\"id\":4,\"ping\":{}}",
        &deep,
    ] {
        let mut client = edge.member("bad", "lobby").await;
        client.send(bad).await;
        if bad.contains('\n') {
            assert_eq!(client.line().await, r#"{"id":3,"ping":{}}"#);
        }
        assert_closed(&mut client, BAD_REQUEST).await;
    }
    edge.wait(|| edge.app.connections() == 1 && edge.rooms.memberships() == 1).await;
    assert_eq!(witness.ask(r#"{"id":9,"ping":{}}"#).await, r#"{"id":9,"ping":{}}"#);
}

#[tokio::test]
async fn commands_at_the_wrong_time_or_place_are_refused() {
    let edge = Edge::start(limits()).await;
    let mut early = edge.open("/connection/websocket").await;
    early.send(r#"{"id":1,"publish":{"channel":"lobby","data":1}}"#).await;
    assert_closed(&mut early, BAD_REQUEST).await;

    let mut client = edge.member("ann", "lobby").await;
    let refused = |code: u32, message: &str| format!(r#"{{"id":3,"error":{{"code":{code},"message":"{message}"}}}}"#);
    let long = "x".repeat(256);
    for (frame, code, message) in [
        (r#"{"id":3,"publish":{"channel":"elsewhere","data":1}}"#.to_owned(), 103, "permission denied"),
        (format!(r#"{{"id":3,"subscribe":{{"channel":"{long}"}}}}"#), 107, "bad request"),
        (r#"{"id":3,"subscribe":{"channel":"a\u0000b"}}"#.to_owned(), 107, "bad request"),
        (r#"{"id":3,"subscribe":{"channel":"lobby"}}"#.to_owned(), 105, "already subscribed"),
        (r#"{"id":3,"rpc":{"method":"x"}}"#.to_owned(), 104, "method not found"),
    ] {
        assert_eq!(client.ask(&frame).await, refused(code, message), "{frame}");
    }
    for room in ["two", "three"] {
        client.ask(&format!(r#"{{"id":3,"subscribe":{{"channel":"{room}"}}}}"#)).await;
    }
    assert_eq!(client.ask(r#"{"id":3,"subscribe":{"channel":"four"}}"#).await, refused(106, "limit exceeded"));
    assert_eq!(edge.rooms.memberships(), 3);
    client.send(r#"{"send":{"data":1}}"#).await;
    assert_closed(&mut client, (3508, "not available")).await;
    edge.assert_empty().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_told_so() {
    let edge = Edge::start(limits()).await;
    let publish = |bytes: usize| {
        let frame = |data: &str| format!(r#"{{"id":3,"publish":{{"channel":"lobby","data":"{data}"}}}}"#);
        frame(&"x".repeat(bytes - frame("").len()))
    };
    let mut fits = edge.member("ann", "lobby").await;
    fits.send(&publish(MAX_MESSAGE)).await;
    let lines = [fits.line().await, fits.line().await];
    assert!(lines.contains(&r#"{"id":3,"publish":{}}"#.to_owned()));

    let mut whole = edge.member("bad", "lobby").await;
    whole.send(&publish(MAX_MESSAGE + 1)).await;
    assert_closed(&mut whole, (1009, "message over 65536 bytes")).await;

    // In fragments that are each under it; far more than the socket's buffers hold, so that the close must not be lost.
    let mut parts = edge.member("bad", "lobby").await;
    let part = |opcode| Frame::message(vec![b'x'; 60_000], OpCode::Data(opcode), false);
    parts.message(Message::Frame(part(Data::Text))).await;
    for _ in 0..40 {
        use futures_util::SinkExt;
        if parts.0.send(Message::Frame(part(Data::Continue))).await.is_err() {
            break;
        }
    }
    assert_closed(&mut parts, (1009, "message over 65536 bytes")).await;
    edge.wait(|| edge.rooms.memberships() == 1).await;
}

#[tokio::test]
async fn frames_that_break_websocket_itself_get_its_codes() {
    let edge = Edge::start(limits()).await;
    let mut client = edge.client("ann").await;
    client.message(Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true))).await;
    assert_closed(&mut client, (1007, "text is not UTF-8")).await;
    let mut client = edge.client("ann").await;
    client.message(Message::Frame(Frame::message("x", OpCode::Data(Data::Continue), true))).await;
    assert_closed(&mut client, (1002, "protocol error")).await;
    edge.assert_empty().await;
}

#[tokio::test]
async fn handshakes_and_connects_must_come_in_time() {
    let short = Duration::from_millis(300);
    let edge = Edge::start_with(Limits { connect_timeout: short, ..limits() }, short).await;
    for begun in ["", "GET /connection/websocket HTTP/1.1\r\nHost: a\r\nUpgr"] {
        let start = Instant::now();
        let mut tcp = edge.tcp().await;
        tcp.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(SOON, tcp.read_to_end(&mut rest)).await.expect("the server gives up").unwrap();
        assert!(start.elapsed() >= short, "{begun:?} was not waited for");
    }
    let mut silent = edge.open("/connection/websocket").await;
    assert_closed(&mut silent, (3502, "stale")).await;
    edge.assert_empty().await;
    edge.app.tasks.close();
    edge.wait(|| edge.app.tasks.is_empty()).await;
}

#[tokio::test]
async fn what_is_no_handshake_is_told_why() {
    let edge = Edge::start(limits()).await;
    let (status, body) = edge.http("GET", "/connection/websocket").await;
    assert_eq!((status, body.as_str()), (426, "this address speaks WebSocket: connect with a WebSocket client"));
    assert_eq!(edge.http("GET", "/rooms/lobby").await.0, 426);
    assert_eq!(edge.http("POST", "/connection/websocket").await.0, 405);
    for (request, status, says) in [
        (handshake("/connection/websocket", "").replace("13", "8"), 426, "version 13"),
        (handshake("/connection/websocket", "").replace("dGhl", ""), 400, "Sec-WebSocket-Key"),
        (handshake("/connection/websocket?user=%ff", ""), 400, "user is not UTF-8"),
        (handshake(&format!("/connection/websocket?user={}", "x".repeat(256)), ""), 400, "the limit is 255"),
        (handshake("/rooms/", ""), 400, "room name is empty"),
        (handshake("/rooms/a%00b", ""), 400, "room name has a control character"),
        (handshake(&format!("/rooms/{}", "x".repeat(256)), ""), 400, "room name has 256 bytes, the limit is 255"),
    ] {
        let request = request.replace("keep-alive, Upgrade", "close, Upgrade");
        let (got, body) = status_and_body(&edge.raw(&request).await);
        assert_eq!(got, status, "{request}");
        assert!(body.contains(says), "{body}");
    }
    assert!(edge.raw(&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000))).await.contains(" 431 "));
    assert_eq!(edge.app.connections(), 0);
}

#[tokio::test]
async fn subprotocols_are_agreed_on() {
    let edge = Edge::start(limits()).await;
    let agreed = async |headers: &str| {
        let mut tcp = edge.tcp().await;
        tcp.write_all(handshake("/connection/websocket", headers).as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let read = timeout(SOON, tcp.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..read]).to_lowercase()
    };
    for none in ["", "Sec-WebSocket-Protocol: \r\n"] {
        let answer = agreed(none).await;
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        assert!(!answer.contains("sec-websocket-protocol"));
    }
    for (offered, echoed) in [
        ("centrifuge-json", "centrifuge-json"),
        ("x, centrifuge-json", "centrifuge-json"),
        ("centrifuge-protobuf", "centrifuge-protobuf"),
        ("centrifuge-json, centrifuge-protobuf", "centrifuge-protobuf"),
    ] {
        let answer = agreed(&format!("Sec-WebSocket-Protocol: {offered}\r\n")).await;
        assert!(answer.contains(&format!("sec-websocket-protocol: {echoed}\r\n")), "{answer}");
    }
}

/// In each of the ways to ask for it, with the bytes that were published as examples.
#[tokio::test]
async fn protobuf_is_spoken_in_binary_frames() {
    let edge = Edge::start(limits()).await;
    for (query, protocol) in [
        ("", Some("centrifuge-protobuf")),
        ("?format=protobuf", None),
        ("?cf_protocol=protobuf&cf_protocol_version=v2", None),
    ] {
        let mut ws = edge.open_as(&format!("/connection/websocket{query}"), protocol).await;
        let connect_and_subscribe = b"\x04\x08\x01\x22\x00\x08\x08\x02\x2a\x04\x0a\x02ab";
        ws.message(Message::binary(&connect_and_subscribe[..])).await;
        // id 1 with a connect result, id 2 with a subscribe result, each behind its length.
        assert!(ws.binary().await[1..].starts_with(&[8, 1, 0x2a]));
        assert!(ws.binary().await[1..].starts_with(&[8, 2, 0x32]));
        edge.rooms.publish("ab", "7");
        assert_eq!(ws.binary().await[..10], *b"\x0d\x22\x0b\x12\x02ab\x22\x05\x22");
        ws.message(Message::binary(&b"\xff"[..])).await;
        assert_closed(&mut ws, BAD_REQUEST).await;
    }
}

/// Two rooms that the server joins, one of which takes a while: nothing of the other overtakes the answer to the connect.
#[tokio::test]
async fn pushes_wait_for_the_answer_to_the_connect_command() {
    let secret = b"a secret of sufficient length";
    let tokens = Some(Tokens::default().with_secret(secret).unwrap());
    let auth = Auth { tokens, ..Auth::default() };
    let edge = Edge::with_policy(Policy { auth, ..Policy::default() }).await;
    let claims = serde_json::json!({"sub": "ann", "channels": ["early", "late"]});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(secret)).unwrap();
    let mut ws = edge.open("/connection/websocket").await;
    let connect = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
    ws.send(&format!("{connect}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"more\"}}}}")).await;
    edge.wait(|| edge.rooms.members("early") == 1).await;
    for n in 0..3 {
        edge.rooms.publish("early", &n.to_string());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(edge.rooms.admit_late(), 1);
    let connected = ws.line().await;
    assert!(connected.starts_with(r#"{"id":1,"connect":{"client":""#), "{connected}");
    assert!(connected.contains(r#""early":{"#) && connected.contains(r#""late":{"#), "{connected}");
    for n in 0..3 {
        let push = ws.line().await;
        assert!(push.starts_with(&format!(r#"{{"push":{{"channel":"early","pub":{{"data":{n},"#)), "{push}");
    }
    assert!(ws.line().await.starts_with(r#"{"id":2,"subscribe":{"#));
    let nobody = edge.raw(&handshake("/rooms/early?user=eve", "").replace("keep-alive, ", "close, ")).await;
    assert!(nobody.starts_with("HTTP/1.1 403"), "{nobody}");
}

#[tokio::test]
async fn plain_http_answers() {
    let edge = Edge::start_empty(limits(), SOON).await;
    assert_eq!(edge.http("GET", "/healthz").await, (200, "live".into()));
    assert_eq!(edge.http("GET", "/readyz").await, (503, "starting: waiting for etcd".into()));
    assert_eq!(edge.http("GET", "/api/room?room=lobby").await.0, 503);
    let early = edge.raw(&handshake("/connection/websocket", "").replace("keep-alive, ", "close, ")).await;
    assert!(early.starts_with("HTTP/1.1 503") && early.contains("retry-after: 1"), "{early}");

    edge.app.set_backend(edge.rooms.clone());
    edge.app.set_readiness(Readiness::Ready);
    assert_eq!(edge.http("GET", "/readyz").await, (200, "ready".into()));
    assert_eq!(
        edge.http("GET", "/api/room?room=lobby").await,
        (200, r#"{"room":"lobby","slot":418,"node":"node-1"}"#.into())
    );
    assert_eq!(edge.http("GET", "/api/room").await, (400, "room: missing in the query".into()));
    assert_eq!(edge.http("GET", "/api/room?room=").await, (400, "room name is empty".into()));
    let (status, page) = edge.http("GET", "/").await;
    assert!(status == 200 && page.to_lowercase().starts_with("<!doctype html>"));
    assert_eq!(edge.http("HEAD", "/").await, (200, String::new()));
    assert_eq!(edge.http("GET", "/nothing/here").await.0, 404);
    assert_eq!(edge.http("DELETE", "/healthz").await.0, 405);
}

#[tokio::test]
async fn a_half_closed_or_vanished_socket_leaves_nothing_behind() {
    let edge = Edge::start(limits()).await;
    let mut half = edge.member("half", "lobby").await;
    let gone = edge.member("gone", "lobby").await;
    assert_eq!(edge.rooms.members("lobby"), 2);
    half.0.get_mut().shutdown().await.unwrap();
    drop(gone);
    edge.assert_empty().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_delays_nobody() {
    let edge = Edge::start(Limits { queue_bytes: 256 << 10, ..limits() }).await;
    let mut slow = edge.member("slow", "lobby").await;
    let mut quick = edge.member("quick", "lobby").await;
    let payload = format!("\"{}\"", "x".repeat(60_000));
    let reader = tokio::spawn(async move {
        for n in 1..=400 {
            assert!(quick.line().await.ends_with(&format!(r#""offset":{n}}}}}}}"#)));
        }
    });
    // More than the sockets' buffers take.
    for _ in 0..400 {
        edge.rooms.publish("lobby", &payload);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    timeout(SOON, reader).await.expect("the other member is served").unwrap();
    edge.wait(|| edge.rooms.members("lobby") == 0).await;
    // What was on the way comes, then the connection ends: with the code if there was room for it, but never silently later.
    let mut seen = 0;
    let end = timeout(SOON, async {
        use futures_util::StreamExt;
        loop {
            match slow.0.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|f| u16::from(f.code)),
                Some(Ok(_)) => seen += 1,
                Some(Err(_)) | None => return None,
            }
        }
    });
    let end = end.await.expect("the connection ends");
    assert!(seen < 400, "nothing was held back: the client was not slow");
    assert!(matches!(end, None | Some(3008)), "{end:?}");
}

#[tokio::test]
async fn pings_keep_an_answering_client_and_end_a_silent_one() {
    let limits = Limits { ping: Duration::from_secs(1), pong_timeout: Duration::from_millis(500), ..limits() };
    let edge = Edge::start(limits).await;
    let (mut answering, mut silent) = (edge.client("a").await, edge.client("s").await);
    let silenced = tokio::spawn(async move {
        assert_eq!(silent.line().await, "{}");
        assert_closed(&mut silent, (3012, "no pong")).await;
    });
    for _ in 0..2 {
        assert_eq!(answering.line().await, "{}");
        answering.send("{}").await;
    }
    silenced.await.unwrap();
    answering.send("{}").await;
    assert_closed(&mut answering, BAD_REQUEST).await;
}

#[tokio::test]
async fn commands_that_the_hub_can_not_take_fail_for_now() {
    let edge = Edge::start(limits()).await;
    let mut client = edge.member("ann", "lobby").await;
    edge.rooms.refuse();
    let internal = r#""error":{"code":100,"message":"internal server error","temporary":true}}"#;
    for ask in ["history", "presence", "presence_stats"] {
        let answer = client.ask(&format!(r#"{{"id":5,"{ask}":{{"channel":"lobby"}}}}"#)).await;
        assert_eq!(answer, format!(r#"{{"id":5,{internal}"#));
    }
    assert!(client.ask(r#"{"id":6,"subscribe":{"channel":"b"}}"#).await.contains(internal));
    assert!(client.ask(r#"{"id":7,"publish":{"channel":"lobby","data":1}}"#).await.contains(internal));
    client.send(r#"{"id":8,"unsubscribe":{"channel":"lobby"}}"#).await;
    assert_closed(&mut client, (3004, "internal server error")).await;
}

#[tokio::test]
async fn stopping_sends_clients_elsewhere() {
    let edge = Edge::start(limits()).await;
    let mut json = edge.member("ann", "lobby").await;
    let mut plain = edge.open("/rooms/lobby").await;
    let idle = edge.tcp().await;
    edge.wait(|| edge.rooms.members("lobby") == 2).await;
    edge.rooms.publish("lobby", "1");
    edge.app.set_readiness(Readiness::Stopping);
    assert_eq!(edge.http("GET", "/readyz").await, (503, "stopping".into()));
    edge.app.stop.cancel();
    edge.app.tasks.close();
    // What was published before is delivered before.
    assert_eq!(json.line().await, r#"{"push":{"channel":"lobby","pub":{"data":1,"offset":1}}}"#);
    assert_closed(&mut json, (3001, "shutdown")).await;
    plain.line().await;
    assert_closed(&mut plain, (3001, "shutdown")).await;
    drop(idle);
    timeout(SOON, edge.app.tasks.wait()).await.expect("everything ends");
    edge.assert_empty().await;
}

#[tokio::test]
async fn the_plain_endpoint_speaks_lines() {
    let edge = Edge::start(limits()).await;
    let mut ann = edge.open("/rooms/the%20lobby%2F1?user=ann+lee").await;
    edge.wait(|| edge.rooms.members("the lobby/1") == 1).await;
    let mut bob = edge.member("bob", "the lobby/1").await;
    ann.send("hi \"all\"").await;
    let line = ann.line().await;
    assert_eq!(
        line,
        r#"{"type":"message","room":"the lobby/1","seq":1,"epoch":"7-1-1","user":"ann lee","data":"hi \"all\""}"#
    );
    assert!(bob.line().await.contains(r#""data":"hi \"all\"""#));
    assert!(ann.ask("").await.contains(r#""type":"error""#));
    ann.message(Message::binary(vec![1])).await;
    assert!(ann.line().await.contains("a message must be text"));
    // Loses its place and comes back by itself, without a gap as nothing was missed.
    edge.rooms.drop_members("the lobby/1");
    edge.wait(|| edge.rooms.members("the lobby/1") == 1).await;
    ann.send("again").await;
    assert!(ann.line().await.contains(r#""seq":2"#));
    ann.0.close(None).await.unwrap();
    edge.wait(|| edge.rooms.memberships() == 0).await;
}

#[tokio::test]
async fn a_publish_right_before_the_close_still_counts() {
    let edge = Edge::start(limits()).await;
    let mut reader = edge.member("reader", "lobby").await;
    let mut writer = edge.member("writer", "lobby").await;
    for n in 0..20 {
        writer.send(&format!(r#"{{"id":{},"publish":{{"channel":"lobby","data":{n}}}}}"#, n + 3)).await;
    }
    writer.0.close(None).await.unwrap();
    for n in 0..20 {
        assert!(reader.line().await.contains(&format!(r#""data":{n},"#)));
    }
    edge.wait(|| edge.rooms.members("lobby") == 1).await;
}
