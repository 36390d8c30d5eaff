//! A client's whole session: what it sends, what the hub answers, and time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roomring_proto::client::Format;
use roomring_proto::close::ErrorCode;
use roomring_proto::{Epoch, Generation, Lsn, Seq, Uid};
use roomring_router::auth::{Auth, Shown, Unix};
use roomring_router::hub::api::{Command, History, Position, Presence, Published, Subscribed, ToClient};
use roomring_router::session::{Centrifuge, ClientId, Clock, Input, Limits, Machine, Output, Policy, Transport, User};
use serde::de::IgnoredAny;

const LIMITS: Limits = Limits {
    ping: Duration::from_secs(25),
    pong_timeout: Duration::from_secs(8),
    connect_timeout: Duration::from_secs(10),
    queue_bytes: 1 << 20,
    rooms: 3,
    commands: None,
};

const TOP: Position =
    Position { epoch: Epoch { uid: Uid(1), generation: Generation(1), created: Lsn(1) }, seq: Seq(9) };

/// Each step is a byte that says what happens, then what that needs.
pub fn session(data: &[u8]) {
    let (which, mut script) = super::choice(data);
    let format = if which & 1 == 0 { Format::Json } else { Format::Protobuf };
    let mut now = Instant::now();
    let policy = Policy { auth: Auth::insecure(), ..Policy::default() };
    let transport = Transport { format, ..Transport::default() };
    let user = User::new("ann".to_owned()).expect("a name");
    let mut session = Centrifuge::new(
        LIMITS,
        Arc::new(policy),
        transport,
        Clock::new(now, Unix(1_000_000)),
        ClientId(1),
        (user, Shown::default()),
        0.5,
    );
    let (mut asked, mut closed) = (VecDeque::new(), false);
    let mut out = Vec::new();
    session.start(now, &mut out);
    while !script.is_empty() {
        let (step, rest) = super::choice(script);
        script = rest;
        let input = match step % 4 {
            0 => {
                now += Duration::from_millis(u64::from(step) * 40);
                Input::Tick
            }
            1 => match asked.pop_front() {
                Some(command) => Input::Hub(answer(command, step & 4 != 0)),
                None => Input::Pong,
            },
            _ => {
                let (message, rest) = super::piece(script);
                script = rest;
                Input::Message { data: message, text: format == Format::Json }
            }
        };
        session.handle(now, input, &mut out);
        for output in out.drain(..) {
            assert!(!closed, "after its end: {output:?}");
            match output {
                Output::Write(bytes) if format == Format::Json => {
                    for line in bytes.split(|b| *b == b'\n') {
                        let parsed: serde_json::Result<IgnoredAny> = serde_json::from_slice(line);
                        assert!(parsed.is_ok(), "{:?}", String::from_utf8_lossy(line));
                    }
                }
                Output::Hub(command) => asked.push_back(command),
                Output::Close(_) => closed = true,
                Output::Write(_) | Output::Ping | Output::Lookup(_) | Output::Ask(_) => {}
            }
        }
        assert!(session.rooms().len() <= LIMITS.rooms);
    }
}

/// What the hub says, the good word or the bad one.
fn answer(command: Command, good: bool) -> ToClient {
    fn word<T>(good: bool, value: T) -> Result<T, ErrorCode> {
        if good { Ok(value) } else { Err(ErrorCode::TOO_MANY_REQUESTS) }
    }
    match command {
        Command::Subscribe { request, room, recover, .. } => {
            let was_recovering = recover.is_some();
            let subscribed =
                Subscribed { position: TOP, was_recovering, recovered: was_recovering, publications: Vec::new() };
            ToClient::Subscribed { request, room, result: word(good, subscribed) }
        }
        Command::Unsubscribe { request, room, .. } => ToClient::Unsubscribed { request: request.unwrap_or(0), room },
        Command::Publish { request, .. } => {
            ToClient::Published { request, result: word(good, Published { position: TOP, duplicate: false }) }
        }
        Command::Retract { request, .. } => ToClient::Retracted { request, result: word(good, Some(TOP)) },
        Command::History { request, .. } => {
            ToClient::History { request, result: word(good, History { top: TOP, publications: Vec::new() }) }
        }
        Command::Presence { request, .. } => {
            let presence = Presence { clients: Default::default(), num_clients: 0, num_users: 0 };
            ToClient::Presence { request, result: word(good, presence) }
        }
    }
}
