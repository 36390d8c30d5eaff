//! A session of the Centrifuge client protocol.

mod asking;
mod connect;
mod rooms;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use roomring_proto::RoomId;
use roomring_proto::client::{self, Answer, Connect, Format, Reply, Request};
use roomring_proto::close::{CloseCode, ErrorCode};

use self::asking::Asking;
use self::connect::Opening;
use self::rooms::{EXPIRY_GRACE, named, subscribed};
use super::few::Few;
use super::rpc::{self, PublishCall};
use super::{ClientId, Clock, IN_FLIGHT, Input, Limits, Machine, Output, Policy, TOO_FAST, Transport, User};
use crate::auth::Shown;
use crate::hub::api::{Client, Command, Order, ToClient};
use crate::limits::Bucket;
use crate::roster::Entry;

/// A session of the Centrifuge client protocol.
#[derive(Debug)]
pub struct Centrifuge {
    limits: Limits,
    policy: Arc<Policy>,
    transport: Transport,
    clock: Clock,
    id: ClientId,
    /// Named in the URL; the connect data wins.
    user: User,
    /// What others are shown of its handshake.
    shown: Shown,
    /// Where in the second half of the interval the first ping comes, 0 to 1: spreads the pings of many clients.
    ping_phase: f64,
    stage: Stage,
    /// Until the connect command is answered.
    opening: Option<Box<Opening>>,
    /// Commands that the hub has not answered. Publishes are noted in the client's queue, which answers them.
    in_flight: Few<u32, Asked>,
    /// Rooms that the business server is asked about.
    asking: Few<RoomId, Box<Asking>>,
    rooms: Few<RoomId, Membership>,
    /// When the first of them that expires is over.
    room_expires: Option<Instant>,
    bucket: Bucket,
    /// Commands in a row that were too fast.
    too_fast: u32,
}

#[derive(Debug)]
enum Stage {
    /// No connect command yet.
    New {
        deadline: Option<Instant>,
    },
    /// Others are asked who it is.
    Asking {
        /// Its connect command.
        request: u32,
        connect: Box<Connect>,
        /// What it asked meanwhile.
        commands: Vec<client::Command>,
    },
    /// It was told why it can't connect.
    Refused {
        deadline: Instant,
    },
    Open {
        client: Arc<Client>,
        next_ping: Instant,
        pong_due: Option<Instant>,
        expires: Option<Instant>,
        _entry: Entry,
    },
    Closed {
        client: Option<Arc<Client>>,
    },
}

/// What the answer to a command will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Subscribe,
    Unsubscribe,
    RpcPublish,
    History,
    Presence,
    PresenceStats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    /// Asked for by the command `request`.
    Joining {
        request: u32,
        terms: Terms,
    },
    Joined(Terms),
    /// Ended by the server: the hub was told, and the client will be, with this code.
    Ending(CloseCode),
    /// Ended by the server; the client is about to subscribe again, and may publish meanwhile.
    Dropped,
}

/// What was granted to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    recoverable: bool,
    /// Joined by the server.
    server: bool,
    /// When it is to have been refreshed.
    expires: Option<Instant>,
}

/// Id of what the session itself asks of the hub. No client's command has it.
const SERVER: u32 = 0;

/// The connection can't go on.
struct Fatal(CloseCode);

const BAD_REQUEST: Fatal = Fatal(CloseCode::BAD_REQUEST);

impl Centrifuge {
    /// A session that waits for its connect command. `user` is believed if the policy says so; `ping_phase` is a random
    /// number from 0 to 1.
    pub fn new(
        limits: Limits,
        policy: Arc<Policy>,
        transport: Transport,
        clock: Clock,
        id: ClientId,
        (user, shown): (User, Shown),
        ping_phase: f64,
    ) -> Self {
        Self {
            limits,
            policy,
            transport,
            clock,
            id,
            user,
            shown,
            ping_phase,
            stage: Stage::New { deadline: None },
            opening: None,
            in_flight: Few::default(),
            asking: Few::default(),
            rooms: Few::default(),
            room_expires: None,
            bucket: Bucket::new(limits.commands),
            too_fast: 0,
        }
    }

    fn reply(&self, id: u32, result: Result<Answer, ErrorCode>) -> Output {
        Output::Write(self.transport.format.reply(&Reply { id, result }))
    }

    /// Writes a push, not before the answer to the connect command.
    fn write(&mut self, push: Bytes, out: &mut Vec<Output>) {
        match &mut self.opening {
            Some(opening) => opening.hold(Output::Write(push)),
            None => out.push(Output::Write(push)),
        }
    }

    fn close(&mut self, code: CloseCode, out: &mut Vec<Output>) {
        self.stage = Stage::Closed { client: self.client().cloned() };
        out.push(Output::Close(code));
    }

    fn on_frame(&mut self, now: Instant, frame: &[u8], out: &mut Vec<Output>) {
        for command in self.transport.format.decode(frame) {
            let handled = match command {
                Ok(command) => self.on_command(now, command, out),
                Err(e) => {
                    tracing::debug!(client = %self.id, error = %e, "malformed command");
                    Err(BAD_REQUEST)
                }
            };
            if let Err(Fatal(code)) = handled {
                return self.close(code, out);
            }
            // What came with a connect command that failed was not meant to be refused one by one.
            if matches!(self.stage, Stage::Refused { .. }) {
                return;
            }
        }
    }

    fn on_command(&mut self, now: Instant, command: client::Command, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let client = match &mut self.stage {
            Stage::Open { client, .. } => client.clone(),
            Stage::Asking { commands, .. } => {
                let id = command.id;
                if commands.len() < IN_FLIGHT {
                    commands.push(command);
                } else {
                    out.push(self.reply(id, Err(ErrorCode::TOO_MANY_REQUESTS)));
                }
                return Ok(());
            }
            Stage::New { .. } => match command {
                client::Command { id, request: Request::Connect(connect) } => {
                    return self.on_connect(now, id, connect, out);
                }
                // Whatever else comes first.
                _ => return Err(BAD_REQUEST),
            },
            Stage::Refused { .. } | Stage::Closed { .. } => return Err(BAD_REQUEST),
        };
        if let Some(opening) = &mut self.opening {
            let id = command.id;
            if !opening.defer(command) {
                out.push(self.reply(id, Err(ErrorCode::TOO_MANY_REQUESTS)));
            }
            return Ok(());
        }
        let client::Command { id, request } = command;
        let (publishing, published) = client.queue.unanswered(id);
        // The answer could not be told from that of the command in flight.
        if published || self.in_flight.contains_key(&id) || self.waits(id) {
            return Err(BAD_REQUEST);
        }
        if !matches!(request, Request::Pong) && !self.in_time(&client)? {
            match request {
                // A membership must be possible to end: an SDK would reconnect instead.
                Request::Unsubscribe { .. } => {}
                Request::Send => return Ok(()),
                _ => {
                    out.push(self.reply(id, Err(ErrorCode::TOO_MANY_REQUESTS)));
                    return Ok(());
                }
            }
        }
        let Some(request) = self.ask_first(now, &client, id, request, out) else { return Ok(()) };
        self.execute(now, client, publishing, (id, request), out)
    }

    /// Does what a command says, whose time has come. `publishing` are the client's unanswered publishes.
    fn execute(
        &mut self,
        now: Instant,
        client: Arc<Client>,
        publishing: usize,
        (id, request): (u32, Request),
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let asked = match request {
            Request::Connect(_) => return Err(BAD_REQUEST),
            Request::Pong => return self.on_pong(),
            Request::Send => return Err(Fatal(CloseCode::NOT_AVAILABLE)),
            Request::Refresh { token } => return self.on_refresh(now, id, &token, out),
            Request::SubRefresh { channel, token } => {
                let renewed = self.on_sub_refresh(now, &client, &channel, &token)?;
                out.push(self.reply(id, renewed));
                return Ok(());
            }
            Request::Ping => {
                out.push(self.reply(id, Ok(Answer::Ping)));
                return Ok(());
            }
            Request::Unsubscribe { channel } => return self.on_unsubscribe(id, client, &channel, out),
            _ if self.in_flight.len() + publishing >= IN_FLIGHT || self.policy.memory.is_short() => {
                Err(ErrorCode::TOO_MANY_REQUESTS)
            }
            Request::Subscribe(subscribe) => self.on_subscribe(now, id, client, &subscribe)?,
            Request::Publish { channel, data } => {
                match self.publish(now, &client, named(&channel)?, data, String::new()) {
                    Ok((room, data, id_given)) => {
                        client.queue.publishing(id);
                        out.push(Output::Hub(Command::Publish { request: id, room, client, data, id: id_given }));
                    }
                    Err(error) => out.push(self.reply(id, Err(error))),
                }
                return Ok(());
            }
            Request::Rpc { method, data } if method == rpc::PUBLISH => self
                .json(data)
                .and_then(|data| PublishCall::parse(&data))
                .and_then(|call| self.publish(now, &client, Ok(call.room), call.data, call.id))
                .map(|(room, data, id_given)| {
                    (Asked::RpcPublish, Command::Publish { request: id, room, client, data, id: id_given })
                }),
            Request::Rpc { .. } => Err(ErrorCode::METHOD_NOT_FOUND),
            Request::Presence { channel } => self.on_presence(id, client, &channel, Asked::Presence)?,
            Request::PresenceStats { channel } => self.on_presence(id, client, &channel, Asked::PresenceStats)?,
            Request::History(history) => self.on_history(id, client, history)?,
        };
        match asked {
            Ok((asked, command)) => {
                self.in_flight.insert(id, asked);
                out.push(Output::Hub(command));
            }
            Err(error) => out.push(self.reply(id, Err(error))),
        }
        Ok(())
    }

    /// Whether a command comes no faster than it may. Whoever goes on all the same is closed.
    fn in_time(&mut self, client: &Client) -> Result<bool, Fatal> {
        if self.bucket.take() && self.policy.rates.take_of_user(&client.user) {
            self.too_fast = 0;
            return Ok(true);
        }
        self.too_fast += 1;
        if self.too_fast > TOO_FAST { Err(Fatal(CloseCode::TOO_MANY_REQUESTS)) } else { Ok(false) }
    }

    fn on_pong(&mut self) -> Result<(), Fatal> {
        let due = match &mut self.stage {
            Stage::Open { pong_due, .. } => pong_due.take(),
            Stage::New { .. } | Stage::Asking { .. } | Stage::Refused { .. } | Stage::Closed { .. } => None,
        };
        // One that no ping asked for breaks the protocol.
        due.map(|_| ()).ok_or(BAD_REQUEST)
    }

    fn on_native_pong(&mut self) {
        if let Stage::Open { pong_due, .. } = &mut self.stage
            && self.transport.native_pings
        {
            *pong_due = None;
        }
    }

    fn on_hub(&mut self, now: Instant, event: ToClient, out: &mut Vec<Output>) -> Result<(), Fatal> {
        match event {
            ToClient::Push(frame) => self.write(frame.payload(), out),
            ToClient::Dropped { room, code, .. } => return self.on_dropped(room, code, out),
            ToClient::Order(Order::Disconnect(code)) => return Err(Fatal(code)),
            ToClient::Order(Order::Subscribe(room)) => return self.on_told_to_join(room, out),
            ToClient::Order(Order::Unsubscribe(room)) => return self.on_told_to_leave(&room, out),
            ToClient::Subscribed { request: SERVER, room, result } => {
                return self.on_joined_for(now, &room, result, out);
            }
            ToClient::Subscribed { request, room, result } => {
                let answer = result.map(|granted| match self.rooms.get(&room) {
                    Some(Membership::Joining { request: ours, terms }) if *ours == request => {
                        Answer::Subscribe(subscribed(granted, *terms, now))
                    }
                    // It left meanwhile.
                    _ => Answer::Subscribe(subscribed(
                        granted,
                        Terms { recoverable: true, server: false, expires: None },
                        now,
                    )),
                });
                if let Some(Membership::Joining { request: ours, terms }) = self.rooms.get(&room).copied()
                    && ours == request
                {
                    match answer {
                        Ok(_) => drop(self.rooms.insert(room, Membership::Joined(terms))),
                        Err(_) => drop(self.rooms.remove(&room)),
                    }
                    if terms.expires.is_some() {
                        self.note_expiry();
                    }
                }
                self.answer(request, Asked::Subscribe, answer, out);
            }
            ToClient::Unsubscribed { request: SERVER, room } => self.on_ended(&room, out),
            ToClient::Unsubscribed { request, .. } => {
                self.answer(request, Asked::Unsubscribe, Ok(Answer::Unsubscribe), out);
            }
            ToClient::Published { request, result } => {
                if self.client().is_some_and(|client| client.queue.published(request)) {
                    out.push(self.reply(request, result.map(|_| Answer::Publish)));
                } else {
                    let place = result.map(|p| Answer::Rpc(rpc::published(&p)));
                    self.answer(request, Asked::RpcPublish, place, out);
                }
            }
            // Clients have no command for it.
            ToClient::Retracted { .. } => {}
            ToClient::History { request, result } => {
                let page = result.map(|h| Answer::History {
                    publications: h.publications,
                    epoch: h.top.epoch,
                    offset: h.top.seq,
                });
                self.answer(request, Asked::History, page, out);
            }
            ToClient::Presence { request, result } => {
                let asked = self.in_flight.get(&request).copied().unwrap_or(Asked::Presence);
                let answer = result.map(|p| match asked {
                    Asked::PresenceStats => {
                        Answer::PresenceStats { num_clients: p.num_clients, num_users: p.num_users }
                    }
                    _ => Answer::Presence(p.clients),
                });
                self.answer(request, asked, answer, out);
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: u32, asked: Asked, result: Result<Answer, ErrorCode>, out: &mut Vec<Output>) {
        if self.in_flight.get(&request) == Some(&asked) {
            self.in_flight.remove(&request);
            out.push(self.reply(request, result));
        } else {
            tracing::warn!(client = %self.id, request, ?asked, "answer to a command that was not asked");
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.room_expires.is_some_and(|at| at <= now) {
            self.expire_rooms(now, out);
        }
        let closed_by = match &mut self.stage {
            Stage::New { deadline: Some(deadline) } if *deadline <= now => Some(CloseCode::STALE),
            Stage::Refused { deadline } if *deadline <= now => Some(CloseCode::STALE),
            Stage::Open { pong_due: Some(due), .. } if *due <= now => Some(CloseCode::NO_PONG),
            Stage::Open { expires: Some(expires), .. } if *expires + EXPIRY_GRACE <= now => {
                Some(CloseCode::CONNECTION_EXPIRED)
            }
            Stage::Open { next_ping, .. } if *next_ping <= now && self.opening.is_some() => {
                *next_ping = now + self.limits.ping;
                None
            }
            Stage::Open { next_ping, pong_due, .. } if *next_ping <= now => {
                *next_ping = now + self.limits.ping;
                pong_due.get_or_insert(now + self.limits.pong_timeout);
                out.push(match self.transport.native_pings {
                    true => Output::Ping,
                    false => Output::Write(self.transport.format.ping()),
                });
                None
            }
            Stage::New { .. }
            | Stage::Asking { .. }
            | Stage::Refused { .. }
            | Stage::Open { .. }
            | Stage::Closed { .. } => None,
        };
        if let Some(code) = closed_by {
            self.close(code, out);
        }
    }
}

impl Machine for Centrifuge {
    fn start(&mut self, now: Instant, _out: &mut Vec<Output>) {
        self.stage = Stage::New { deadline: Some(now + self.limits.connect_timeout) };
    }

    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Output>) {
        if matches!(self.stage, Stage::Closed { .. }) {
            return;
        }
        match input {
            Input::Message { data, .. } => self.on_frame(now, data, out),
            Input::Hub(event) => {
                if let Err(Fatal(code)) = self.on_hub(now, event, out) {
                    self.close(code, out);
                }
            }
            Input::Tick => self.on_tick(now, out),
            Input::Found(found) => {
                if let Err(Fatal(code)) = self.on_found(now, found, out) {
                    self.close(code, out);
                }
            }
            Input::Verdict(room, verdict) => {
                if let Err(Fatal(code)) = self.on_verdict(now, &room, verdict, out) {
                    self.close(code, out);
                }
            }
            Input::Pong => self.on_native_pong(),
        }
    }

    fn binary(&self) -> bool {
        self.transport.format == Format::Protobuf
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::New { deadline } => *deadline,
            Stage::Refused { deadline } => Some(*deadline),
            Stage::Open { next_ping, pong_due, expires, .. } => {
                let expiry = expires.map(|at| at + EXPIRY_GRACE);
                [Some(*next_ping), *pong_due, expiry, self.room_expires].into_iter().flatten().min()
            }
            // Its task waits for the answer, which comes in time.
            Stage::Asking { .. } | Stage::Closed { .. } => None,
        }
    }

    fn client(&self) -> Option<&Arc<Client>> {
        match &self.stage {
            Stage::New { .. } | Stage::Asking { .. } | Stage::Refused { .. } => None,
            Stage::Open { client, .. } => Some(client),
            Stage::Closed { client } => client.as_ref(),
        }
    }

    fn rooms(&self) -> Vec<RoomId> {
        let joined = self.rooms.iter().filter(|(_, m)| matches!(m, Membership::Joining { .. } | Membership::Joined(_)));
        joined.map(|(room, _)| room.clone()).collect()
    }
}

/// A command for the hub, or the error that answers it at once.
type ToHub = Result<(Asked, Command), ErrorCode>;

/// Whole seconds until `at`, as clients are told: at least 1.
fn seconds_until(now: Instant, at: Instant) -> u32 {
    u32::try_from(at.saturating_duration_since(now).as_secs()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests;
