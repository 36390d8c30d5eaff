//! What a client asks of rooms: joining and leaving, publishing, looking into them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roomring_proto::client::{self, Answer, Format, Push, Subscribe, json};
use roomring_proto::close::{CloseCode, ErrorCode};
use roomring_proto::{RoomId, Seq};

use super::{Asked, BAD_REQUEST, Centrifuge, Fatal, Membership, SERVER, Stage, Terms, ToHub, seconds_until};
use crate::auth::{Overrides, Rejected, Unix};
use crate::hub::api::{self, Client, ClientPosition, Command};
use crate::namespaces::{self, Join, Options, Payload, Publish};
use crate::session::Output;

/// How long after its expiry a connection or membership may still be refreshed.
pub(super) const EXPIRY_GRACE: Duration = Duration::from_secs(25);

/// A channel's name as a room, or why it is none.
pub(super) type Named = Result<RoomId, ErrorCode>;

/// An empty name breaks the protocol, one that breaks our rules is an error.
pub(super) fn named(channel: &str) -> Result<Named, Fatal> {
    if channel.is_empty() {
        return Err(BAD_REQUEST);
    }
    Ok(RoomId::new(channel).map_err(|_| ErrorCode::BAD_REQUEST))
}

/// Whether a member is to recover, and is told of joins and leaves, by what it asked for.
pub(super) fn granted(options: &Options, overrides: Overrides, recover: bool, join_leave: bool) -> (bool, bool) {
    let recoverable = overrides.force_recovery == Some(true) || options.recovery.holds(recover);
    let forced = overrides.force_join_leave == Some(true);
    let told = match overrides.join_leave {
        Some(may) => may && join_leave,
        None => options.join_leave.holds(join_leave),
    };
    (recoverable && options.has_history(), forced || told)
}

/// An answer to a subscribe.
pub(super) fn subscribed(s: api::Subscribed, terms: Terms, now: Instant) -> client::Subscribed {
    client::Subscribed {
        ttl: terms.expires.map(|at| seconds_until(now, at)),
        recoverable: terms.recoverable,
        epoch: s.position.epoch,
        offset: s.position.seq,
        was_recovering: s.was_recovering,
        recovered: s.recovered,
        publications: s.publications,
    }
}

/// What a token gives to a subscription.
#[derive(Default)]
pub(super) struct Grant {
    expires: Option<Unix>,
    overrides: Overrides,
}

impl Centrifuge {
    pub(super) fn on_subscribe(
        &mut self,
        now: Instant,
        id: u32,
        client: Arc<Client>,
        wanted: &Subscribe,
    ) -> Result<ToHub, Fatal> {
        let room = match named(&wanted.channel)? {
            Ok(room) => room,
            Err(error) => return Ok(Err(error)),
        };
        match self.rooms.get(&room) {
            Some(Membership::Joining { .. } | Membership::Joined(_)) => return Ok(Err(ErrorCode::ALREADY_SUBSCRIBED)),
            Some(Membership::Dropped | Membership::Ending(_)) => {}
            None if self.rooms.len() >= self.limits.rooms => return Ok(Err(ErrorCode::LIMIT_EXCEEDED)),
            None => {}
        }
        if wanted.tags_filter {
            return Ok(Err(ErrorCode::BAD_REQUEST));
        }
        let grant = match self.may_join(now, &client, &room, &wanted.token)? {
            Ok(grant) => grant,
            Err(error) => return Ok(Err(error)),
        };
        let options = match self.policy.namespaces.of(&room) {
            Ok(options) => options,
            Err(error) => return Ok(Err(error)),
        };
        if options.payload == Payload::Binary && self.transport.format == Format::Json {
            return Ok(Err(ErrorCode::BAD_REQUEST));
        }
        let asked = wanted.recoverable || wanted.recover;
        let (recoverable, join_leave) = granted(options, grant.overrides, asked, wanted.join_leave);
        let recover = (wanted.recover && recoverable)
            .then(|| ClientPosition { epoch: wanted.epoch.clone(), seq: Seq(wanted.offset) });
        let expires = grant.expires.and_then(|at| self.clock.instant(at));
        let terms = Terms { recoverable, server: false, expires };
        self.rooms.insert(room.clone(), Membership::Joining { request: id, terms });
        self.note_expiry();
        Ok(Ok((
            Asked::Subscribe,
            Command::Subscribe {
                request: id,
                room,
                client,
                join_leave,
                recover,
                reject_unrecovered: wanted.flag & Subscribe::REJECT_UNRECOVERED != 0,
            },
        )))
    }

    /// Whether the client may join, by the room's rules or by a token, which grants it by itself.
    pub(super) fn may_join(
        &self,
        now: Instant,
        client: &Client,
        room: &RoomId,
        token: &str,
    ) -> Result<Result<Grant, ErrorCode>, Fatal> {
        let options = match self.policy.namespaces.of(room) {
            Ok(options) => options,
            Err(error) => return Ok(Err(error)),
        };
        let unix = self.clock.unix(now);
        if self.policy.roster.bans_from(&client.user, room, unix) {
            return Ok(Err(ErrorCode::PERMISSION_DENIED));
        }
        let Some(tokens) = self.policy.auth.tokens.as_ref().filter(|_| !token.is_empty()) else {
            let open = match options.join {
                Join::Anyone => true,
                Join::Users => !client.user.is_empty(),
                Join::Token => false,
            };
            let may = open && namespaces::admits(room, &client.user);
            return Ok(if may { Ok(Grant::default()) } else { Err(ErrorCode::PERMISSION_DENIED) });
        };
        match tokens.subscription(token, unix) {
            Ok(token) if token.room != *room || token.user.as_str() != client.user => {
                Err(Fatal(CloseCode::INVALID_TOKEN))
            }
            Ok(token) if self.policy.roster.revokes(&client.user, token.issued, unix) => {
                Ok(Err(ErrorCode::TOKEN_EXPIRED))
            }
            Ok(token) if token.client.as_ref().is_some_and(|id| *id != client.id) => {
                Ok(Err(ErrorCode::PERMISSION_DENIED))
            }
            Ok(token) => Ok(Ok(Grant { expires: token.expires, overrides: token.overrides })),
            Err(Rejected::Expired) => Ok(Err(ErrorCode::TOKEN_EXPIRED)),
            Err(Rejected::Later) => Ok(Err(ErrorCode::INTERNAL)),
            Err(e @ Rejected::Invalid(_)) => {
                tracing::debug!(client = %self.id, error = %e, "subscribe refused");
                Ok(Err(ErrorCode::PERMISSION_DENIED))
            }
        }
    }

    /// Always succeeds, also for a room that is not joined or can't exist.
    pub(super) fn on_unsubscribe(
        &mut self,
        id: u32,
        client: Arc<Client>,
        channel: &str,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        if channel.is_empty() {
            return Err(BAD_REQUEST);
        }
        match self.rooms.remove_entry(channel) {
            // Also beyond the limit of commands in flight: a membership must be possible to end.
            Some((room, Membership::Joining { .. } | Membership::Joined(_))) => {
                self.in_flight.insert(id, Asked::Unsubscribe);
                out.push(Output::Hub(Command::Unsubscribe { request: Some(id), room, client }));
            }
            Some((_, Membership::Dropped | Membership::Ending(_))) | None => {
                out.push(self.reply(id, Ok(Answer::Unsubscribe)));
            }
        }
        self.note_expiry();
        Ok(())
    }

    /// Whether the client may publish this, by the room's rules.
    pub(super) fn may_publish(
        &self,
        now: Instant,
        client: &Client,
        room: &RoomId,
        options: &Options,
        data: &[u8],
    ) -> Result<(), ErrorCode> {
        let may = match options.publish {
            // Members that are banned are members no longer.
            Publish::Anyone => {
                namespaces::admits(room, &client.user)
                    && !self.policy.roster.bans_from(&client.user, room, self.clock.unix(now))
            }
            Publish::Members => !matches!(self.rooms.get(room), None | Some(Membership::Ending(_))),
            Publish::Nobody => false,
        };
        if !may {
            return Err(ErrorCode::PERMISSION_DENIED);
        }
        if options.max_payload.is_some_and(|most| data.len() as u64 > most.0) {
            return Err(ErrorCode::LIMIT_EXCEEDED);
        }
        Ok(())
    }

    /// Checks a publish.
    pub(super) fn publish(
        &self,
        now: Instant,
        client: &Client,
        room: Named,
        data: Bytes,
        id: String,
    ) -> Result<(RoomId, Bytes, String), ErrorCode> {
        let room = room?;
        if data.is_empty() {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let options = self.policy.namespaces.of(&room)?;
        self.may_publish(now, client, &room, options, &data)?;
        let data = match options.payload {
            Payload::Json => self.json(data)?,
            Payload::Binary => data,
        };
        if !self.policy.rates.take_of_room(&room) {
            return Err(ErrorCode::TOO_MANY_REQUESTS);
        }
        Ok((room, data, id))
    }

    /// A payload that members of either encoding can be given: one that came in JSON was read as such already.
    pub(super) fn json(&self, data: Bytes) -> Result<Bytes, ErrorCode> {
        match self.transport.format {
            Format::Json => Ok(data),
            Format::Protobuf => json::embeddable(&data).map_err(|_| ErrorCode::BAD_REQUEST),
        }
    }

    /// A room that the client may look into.
    fn joined(&self, room: Named) -> Result<(RoomId, &Options), ErrorCode> {
        let room = room?;
        let options = self.policy.namespaces.of(&room)?;
        if self.rooms.contains_key(&room) { Ok((room, options)) } else { Err(ErrorCode::PERMISSION_DENIED) }
    }

    pub(super) fn on_presence(
        &self,
        id: u32,
        client: Arc<Client>,
        channel: &str,
        asked: Asked,
    ) -> Result<ToHub, Fatal> {
        let room = self.joined(named(channel)?).and_then(|(room, options)| match options.presence {
            true => Ok(room),
            false => Err(ErrorCode::NOT_AVAILABLE),
        });
        let stats_only = asked == Asked::PresenceStats;
        Ok(room.map(|room| (asked, Command::Presence { request: id, room, client, stats_only })))
    }

    pub(super) fn on_history(&self, id: u32, client: Arc<Client>, wanted: client::History) -> Result<ToHub, Fatal> {
        let room = self.joined(named(&wanted.channel)?).and_then(|(room, options)| match options.has_history() {
            true => Ok(room),
            false => Err(ErrorCode::NOT_AVAILABLE),
        });
        // Nothing comes before the first.
        if wanted.reverse && matches!(wanted.since, Some((0, _))) {
            return Ok(Err(ErrorCode::BAD_REQUEST));
        }
        let since = wanted.since.map(|(offset, epoch)| ClientPosition { epoch, seq: Seq(offset) });
        let (limit, reverse) = (wanted.limit, wanted.reverse);
        Ok(room.map(|room| (Asked::History, Command::History { request: id, room, client, limit, reverse, since })))
    }

    /// A new token for a membership.
    pub(super) fn on_sub_refresh(
        &mut self,
        now: Instant,
        client: &Client,
        channel: &str,
        token: &str,
    ) -> Result<Result<Answer, ErrorCode>, Fatal> {
        let room = match named(channel)? {
            Ok(room) => room,
            Err(error) => return Ok(Err(error)),
        };
        let Some(tokens) = &self.policy.auth.tokens else { return Ok(Err(ErrorCode::NOT_AVAILABLE)) };
        let terms = match self.rooms.get_mut(&room) {
            Some(Membership::Joining { terms, .. } | Membership::Joined(terms)) => terms,
            Some(Membership::Dropped | Membership::Ending(_)) | None => return Ok(Err(ErrorCode::PERMISSION_DENIED)),
        };
        if terms.expires.is_none() || token.is_empty() {
            return Err(BAD_REQUEST);
        }
        let renewed = match tokens.subscription(token, self.clock.unix(now)) {
            Ok(renewed) => renewed,
            Err(Rejected::Expired) => return Ok(Err(ErrorCode::EXPIRED)),
            Err(Rejected::Later) => return Ok(Err(ErrorCode::INTERNAL)),
            Err(Rejected::Invalid(_)) => return Err(Fatal(CloseCode::INVALID_TOKEN)),
        };
        if renewed.room != room || renewed.user.as_str() != client.user {
            return Err(Fatal(CloseCode::INVALID_TOKEN));
        }
        if self.policy.roster.revokes(&client.user, renewed.issued, self.clock.unix(now)) {
            return Ok(Err(ErrorCode::EXPIRED));
        }
        terms.expires = renewed.expires.and_then(|at| self.clock.instant(at));
        let ttl = terms.expires.map(|at| seconds_until(now, at));
        self.note_expiry();
        Ok(Ok(Answer::SubRefresh { ttl }))
    }

    pub(super) fn on_dropped(&mut self, room: RoomId, code: CloseCode, out: &mut Vec<Output>) -> Result<(), Fatal> {
        // If the client has left meanwhile, or left and come back, this is about a membership that it no longer has: told of
        // it, an SDK would subscribe again.
        let Some(Membership::Joined(terms)) = self.rooms.get(&room) else { return Ok(()) };
        let over = code == CloseCode::UNSUBSCRIBED;
        if terms.server && !over {
            // No SDK subscribes by itself to what it did not ask for: it has to connect again.
            return Err(Fatal(CloseCode::INSUFFICIENT_STATE));
        }
        let push = self.transport.format.push(room.as_str(), &Push::Unsubscribe(code));
        self.write(push, out);
        if over {
            self.rooms.remove(&room);
        } else {
            self.rooms.insert(room, Membership::Dropped);
        }
        self.note_expiry();
        Ok(())
    }

    /// Ends memberships that were not refreshed in time. The client is told once nothing more comes of them.
    pub(super) fn expire_rooms(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Stage::Open { client, .. } = &self.stage else { return };
        for (room, membership) in self.rooms.iter_mut() {
            if let Membership::Joined(Terms { expires: Some(expires), .. }) = membership
                && *expires + EXPIRY_GRACE <= now
            {
                *membership = Membership::Ending(CloseCode::UNSUBSCRIBED_EXPIRED);
                let (room, client) = (room.clone(), client.clone());
                out.push(Output::Hub(Command::Unsubscribe { request: Some(SERVER), room, client }));
            }
        }
        self.note_expiry();
    }

    /// The hub let go of a membership that the server has ended.
    pub(super) fn on_ended(&mut self, room: &RoomId, out: &mut Vec<Output>) {
        if let Some(Membership::Ending(code)) = self.rooms.get(room).copied() {
            self.rooms.remove(room);
            self.write(self.transport.format.push(room.as_str(), &Push::Unsubscribe(code)), out);
        }
    }

    /// The business server wants the client out of a room.
    pub(super) fn on_told_to_leave(&mut self, room: &RoomId, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let Stage::Open { client, .. } = &self.stage else { return Ok(()) };
        match self.rooms.get_mut(room) {
            // The answer to its connect command names the room, or should have.
            Some(Membership::Joining { request: SERVER, .. }) => return Err(Fatal(CloseCode::INSUFFICIENT_STATE)),
            Some(membership @ (Membership::Joining { .. } | Membership::Joined(_))) => {
                *membership = Membership::Ending(CloseCode::UNSUBSCRIBED);
                let (room, client) = (room.clone(), client.clone());
                out.push(Output::Hub(Command::Unsubscribe { request: Some(SERVER), room, client }));
            }
            Some(membership @ Membership::Dropped) => {
                *membership = Membership::Ending(CloseCode::UNSUBSCRIBED);
                self.on_ended(room, out);
            }
            Some(Membership::Ending(_)) | None => {}
        }
        self.note_expiry();
        Ok(())
    }

    /// Memberships changed: when the first of them is over.
    pub(super) fn note_expiry(&mut self) {
        let expiries = self.rooms.values().filter_map(|membership| match membership {
            Membership::Joined(terms) => terms.expires,
            Membership::Joining { .. } | Membership::Ending(_) | Membership::Dropped => None,
        });
        self.room_expires = expiries.min().map(|at| at + EXPIRY_GRACE);
    }
}
