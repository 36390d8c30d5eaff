//! A session of the Centrifuge client protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use roomring_proto::client::{self, Answer, Connect, Connected, Format, Push, Reply, Request, Subscribe, json};
use roomring_proto::close::{CloseCode, ErrorCode};
use roomring_proto::{RoomId, Seq};

use super::rpc::{self, PublishCall};
use super::{ClientId, IN_FLIGHT, Input, Limits, Machine, Output, Transport, User};
use crate::hub::api::{Client, ClientPosition, Codec, Command, ToClient};
use crate::hub::queue::ClientQueue;

/// A session of the Centrifuge client protocol.
#[derive(Debug)]
pub struct Centrifuge {
    limits: Limits,
    transport: Transport,
    id: ClientId,
    /// Named in the URL; the connect data wins.
    user: User,
    /// Where in the second half of the interval the first ping comes, 0 to 1: spreads the pings of many clients.
    ping_phase: f64,
    stage: Stage,
    /// Commands that the hub has not answered.
    in_flight: BTreeMap<u32, Asked>,
    rooms: BTreeMap<RoomId, Membership>,
}

#[derive(Debug)]
enum Stage {
    /// No connect command yet.
    New {
        deadline: Option<Instant>,
    },
    Open {
        client: Arc<Client>,
        next_ping: Instant,
        pong_due: Option<Instant>,
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
    Publish,
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
    },
    Joined,
    /// Ended by the server; the client is about to subscribe again, and may publish meanwhile.
    Dropped,
}

/// The connection can't go on.
struct Fatal(CloseCode);

const BAD_REQUEST: Fatal = Fatal(CloseCode::BAD_REQUEST);

impl Centrifuge {
    /// A session that waits for its connect command. `ping_phase` is a random number from 0 to 1.
    pub fn new(limits: Limits, transport: Transport, id: ClientId, user: User, ping_phase: f64) -> Self {
        Self {
            limits,
            transport,
            id,
            user,
            ping_phase,
            stage: Stage::New { deadline: None },
            in_flight: BTreeMap::new(),
            rooms: BTreeMap::new(),
        }
    }

    fn reply(&self, id: u32, result: Result<Answer, ErrorCode>) -> Output {
        Output::Write(self.transport.format.reply(&Reply { id, result }))
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
        }
    }

    fn on_command(&mut self, now: Instant, command: client::Command, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let client::Command { id, request } = command;
        let client = match (&self.stage, &request) {
            (Stage::New { .. }, Request::Connect(connect)) => return self.on_connect(now, id, connect, out),
            (Stage::Open { client, .. }, _) => client.clone(),
            // Whatever else comes first, and a second connect.
            (Stage::New { .. } | Stage::Closed { .. }, _) => return Err(BAD_REQUEST),
        };
        // The answer could not be told from that of the command in flight.
        if self.in_flight.contains_key(&id) {
            return Err(BAD_REQUEST);
        }
        let asked = match request {
            Request::Connect(_) => return Err(BAD_REQUEST),
            Request::Pong => return self.on_pong(),
            Request::Send => return Err(Fatal(CloseCode::NOT_AVAILABLE)),
            // No token expires here.
            Request::Refresh { .. } => return Err(BAD_REQUEST),
            Request::SubRefresh { channel, .. } => named(&channel).map(|_| Err(ErrorCode::NOT_AVAILABLE))?,
            Request::Ping => {
                out.push(self.reply(id, Ok(Answer::Ping)));
                return Ok(());
            }
            Request::Subscribe(subscribe) => self.on_subscribe(id, client, &subscribe)?,
            Request::Unsubscribe { channel } => {
                if channel.is_empty() {
                    return Err(BAD_REQUEST);
                }
                return self.on_unsubscribe(id, client, &channel, out);
            }
            Request::Publish { channel, data } => self.publish(named(&channel)?, data, String::new()).map(|publish| {
                let (room, data, id_given) = publish;
                (Asked::Publish, Command::Publish { request: id, room, client, data, id: id_given })
            }),
            Request::Rpc { method, data } if method == rpc::PUBLISH => self
                .json(data)
                .and_then(|data| PublishCall::parse(&data))
                .and_then(|call| self.publish(Ok(call.room), call.data, call.id))
                .map(|(room, data, id_given)| {
                    (Asked::RpcPublish, Command::Publish { request: id, room, client, data, id: id_given })
                }),
            Request::Rpc { .. } => Err(ErrorCode::METHOD_NOT_FOUND),
            Request::Presence { channel } => self
                .joined(named(&channel)?)
                .map(|room| (Asked::Presence, Command::Presence { request: id, room, client, stats_only: false })),
            Request::PresenceStats { channel } => self
                .joined(named(&channel)?)
                .map(|room| (Asked::PresenceStats, Command::Presence { request: id, room, client, stats_only: true })),
            Request::History(history) => self.on_history(id, client, history)?,
        };
        match asked.and_then(|asked| self.admit(asked)) {
            Ok((asked, command)) => {
                if let Command::Subscribe { room, .. } = &command {
                    self.rooms.insert(room.clone(), Membership::Joining { request: id });
                }
                self.in_flight.insert(id, asked);
                out.push(Output::Hub(command));
            }
            Err(error) => out.push(self.reply(id, Err(error))),
        }
        Ok(())
    }

    fn admit<T>(&self, asked: T) -> Result<T, ErrorCode> {
        if self.in_flight.len() < IN_FLIGHT { Ok(asked) } else { Err(ErrorCode::TOO_MANY_REQUESTS) }
    }

    fn on_connect(&mut self, now: Instant, id: u32, connect: &Connect, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let user = match User::of_connect_data(&connect.data) {
            Ok(user) => user.unwrap_or_else(|| std::mem::take(&mut self.user)),
            Err(e) => {
                tracing::debug!(client = %self.id, error = %e, "connect refused");
                out.push(self.reply(id, Err(ErrorCode::BAD_REQUEST)));
                return Err(BAD_REQUEST);
            }
        };
        let client = Arc::new(Client {
            id: self.id.to_string(),
            user: user.into_string(),
            conn_info: Bytes::new(),
            codec: Codec::Centrifuge(self.transport.format),
            queue: ClientQueue::new(self.limits.queue_bytes),
        });
        tracing::debug!(client = %self.id, user = %client.user, sdk = %connect.name, "connected");
        let connected = Connected {
            client: client.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            // Announced in whole seconds; a little more than true does no harm, less would.
            ping: match self.transport.native_pings {
                true => 0,
                false => u32::try_from(self.limits.ping.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX),
            },
            pong: !self.transport.native_pings,
            ..Connected::default()
        };
        out.push(self.reply(id, Ok(Answer::Connect(connected))));
        let first = self.limits.ping.mul_f64(0.5 + self.ping_phase.clamp(0.0, 1.0) / 2.0);
        self.stage = Stage::Open { client, next_ping: now + first, pong_due: None };
        Ok(())
    }

    fn on_pong(&mut self) -> Result<(), Fatal> {
        let due = match &mut self.stage {
            Stage::Open { pong_due, .. } => pong_due.take(),
            Stage::New { .. } | Stage::Closed { .. } => None,
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

    fn on_subscribe(&self, id: u32, client: Arc<Client>, wanted: &Subscribe) -> Result<ToHub, Fatal> {
        let room = match named(&wanted.channel)? {
            Ok(room) => room,
            Err(error) => return Ok(Err(error)),
        };
        match self.rooms.get(&room) {
            Some(Membership::Joining { .. } | Membership::Joined) => return Ok(Err(ErrorCode::ALREADY_SUBSCRIBED)),
            Some(Membership::Dropped) => {}
            None if self.rooms.len() >= self.limits.rooms => return Ok(Err(ErrorCode::LIMIT_EXCEEDED)),
            None => {}
        }
        if wanted.tags_filter {
            return Ok(Err(ErrorCode::BAD_REQUEST));
        }
        let recover = wanted.recover.then(|| ClientPosition { epoch: wanted.epoch.clone(), seq: Seq(wanted.offset) });
        Ok(Ok((
            Asked::Subscribe,
            Command::Subscribe {
                request: id,
                room,
                client,
                join_leave: wanted.join_leave,
                recover,
                reject_unrecovered: wanted.flag & Subscribe::REJECT_UNRECOVERED != 0,
            },
        )))
    }

    /// Always succeeds, also for a room that is not joined or can't exist.
    fn on_unsubscribe(
        &mut self,
        id: u32,
        client: Arc<Client>,
        channel: &str,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        match self.rooms.remove_entry(channel) {
            // Also beyond the limit of commands in flight: a membership must be possible to end.
            Some((room, Membership::Joining { .. } | Membership::Joined)) => {
                self.in_flight.insert(id, Asked::Unsubscribe);
                out.push(Output::Hub(Command::Unsubscribe { request: Some(id), room, client }));
            }
            Some((_, Membership::Dropped)) | None => out.push(self.reply(id, Ok(Answer::Unsubscribe))),
        }
        Ok(())
    }

    fn publish(&self, room: Named, data: Bytes, id: String) -> Result<(RoomId, Bytes, String), ErrorCode> {
        let room = room?;
        if data.is_empty() {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let data = self.json(data)?;
        if !self.limits.publish_without_join && !self.rooms.contains_key(&room) {
            return Err(ErrorCode::PERMISSION_DENIED);
        }
        Ok((room, data, id))
    }

    /// A payload that members of either encoding can be given: one that came in JSON was read as such already.
    fn json(&self, data: Bytes) -> Result<Bytes, ErrorCode> {
        match self.transport.format {
            Format::Json => Ok(data),
            Format::Protobuf => json::embeddable(&data).map_err(|_| ErrorCode::BAD_REQUEST),
        }
    }

    /// A room that the client may look into.
    fn joined(&self, room: Named) -> Named {
        room.and_then(|room| if self.rooms.contains_key(&room) { Ok(room) } else { Err(ErrorCode::PERMISSION_DENIED) })
    }

    fn on_history(&self, id: u32, client: Arc<Client>, wanted: client::History) -> Result<ToHub, Fatal> {
        let room = match self.joined(named(&wanted.channel)?) {
            Ok(room) => room,
            Err(error) => return Ok(Err(error)),
        };
        // Nothing comes before the first.
        if wanted.reverse && matches!(wanted.since, Some((0, _))) {
            return Ok(Err(ErrorCode::BAD_REQUEST));
        }
        let since = wanted.since.map(|(offset, epoch)| ClientPosition { epoch, seq: Seq(offset) });
        let command =
            Command::History { request: id, room, client, limit: wanted.limit, reverse: wanted.reverse, since };
        Ok(Ok((Asked::History, command)))
    }

    fn on_hub(&mut self, event: ToClient, out: &mut Vec<Output>) {
        match event {
            ToClient::Push(frame) => out.push(Output::Write(frame.payload())),
            ToClient::Dropped { room, code, .. } => self.on_dropped(room, code, out),
            ToClient::Subscribed { request, room, result } => {
                let ours = self.rooms.get(&room) == Some(&Membership::Joining { request });
                if ours && result.is_ok() {
                    self.rooms.insert(room, Membership::Joined);
                } else if ours {
                    self.rooms.remove(&room);
                }
                self.answer(request, Asked::Subscribe, result.map(subscribed), out);
            }
            ToClient::Unsubscribed { request, .. } => {
                self.answer(request, Asked::Unsubscribe, Ok(Answer::Unsubscribe), out);
            }
            ToClient::Published { request, result } => {
                let answer = match self.in_flight.get(&request) {
                    Some(Asked::RpcPublish) => result.map(|p| Answer::Rpc(rpc::published(&p))),
                    _ => result.map(|_| Answer::Publish),
                };
                let asked = self.in_flight.get(&request).copied().unwrap_or(Asked::Publish);
                self.answer(request, asked, answer, out);
            }
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
    }

    fn answer(&mut self, request: u32, asked: Asked, result: Result<Answer, ErrorCode>, out: &mut Vec<Output>) {
        if self.in_flight.get(&request) == Some(&asked) {
            self.in_flight.remove(&request);
            out.push(self.reply(request, result));
        } else {
            tracing::warn!(client = %self.id, request, ?asked, "answer to a command that was not asked");
        }
    }

    fn on_dropped(&mut self, room: RoomId, code: CloseCode, out: &mut Vec<Output>) {
        // If the client has left meanwhile, or left and come back, this is about a membership that it no longer has: told of
        // it, an SDK would subscribe again.
        if self.rooms.get(&room) != Some(&Membership::Joined) {
            return;
        }
        out.push(Output::Write(self.transport.format.push(room.as_str(), &Push::Unsubscribe(code))));
        if code == CloseCode::UNSUBSCRIBED {
            self.rooms.remove(&room);
        } else {
            self.rooms.insert(room, Membership::Dropped);
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        let closed_by = match &mut self.stage {
            Stage::New { deadline: Some(deadline) } if *deadline <= now => Some(CloseCode::STALE),
            Stage::Open { pong_due: Some(due), .. } if *due <= now => Some(CloseCode::NO_PONG),
            Stage::Open { next_ping, pong_due, .. } if *next_ping <= now => {
                *next_ping = now + self.limits.ping;
                pong_due.get_or_insert(now + self.limits.pong_timeout);
                out.push(match self.transport.native_pings {
                    true => Output::Ping,
                    false => Output::Write(self.transport.format.ping()),
                });
                None
            }
            Stage::New { .. } | Stage::Open { .. } | Stage::Closed { .. } => None,
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
            Input::Hub(event) => self.on_hub(event, out),
            Input::Tick => self.on_tick(now, out),
            Input::Pong => self.on_native_pong(),
        }
    }

    fn binary(&self) -> bool {
        self.transport.format == Format::Protobuf
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::New { deadline } => *deadline,
            Stage::Open { next_ping, pong_due, .. } => Some(pong_due.map_or(*next_ping, |due| due.min(*next_ping))),
            Stage::Closed { .. } => None,
        }
    }

    fn client(&self) -> Option<&Arc<Client>> {
        match &self.stage {
            Stage::New { .. } => None,
            Stage::Open { client, .. } => Some(client),
            Stage::Closed { client } => client.as_ref(),
        }
    }

    fn rooms(&self) -> Vec<RoomId> {
        let joined = self.rooms.iter().filter(|(_, m)| **m != Membership::Dropped);
        joined.map(|(room, _)| room.clone()).collect()
    }
}

/// A command for the hub, or the error that answers it at once.
type ToHub = Result<(Asked, Command), ErrorCode>;

/// A channel's name as a room, or why it is none.
type Named = Result<RoomId, ErrorCode>;

/// An empty name breaks the protocol, one that breaks our rules is an error.
fn named(channel: &str) -> Result<Named, Fatal> {
    if channel.is_empty() {
        return Err(BAD_REQUEST);
    }
    Ok(RoomId::new(channel).map_err(|_| ErrorCode::BAD_REQUEST))
}

fn subscribed(s: crate::hub::api::Subscribed) -> Answer {
    Answer::Subscribe(client::Subscribed {
        ttl: None,
        recoverable: true,
        epoch: s.position.epoch,
        offset: s.position.seq,
        was_recovering: s.was_recovering,
        recovered: s.recovered,
        publications: s.publications,
    })
}

#[cfg(test)]
mod tests;
