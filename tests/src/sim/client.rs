//! A client of a router, and what it writes down for the checker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use roomring_control::clock::Time;
use roomring_proto::client::Format;
use roomring_proto::close::ErrorCode;
use roomring_proto::{RoomId, Seq};
use roomring_router::hub::api::{self, ClientPosition, Codec, Command, ToClient};
use roomring_router::hub::queue::ClientQueue;

use super::{Mutant, ROOMS, bugs};
use crate::checker::{Line, Position, What};
use crate::client::wire::Reply;

/// Publishes that one client waits for at a time.
const IN_FLIGHT: usize = 4;

/// Before a subscribe that met an error is sent again.
const RETRY: Duration = Duration::from_millis(200);

/// What the client is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Come, go and talk.
    Lively,
    /// Be in every room and keep still.
    Still,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Out,
    Asking,
    In,
    Leaving,
}

#[derive(Debug)]
struct Membership {
    state: State,
    position: Option<Position>,
    not_before: Time,
}

#[derive(Debug)]
pub(super) struct Client {
    index: usize,
    connections: usize,
    /// The router that it is connected to.
    pub(super) router: Option<usize>,
    pub(super) handle: Option<Arc<api::Client>>,
    rooms: BTreeMap<&'static str, Membership>,
    publishes: BTreeSet<u32>,
    presence: BTreeMap<u32, &'static str>,
    last_request: u32,
    said: u64,
    mutant: Option<Mutant>,
    spoilt: u64,
    /// By request, and those to be sent once more: see [`Mutant::ResendsUnknown`].
    sent: BTreeMap<u32, (&'static str, Bytes)>,
    again: VecDeque<(u64, &'static str, Bytes)>,
    pub(super) lines: Vec<Line>,
}

impl Client {
    pub(super) fn new(index: usize, mutant: Option<Mutant>) -> Self {
        Self {
            index,
            connections: 0,
            router: None,
            handle: None,
            rooms: BTreeMap::new(),
            publishes: BTreeSet::new(),
            presence: BTreeMap::new(),
            last_request: 0,
            said: 0,
            mutant,
            spoilt: 0,
            sent: BTreeMap::new(),
            again: VecDeque::new(),
            lines: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self, now: Time, router: usize) {
        self.connections += 1;
        let id = format!("c{}.{}", self.index, self.connections);
        let user = format!("user-{}", self.index);
        let queue = ClientQueue::new(64 << 20);
        self.handle = Some(Arc::new(api::Client {
            id,
            user: user.clone(),
            conn_info: Bytes::new(),
            codec: Codec::Centrifuge(Format::Json),
            queue,
        }));
        self.router = Some(router);
        self.note(now, What::Opened { user });
    }

    /// The router is gone.
    pub(super) fn cut(&mut self, now: Time) {
        for request in std::mem::take(&mut self.publishes) {
            let number = request.into();
            self.note(
                now,
                match self.mutant {
                    Some(Mutant::CallsUnknownRefused) => What::Refused { number, code: ErrorCode::INTERNAL.code },
                    _ => What::Unknown { number, code: 0 },
                },
            );
        }
        self.note(now, What::Closed { code: None, wanted: false });
        self.handle = None;
        self.router = None;
        self.presence.clear();
        self.rooms.values_mut().for_each(|m| m.state = State::Out);
    }

    /// Nothing is waited for.
    pub(super) fn is_settled(&self) -> Result<(), String> {
        if !self.publishes.is_empty() {
            return Err(format!("client {} waits for answers to publishes {:?}", self.index, self.publishes));
        }
        match ROOMS.iter().find(|r| self.rooms.get(*r).is_none_or(|m| m.state != State::In)) {
            Some(room) => Err(format!("client {} did not get into {room}", self.index)),
            None => Ok(()),
        }
    }

    fn request(&mut self) -> u32 {
        self.last_request += 1;
        self.last_request
    }

    /// What its router sends once more by mistake.
    pub(super) fn again(&mut self) -> Option<Command> {
        // So much later that others of its own are there before it.
        self.again.front().filter(|(said, ..)| self.said >= said + 8)?;
        let (_, room, data) = self.again.pop_front()?;
        Some(Command::Publish { request: 0, room: id(room), client: bugs::nobody(), data, id: String::new() })
    }

    /// Does something, or nothing.
    pub(super) fn act(&mut self, now: Time, rng: &mut StdRng, mood: Mood) -> Option<Command> {
        let client = self.handle.clone()?;
        let room = ROOMS[rng.random_range(0..ROOMS.len())];
        let chance = rng.random_range(0..100);
        let state = self.rooms.get(room).map_or(State::Out, |m| m.state);
        match (mood, state) {
            (_, State::Out) => self.subscribe(now, rng, client),
            (Mood::Lively, State::In) if chance < 10 => {
                self.rooms.get_mut(room)?.state = State::Leaving;
                let request = Some(self.request());
                Some(Command::Unsubscribe { request, room: id(room), client })
            }
            (Mood::Lively, State::In) if self.publishes.len() < IN_FLIGHT => Some(self.publish(now, room, client)),
            (Mood::Still, _) => self.subscribe(now, rng, client),
            _ => None,
        }
    }

    /// Joins some room that it is not in.
    fn subscribe(&mut self, now: Time, rng: &mut StdRng, client: Arc<api::Client>) -> Option<Command> {
        let out =
            |room: &&'static str| self.rooms.get(*room).is_none_or(|m| m.state == State::Out && m.not_before <= now);
        let room = ROOMS.iter().copied().find(out)?;
        let fresh = Membership { state: State::Out, position: None, not_before: now };
        let membership = self.rooms.entry(room).or_insert(fresh);
        membership.state = State::Asking;
        let recover = membership.position.clone().filter(|_| rng.random_bool(0.8));
        let request = self.request();
        self.note(now, What::Subscribing { room: room.into(), recover: recover.clone() });
        let recover = recover.map(|p| ClientPosition { epoch: p.epoch, seq: Seq(p.offset) });
        Some(Command::Subscribe {
            request,
            room: id(room),
            client,
            join_leave: true,
            recover,
            reject_unrecovered: false,
        })
    }

    pub(super) fn publish(&mut self, now: Time, room: &'static str, client: Arc<api::Client>) -> Command {
        self.said += 1;
        let data = format!("\"{}:{}\"", self.index, self.said);
        let request = self.request();
        self.publishes.insert(request);
        if self.mutant == Some(Mutant::ResendsUnknown) {
            self.sent.insert(request, (room, data.clone().into()));
        }
        self.note(now, What::Sent { room: room.into(), number: request.into(), data: data.clone(), id: None });
        Command::Publish { request, room: id(room), client, data: data.into(), id: String::new() }
    }

    pub(super) fn ask_presence(&mut self, room: &'static str, client: Arc<api::Client>) -> Command {
        let request = self.request();
        self.presence.insert(request, room);
        Command::Presence { request, room: id(room), client, stats_only: false }
    }

    /// Reads what the hub said.
    pub(super) fn read(&mut self, now: Time) -> Result<(), String> {
        let Some(handle) = self.handle.clone() else { return Ok(()) };
        let mut messages = Vec::new();
        if handle.queue.try_recv_many(&mut messages, usize::MAX).is_some_and(|taken| taken.is_err()) {
            return Err(format!("{} is taken for slow", handle.id));
        }
        for message in bugs::spoil_pushes(self.mutant, &mut self.spoilt, messages) {
            self.told(now, message)?;
        }
        Ok(())
    }

    fn told(&mut self, now: Time, message: ToClient) -> Result<(), String> {
        match message {
            ToClient::Push(frame) => self.pushed(now, &frame.payload())?,
            ToClient::Subscribed { room, result: Ok(s), .. } => {
                let room = room.as_str().to_owned();
                let position = Position { epoch: s.position.epoch.to_string(), offset: s.position.seq.0 };
                let membership = self.membership(&room)?;
                membership.state = State::In;
                membership.position = Some(position.clone());
                let (was_recovering, recovered) = (s.was_recovering, s.recovered);
                self.note(now, What::Subscribed { room: room.clone(), position, was_recovering, recovered });
                for p in s.publications {
                    let data = String::from_utf8_lossy(&p.data).into_owned();
                    self.heard(now, &room, p.seq, data)?;
                }
            }
            ToClient::Subscribed { room, result: Err(_), .. } => {
                let membership = self.membership(room.as_str())?;
                membership.state = State::Out;
                membership.not_before = now + RETRY;
            }
            ToClient::Unsubscribed { room, .. } => {
                self.membership(room.as_str())?.state = State::Out;
                self.note(now, What::Gone { room: room.as_str().into() });
            }
            ToClient::Dropped { room, code, .. } => {
                let membership = self.membership(room.as_str())?;
                // The answer to an unsubscribe that is under way comes still.
                if membership.state != State::Leaving {
                    membership.state = State::Out;
                }
                self.note(now, What::Unsubscribed { room: room.as_str().into(), code: code.code.into() });
            }
            ToClient::Published { request, result } => {
                self.publishes.remove(&request);
                let sent = self.sent.remove(&request);
                if matches!(&result, Err(e) if e.code == ErrorCode::OUTCOME_UNKNOWN.code) {
                    self.again.extend(sent.map(|(room, data)| (self.said, room, data)));
                }
                let number = request.into();
                self.note(
                    now,
                    match result {
                        Ok(p) => {
                            let place = Position { epoch: p.position.epoch.to_string(), offset: p.position.seq.0 };
                            What::Acked { number, place: Some(place) }
                        }
                        Err(e) if e.code == ErrorCode::OUTCOME_UNKNOWN.code => What::Unknown { number, code: e.code },
                        Err(e) => What::Refused { number, code: e.code },
                    },
                );
            }
            ToClient::Presence { request, result } => {
                if let (Some(room), Ok(presence)) = (self.presence.remove(&request), result) {
                    let clients = presence.clients.into_keys().collect();
                    self.note(now, What::Presence { room: room.into(), clients });
                }
            }
            ToClient::Retracted { .. } | ToClient::History { .. } | ToClient::Order(_) => {}
        }
        Ok(())
    }

    /// Presence questions that were not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.presence.len()
    }

    fn pushed(&mut self, now: Time, bytes: &Bytes) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        let reply: Reply = serde_json::from_str(text).map_err(|e| format!("unreadable push {text}: {e}"))?;
        let push = reply.push.ok_or_else(|| format!("no push in {text}"))?;
        let room = push.channel;
        if let Some(publication) = push.publication {
            self.heard(now, &room, publication.offset, publication.data.get().to_owned())?;
        } else if let Some(join) = push.join {
            self.note(now, What::Joined { room, who: join.info.client });
        } else if let Some(leave) = push.leave {
            self.note(now, What::Left { room, who: leave.info.client });
        }
        Ok(())
    }

    fn heard(&mut self, now: Time, room: &str, offset: u64, data: String) -> Result<(), String> {
        if let Some(position) = &mut self.membership(room)?.position {
            position.offset = offset;
        }
        self.note(now, What::Message { room: room.to_owned(), offset, data });
        Ok(())
    }

    fn membership(&mut self, room: &str) -> Result<&mut Membership, String> {
        let index = self.index;
        self.rooms.get_mut(room).ok_or_else(|| format!("client {index} was told of {room}, where it never was"))
    }

    fn note(&mut self, now: Time, what: What) {
        let client = self.handle.as_ref().map(|h| h.id.clone()).unwrap_or_default();
        let at_us = u64::try_from(now.0.as_micros()).unwrap_or(u64::MAX);
        self.lines.push(Line { at_us, client, what });
    }
}

fn id(room: &str) -> RoomId {
    RoomId::new(room).expect("a room's name")
}
