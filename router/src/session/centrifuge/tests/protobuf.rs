//! Sessions that speak Protobuf.

use super::*;

impl Subject {
    /// A connected session that speaks Protobuf.
    fn protobuf() -> Self {
        let transport = Transport { format: Format::Protobuf, ..Transport::default() };
        let mut s = Self::over(LIMITS, transport, User::default());
        s.send_bytes(&[4, 8, 1, 0x22, 0]);
        s.out.clear();
        s
    }
}

/// A Protobuf frame of one command: `id`, the field of its request, and the request.
fn protobuf(id: u8, field: u8, request: &[u8]) -> Vec<u8> {
    let mut command = vec![8, id, field << 3 | 2, u8::try_from(request.len()).unwrap()];
    command.extend_from_slice(request);
    command.insert(0, u8::try_from(command.len()).unwrap());
    command
}

#[test]
fn protobuf_is_spoken_throughout() {
    let mut s = Subject::protobuf();
    assert!(s.session.binary());
    assert_eq!(s.session.client().unwrap().codec, Codec::Centrifuge(Format::Protobuf));
    // Two commands in one frame.
    s.send_bytes(&[protobuf(2, 5, b"\x0a\x01a"), protobuf(3, 8, b"\x0a\x01b")].concat());
    let [Output::Hub(Command::Subscribe { request: 2, .. }), Output::Write(refused)] = &s.out[..] else {
        panic!("{:?}", s.out)
    };
    assert_eq!(&refused[..], b"\x19\x08\x03\x12\x15\x08\x67\x12\x11permission denied");
    s.out.clear();
    s.hub(ToClient::Subscribed { request: 2, room: room("a"), result: Ok(granted()) });
    let [Output::Write(subscribed)] = &s.out[..] else { panic!("{:?}", s.out) };
    assert_eq!(&subscribed[..], b"\x11\x08\x02\x32\x0d\x18\x01\x32\x05e-1-2\x48\x04\x50\x01");
    s.out.clear();
    let code = CloseCode::UNSUBSCRIBED;
    s.hub(ToClient::Dropped { room: room("a"), code, position: None });
    let [Output::Write(push)] = &s.out[..] else { panic!("{:?}", s.out) };
    assert_eq!(*push, Format::Protobuf.push("a", &Push::Unsubscribe(code)));
    s.out.clear();
    s.pass(LIMITS.ping);
    assert!(matches!(&s.out[..], [Output::Write(ping)] if ping[..] == [0]));
    s.out.clear();
    s.send_bytes(&[0]);
    assert!(s.out.is_empty());
    s.send_bytes(&[0]);
    assert_eq!(s.lines(), ["close 3501"], "a pong that no ping asked for");
}

#[test]
fn a_protobuf_payload_must_be_json_too() {
    let mut s = Subject::protobuf();
    s.send_bytes(&protobuf(2, 5, b"\x0a\x01a"));
    s.out.clear();
    let publish = |id, data: &[u8]| {
        let mut request = b"\x0a\x01a\x12".to_vec();
        request.push(u8::try_from(data.len()).unwrap());
        request.extend_from_slice(data);
        protobuf(id, 7, &request)
    };
    s.send_bytes(&publish(3, b" {\"a\":\n1} "));
    let Some(Output::Hub(Command::Publish { data, .. })) = s.out.pop() else { panic!("a publish") };
    assert_eq!(&data[..], b"{\"a\": 1}");
    for bad in [&b"\xff"[..], b"{", b"1 2", b"no json", &[b'['; 100]] {
        s.send_bytes(&publish(4, bad));
        let bad_request = Reply { id: 4, result: Err(ErrorCode::BAD_REQUEST) };
        assert!(matches!(&s.out[..], [Output::Write(w)] if *w == Format::Protobuf.reply(&bad_request)), "{:?}", s.out);
        s.out.clear();
    }
}
