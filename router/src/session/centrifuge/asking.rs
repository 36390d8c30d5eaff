//! What the business server is to allow first. A command that waits for it holds up what its client says about the same room
//! afterwards, and nothing else.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use roomring_proto::RoomId;
use roomring_proto::client::{self, Format, Request};
use roomring_proto::close::ErrorCode;

use super::{Centrifuge, Fatal, Membership};
use crate::auth::{Act, Question, Verdict};
use crate::hub::api::Client;
use crate::namespaces::Payload;
use crate::session::rpc::{self, PublishCall};
use crate::session::{IN_FLIGHT, Machine, Output};

/// A room that the business server is asked about.
#[derive(Debug)]
pub(super) struct Asking {
    /// What the client wants.
    command: client::Command,
    /// What it wanted of the room since.
    held: Vec<client::Command>,
}

impl Centrifuge {
    /// The command of this id waits for the business server.
    pub(super) fn waits(&self, id: u32) -> bool {
        self.asking.values().any(|a| a.command.id == id || a.held.iter().any(|held| held.id == id))
    }

    /// Commands that wait for the business server.
    fn waiting(&self) -> usize {
        self.asking.values().map(|asking| 1 + asking.held.len()).sum()
    }

    /// Lets the business server be asked about a command that it has to allow, and holds one whose room it is being asked about.
    /// Any other comes back.
    pub(super) fn ask_first(
        &mut self,
        now: Instant,
        client: &Arc<Client>,
        id: u32,
        request: Request,
        out: &mut Vec<Output>,
    ) -> Option<Request> {
        if !self.policy.namespaces.asks() {
            return Some(request);
        }
        let Some(room) = room_of(&request) else { return Some(request) };
        if !self.asking.contains_key(&room) {
            let Some(question) = self.question(now, client, &room, &request) else { return Some(request) };
            if self.is_full(client, id) {
                out.push(self.reply(id, Err(ErrorCode::TOO_MANY_REQUESTS)));
                return None;
            }
            out.push(Output::Ask(question));
            let command = client::Command { id, request };
            self.asking.insert(room, Box::new(Asking { command, held: Vec::new() }));
            return None;
        }
        if self.is_full(client, id) && !matches!(request, Request::Unsubscribe { .. }) {
            out.push(self.reply(id, Err(ErrorCode::TOO_MANY_REQUESTS)));
        } else if let Some(asking) = self.asking.get_mut(&room) {
            asking.held.push(client::Command { id, request });
        }
        None
    }

    fn is_full(&self, client: &Client, id: u32) -> bool {
        let unanswered = self.in_flight.len() + client.queue.unanswered(id).0 + self.waiting();
        unanswered >= IN_FLIGHT || self.policy.memory.is_short()
    }

    /// What the business server is to be asked; `None` if nothing, or if the answer is no without it.
    fn question(&self, now: Instant, client: &Client, room: &RoomId, request: &Request) -> Option<Question> {
        let options = self.policy.namespaces.of(room).ok()?;
        let permits = self.policy.auth.permits.as_ref()?;
        let (act, data) = match request {
            Request::Subscribe(wanted) => {
                let by_token = self.policy.auth.tokens.is_some() && !wanted.token.is_empty();
                let member = matches!(self.rooms.get(room), Some(Membership::Joining { .. } | Membership::Joined(_)));
                let full = self.rooms.len() >= self.limits.rooms && !self.rooms.contains_key(room);
                if by_token || member || full || !matches!(self.may_join(now, client, room, ""), Ok(Ok(_))) {
                    return None;
                }
                (Act::Subscribe, None)
            }
            Request::Publish { data, .. } => (Act::Publish, Some(data.clone())),
            Request::Rpc { data, .. } => (Act::Publish, Some(PublishCall::parse(data).ok()?.data)),
            _ => return None,
        };
        if !options.ask.contains(&act) {
            return None;
        }
        let data = match data {
            Some(data) if data.is_empty() => return None,
            Some(data) => {
                self.may_publish(now, client, room, options, &data).ok()?;
                Some(self.payload(data, options.payload)?)
            }
            None => None,
        };
        Some(permits.question(act, room.clone(), client, data.as_ref()))
    }

    fn payload(&self, data: Bytes, payload: Payload) -> Option<Bytes> {
        match payload {
            Payload::Json if self.transport.format == Format::Protobuf => self.json(data).ok(),
            Payload::Json | Payload::Binary => Some(data),
        }
    }

    /// The business server's answer.
    pub(super) fn on_verdict(
        &mut self,
        now: Instant,
        room: &RoomId,
        verdict: Verdict,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let Some(client) = self.client().cloned() else { return Ok(()) };
        let Some(asking) = self.asking.remove(room) else { return Ok(()) };
        let Asking { command: client::Command { id, request }, held } = *asking;
        match verdict {
            // By the room's rules it may have become otherwise meanwhile.
            Verdict::Yes => self.execute(now, client.clone(), client.queue.unanswered(id).0, (id, request), out)?,
            Verdict::No(error) => out.push(self.reply(id, Err(error))),
            Verdict::Closed(code) => return Err(Fatal(code)),
        }
        for client::Command { id, request } in held {
            // The first of them that has to be allowed holds up the rest again.
            if let Some(request) = self.ask_first(now, &client, id, request, out) {
                self.execute(now, client.clone(), client.queue.unanswered(id).0, (id, request), out)?;
            }
        }
        Ok(())
    }
}

/// The room that a command is about.
fn room_of(request: &Request) -> Option<RoomId> {
    let channel = match request {
        Request::Subscribe(wanted) => &wanted.channel,
        Request::Unsubscribe { channel }
        | Request::Publish { channel, .. }
        | Request::Presence { channel }
        | Request::PresenceStats { channel }
        | Request::SubRefresh { channel, .. } => channel,
        Request::History(wanted) => &wanted.channel,
        Request::Rpc { method, data } if method == rpc::PUBLISH => {
            return PublishCall::parse(data).ok().map(|c| c.room);
        }
        Request::Connect(_)
        | Request::Rpc { .. }
        | Request::Refresh { .. }
        | Request::Ping
        | Request::Send
        | Request::Pong => return None,
    };
    RoomId::new(channel).ok()
}
