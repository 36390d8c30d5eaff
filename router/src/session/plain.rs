//! A session of the plain protocol at `/rooms/{room}`: a text frame in is a message, JSON lines come out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roomring_proto::RoomId;
use roomring_proto::client::plain;
use roomring_proto::close::{CloseCode, ErrorCode};

use super::{ClientId, IN_FLIGHT, Input, Limits, Machine, Output, Policy, TOO_FAST, User};
use crate::auth::Unix;
use crate::hub::api::{Client, ClientPosition, Codec, Command, Order, Position, Subscribed, ToClient};
use crate::hub::queue::ClientQueue;
use crate::limits::Bucket;
use crate::namespaces::{Options, Publish};
use crate::roster::Entry;

/// First wait before a refused subscribe is tried again, doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Longest wait before a refused subscribe is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A session of the plain protocol: a member of one room, who comes back by itself when the membership is lost.
#[derive(Debug)]
pub struct Plain {
    limits: Limits,
    policy: Arc<Policy>,
    options: Options,
    bucket: Bucket,
    /// Messages in a row that were too fast.
    too_fast: u32,
    client: Arc<Client>,
    room: RoomId,
    membership: Membership,
    /// Where the client stood when its membership was lost.
    position: Option<Position>,
    /// Once a member, a client is told if it missed something.
    was_member: bool,
    last_request: u32,
    publishes: usize,
    next_ping: Option<Instant>,
    pong_due: Option<Instant>,
    ping_phase: f64,
    closed: bool,
    expires: Option<Instant>,
    /// Its place among the connections, once it has one.
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    Joining { request: u32, wait: Duration },
    Joined,
    Waiting { until: Instant, wait: Duration },
}

impl Plain {
    /// A session for a user, and what others see of it, in `room`. `ping_phase` is a random number from 0 to 1.
    pub fn new(
        limits: Limits,
        policy: Arc<Policy>,
        options: Options,
        id: ClientId,
        (user, conn_info): (User, Bytes),
        room: RoomId,
        ping_phase: f64,
    ) -> Self {
        let client = Client {
            id: id.to_string(),
            user: user.into_string(),
            conn_info,
            codec: Codec::Plain,
            queue: ClientQueue::new(limits.queue_bytes),
        };
        Self {
            limits,
            policy,
            options,
            bucket: Bucket::new(limits.commands),
            too_fast: 0,
            client: Arc::new(client),
            room,
            membership: Membership::Joining { request: 0, wait: FIRST_WAIT },
            position: None,
            was_member: false,
            last_request: 0,
            publishes: 0,
            next_ping: None,
            pong_due: None,
            ping_phase,
            closed: false,
            expires: None,
            entry: None,
        }
    }

    /// It ends then: what it came in by can't be renewed.
    pub fn until(self, expires: Option<Instant>) -> Self {
        Self { expires, ..self }
    }

    /// Takes its place among the connections.
    ///
    /// # Errors
    /// If its user may not connect.
    pub fn enter(&mut self, now: Unix) -> Result<(), CloseCode> {
        self.entry = Some(self.policy.roster.enter(&self.client, now)?);
        Ok(())
    }

    fn request(&mut self) -> u32 {
        self.last_request = self.last_request.wrapping_add(1);
        self.last_request
    }

    fn subscribe(&mut self, wait: Duration, out: &mut Vec<Output>) {
        let request = self.request();
        self.membership = Membership::Joining { request, wait };
        let recover = self.position.map(|p| ClientPosition { epoch: p.epoch.to_string(), seq: p.seq });
        out.push(Output::Hub(Command::Subscribe {
            request,
            room: self.room.clone(),
            client: self.client.clone(),
            join_leave: self.options.join_leave.holds(true),
            recover,
            reject_unrecovered: false,
        }));
    }

    fn error(&self, text: &str, out: &mut Vec<Output>) {
        out.push(Output::Write(plain::error(self.room.as_str(), text)));
    }

    fn close(&mut self, code: CloseCode, out: &mut Vec<Output>) {
        self.closed = true;
        out.push(Output::Close(code));
    }

    fn on_message(&mut self, data: &[u8], text: bool, out: &mut Vec<Output>) {
        // WebSocket promises that text is UTF-8.
        let message = match std::str::from_utf8(data) {
            Ok(message) if text => message,
            _ => return self.error("a message must be text", out),
        };
        if message.is_empty() {
            return self.error("a message must not be empty", out);
        }
        if self.options.publish == Publish::Nobody {
            return self.error("a message was not sent: nobody may publish here", out);
        }
        if self.options.max_payload.is_some_and(|most| message.len() as u64 > most.0) {
            return self.error("a message was not sent: it is too long for this room", out);
        }
        let rates = &self.policy.rates;
        if !(self.bucket.take() && rates.take_of_user(&self.client.user) && rates.take_of_room(&self.room)) {
            self.too_fast += 1;
            if self.too_fast > TOO_FAST {
                return self.close(CloseCode::TOO_MANY_REQUESTS, out);
            }
            return self.error("a message was not sent: too fast", out);
        }
        self.too_fast = 0;
        if self.publishes >= IN_FLIGHT || self.policy.memory.is_short() {
            return self.error("too many messages are waiting for their turn: this one was not sent", out);
        }
        let data = serde_json::to_vec(message).expect("text can be written as JSON").into();
        self.publishes += 1;
        let request = self.request();
        let (room, client) = (self.room.clone(), self.client.clone());
        out.push(Output::Hub(Command::Publish { request, room, client, data, id: String::new() }));
    }

    fn on_hub(&mut self, now: Instant, event: ToClient, out: &mut Vec<Output>) {
        match event {
            ToClient::Push(frame) => out.push(Output::Write(frame.payload())),
            ToClient::Subscribed { request, result, .. } => match self.membership {
                Membership::Joining { request: ours, wait } if ours == request => {
                    self.on_subscribed(now, wait, result, out);
                }
                _ => tracing::warn!(client = %self.client.id, request, "answer to a subscribe that was not asked"),
            },
            ToClient::Dropped { code, position, .. } => {
                self.position = position;
                if code == CloseCode::UNSUBSCRIBED {
                    self.close(CloseCode::FORCE_DISCONNECT, out);
                } else {
                    self.subscribe(FIRST_WAIT, out);
                }
            }
            ToClient::Published { result, .. } => {
                self.publishes = self.publishes.saturating_sub(1);
                if let Err(error) = result {
                    self.error(refused_message(error), out);
                }
            }
            ToClient::Order(Order::Disconnect(code)) => self.close(code, out),
            // It has no other room to be in.
            ToClient::Order(Order::Unsubscribe(room)) if room == self.room => {
                self.close(CloseCode::FORCE_DISCONNECT, out);
            }
            ToClient::Order(Order::Subscribe(_) | Order::Unsubscribe(_)) => {}
            ToClient::Unsubscribed { .. }
            | ToClient::Retracted { .. }
            | ToClient::History { .. }
            | ToClient::Presence { .. } => {}
        }
    }

    fn on_subscribed(
        &mut self,
        now: Instant,
        wait: Duration,
        result: Result<Subscribed, ErrorCode>,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(subscribed) => {
                let Position { epoch, seq } = subscribed.position;
                if self.was_member && !subscribed.recovered {
                    out.push(Output::Write(plain::gap(self.room.as_str(), epoch, seq)));
                }
                let missed = subscribed.publications.iter();
                out.extend(missed.map(|p| Output::Write(plain::message(self.room.as_str(), epoch, p))));
                self.membership = Membership::Joined;
                self.was_member = true;
            }
            Err(error) => {
                self.error(refused_subscribe(error), out);
                self.membership = Membership::Waiting { until: now + wait, wait };
            }
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Membership::Waiting { until, wait } = self.membership
            && until <= now
        {
            self.subscribe((wait * 2).min(LONGEST_WAIT), out);
        }
        if self.expires.is_some_and(|at| at <= now) {
            self.close(CloseCode::CONNECTION_EXPIRED, out);
        } else if self.pong_due.is_some_and(|due| due <= now) {
            self.close(CloseCode::NO_PONG, out);
        } else if self.next_ping.is_some_and(|due| due <= now) {
            self.next_ping = Some(now + self.limits.ping);
            self.pong_due.get_or_insert(now + self.limits.pong_timeout);
            out.push(Output::Ping);
        }
    }
}

fn refused_message(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::OUTCOME_UNKNOWN => "it is not known whether a message was sent",
        ErrorCode::INTERNAL | ErrorCode::TOO_MANY_REQUESTS => "a message was not sent: the room can't be reached now",
        ErrorCode::LIMIT_EXCEEDED => "a message was not sent: the room is at a limit",
        _ => "a message was not sent: it was refused",
    }
}

fn refused_subscribe(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::LIMIT_EXCEEDED => "the room is at a limit: trying again",
        _ => "the room can't be reached now: trying again",
    }
}

impl Machine for Plain {
    fn start(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.next_ping = Some(now + self.limits.ping.mul_f64(0.5 + self.ping_phase.clamp(0.0, 1.0) / 2.0));
        self.subscribe(FIRST_WAIT, out);
    }

    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Output>) {
        if self.closed {
            return;
        }
        match input {
            Input::Message { data, text } => self.on_message(data, text, out),
            Input::Pong => self.pong_due = None,
            Input::Hub(event) => self.on_hub(now, event, out),
            Input::Tick => self.on_tick(now, out),
            // It asks nobody.
            Input::Found(_) | Input::Verdict(..) => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let retry = match self.membership {
            Membership::Waiting { until, .. } => Some(until),
            Membership::Joining { .. } | Membership::Joined => None,
        };
        if self.closed {
            None
        } else {
            [retry, self.next_ping, self.pong_due, self.expires].into_iter().flatten().min()
        }
    }

    fn client(&self) -> Option<&Arc<Client>> {
        Some(&self.client)
    }

    fn rooms(&self) -> Vec<RoomId> {
        match self.membership {
            Membership::Joining { .. } | Membership::Joined => vec![self.room.clone()],
            Membership::Waiting { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
