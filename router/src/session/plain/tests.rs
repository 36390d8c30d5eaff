use roomring_proto::{Epoch, Generation, Lsn, Seq, Uid, v1};

use super::*;

const EPOCH: Epoch = Epoch { uid: Uid(0xe), generation: Generation(1), created: Lsn(2) };
const LIMITS: Limits = Limits {
    ping: Duration::from_secs(25),
    pong_timeout: Duration::from_secs(8),
    connect_timeout: Duration::from_secs(10),
    queue_bytes: 1 << 20,
    rooms: 3,
    commands: None,
};

struct Subject {
    session: Plain,
    now: Instant,
    out: Vec<Output>,
}

impl Subject {
    fn new() -> Self {
        let user = User::new("ann".into()).unwrap();
        let mut session = Plain::new(
            LIMITS,
            Arc::default(),
            Options::default(),
            ClientId(1),
            (user, Bytes::new()),
            RoomId::new("lobby").unwrap(),
            1.0,
        );
        let mut out = Vec::new();
        let now = Instant::now();
        session.start(now, &mut out);
        Self { session, now, out }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input, &mut self.out);
    }

    fn subscribed(&mut self, request: u32, result: Result<Subscribed, ErrorCode>) {
        let room = RoomId::new("lobby").unwrap();
        self.handle(Input::Hub(ToClient::Subscribed { request, room, result }));
    }

    fn dropped(&mut self, code: CloseCode) {
        let position = Some(Position { epoch: EPOCH, seq: Seq(9) });
        self.handle(Input::Hub(ToClient::Dropped { room: RoomId::new("lobby").unwrap(), code, position }));
    }

    fn lines(&mut self) -> Vec<String> {
        let lines = self.out.drain(..).map(|output| match output {
            Output::Write(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Output::Ping => "ping".to_owned(),
            Output::Close(code) => format!("close {}", code.code),
            Output::Hub(Command::Subscribe { request, recover, .. }) => {
                format!("subscribe {request} after {:?}", recover.map(|r| (r.epoch, r.seq.0)))
            }
            Output::Hub(Command::Publish { data, .. }) => format!("publish {}", String::from_utf8_lossy(&data)),
            other @ (Output::Hub(_) | Output::Lookup(_) | Output::Ask(_)) => panic!("{other:?}"),
        });
        lines.collect()
    }
}

fn granted(recovered: bool) -> Subscribed {
    let missed = v1::Publication { seq: 10, data: Bytes::from_static(b"\"hi\""), ..Default::default() };
    Subscribed {
        position: Position { epoch: EPOCH, seq: Seq(9) },
        was_recovering: recovered,
        recovered,
        publications: if recovered { vec![missed] } else { vec![] },
    }
}

#[test]
fn joins_at_once_and_speaks_text() {
    let mut s = Subject::new();
    assert_eq!(s.lines(), ["subscribe 1 after None"]);
    s.subscribed(1, Ok(granted(false)));
    // Nothing was missed by who was never there.
    assert!(s.lines().is_empty());
    s.handle(Input::Message { data: br#"say "hi""#, text: true });
    s.handle(Input::Message { data: b"{\"a\":1}", text: true });
    assert_eq!(s.lines(), [r#"publish "say \"hi\"""#, r#"publish "{\"a\":1}""#]);
    s.handle(Input::Message { data: b"", text: true });
    s.handle(Input::Message { data: b"x", text: false });
    assert_eq!(
        s.lines(),
        [
            r#"{"type":"error","room":"lobby","data":"a message must not be empty"}"#,
            r#"{"type":"error","room":"lobby","data":"a message must be text"}"#
        ]
    );
    s.handle(Input::Hub(ToClient::Published { request: 2, result: Err(ErrorCode::OUTCOME_UNKNOWN) }));
    assert_eq!(s.lines(), [r#"{"type":"error","room":"lobby","data":"it is not known whether a message was sent"}"#]);
}

#[test]
fn comes_back_by_itself_and_tells_of_gaps() {
    let mut s = Subject::new();
    s.subscribed(1, Ok(granted(false)));
    s.lines();
    s.dropped(CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE);
    assert_eq!(s.lines(), [r#"subscribe 2 after Some(("e-1-2", 9))"#]);
    s.subscribed(2, Ok(granted(true)));
    assert_eq!(s.lines(), [r#"{"type":"message","room":"lobby","seq":10,"epoch":"e-1-2","user":"","data":"hi"}"#]);
    s.dropped(CloseCode::UNSUBSCRIBED_INSUFFICIENT_STATE);
    s.subscribed(3, Ok(granted(false)));
    assert_eq!(s.lines()[1], r#"{"type":"gap","room":"lobby","seq":9,"epoch":"e-1-2"}"#);
    s.dropped(CloseCode::UNSUBSCRIBED);
    assert_eq!(s.lines(), ["close 3503"]);
}

#[test]
fn a_refused_subscribe_is_tried_again_with_growing_waits() {
    let mut s = Subject::new();
    s.lines();
    let mut waits = Vec::new();
    for request in 1..8 {
        s.subscribed(request, Err(ErrorCode::INTERNAL));
        assert!(s.session.rooms().is_empty());
        let due = s.session.next_deadline().unwrap();
        waits.push((due - s.now).as_millis());
        s.now = due;
        s.handle(Input::Tick);
        let expected = format!("subscribe {} after None", request + 1);
        assert!(s.lines().contains(&expected));
    }
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(s.session.rooms().len(), 1);
}

#[test]
fn native_pings_must_be_answered() {
    let mut s = Subject::new();
    s.lines();
    s.now += LIMITS.ping;
    s.handle(Input::Tick);
    assert_eq!(s.lines(), ["ping"]);
    s.handle(Input::Pong);
    s.now += LIMITS.ping;
    s.handle(Input::Tick);
    s.now += LIMITS.pong_timeout;
    s.handle(Input::Tick);
    assert_eq!(s.lines(), ["ping", "close 3012"]);
    s.handle(Input::Message { data: b"late", text: true });
    assert!(s.lines().is_empty() && s.session.next_deadline().is_none());
}

#[test]
fn messages_in_flight_are_bounded() {
    let mut s = Subject::new();
    s.lines();
    for _ in 0..=IN_FLIGHT {
        s.handle(Input::Message { data: b"x", text: true });
    }
    let lines = s.lines();
    assert_eq!(lines.iter().filter(|l| l.starts_with("publish")).count(), IN_FLIGHT);
    assert!(lines.last().unwrap().contains("this one was not sent"));
}

#[test]
fn it_ends_with_what_it_came_in_by() {
    let mut s = Subject::new();
    let at = s.now + Duration::from_secs(3);
    s.session = s.session.until(Some(at));
    assert_eq!(s.session.next_deadline(), Some(at));
    s.lines();
    s.now = at;
    s.handle(Input::Tick);
    assert_eq!(s.lines(), ["close 3005"]);
}
