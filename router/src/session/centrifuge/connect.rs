//! Opening the connection, and keeping it open: tokens, server-side subscriptions, expiry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use roomring_proto::client::{self, Answer, Connect, Connected, Push};
use roomring_proto::close::{CloseCode, ErrorCode};
use roomring_proto::{RoomId, Seq};

use super::{BAD_REQUEST, Centrifuge, Fatal, IN_FLIGHT, Membership, SERVER, Stage, Terms, seconds_until};
use crate::auth::{ConnectionToken, Lookup, NotKnown, Overrides, Rejected};
use crate::hub::api::{Client, ClientPosition, Codec, Command, Position, Subscribed};
use crate::hub::queue::ClientQueue;
use crate::session::{Output, User};

/// A connection whose connect command waits for its server-side subscriptions.
#[derive(Debug)]
pub(super) struct Opening {
    /// The connect command.
    request: u32,
    /// The client can refresh what it came in by.
    refreshes: bool,
    waiting: BTreeSet<RoomId>,
    granted: BTreeMap<String, client::Subscribed>,
    /// What follows the answer.
    held: Vec<Output>,
    /// What the client asked meanwhile.
    commands: Vec<client::Command>,
}

impl Opening {
    pub(super) fn hold(&mut self, output: Output) {
        self.held.push(output);
    }

    /// Takes a command for later; false if there are too many.
    pub(super) fn defer(&mut self, command: client::Command) -> bool {
        let fits = self.commands.len() < IN_FLIGHT;
        if fits {
            self.commands.push(command);
        }
        fits
    }
}

impl Centrifuge {
    pub(super) fn on_connect(
        &mut self,
        now: Instant,
        id: u32,
        connect: Connect,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        match self.identify(now, id, connect, out) {
            Ok((token, connect)) => self.on_identified(now, id, &connect, token, out),
            Err(NotConnected::Asked) => Ok(()),
            Err(refused) => self.not_connected(now, id, &refused, out),
        }
    }

    /// What others say of the client.
    pub(super) fn on_found(
        &mut self,
        now: Instant,
        found: Result<ConnectionToken, NotKnown>,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        // The commands that wait are of no use to a client that gets no further.
        let next = Stage::New { deadline: Some(now + self.limits.connect_timeout) };
        let Stage::Asking { request, connect, commands } = std::mem::replace(&mut self.stage, next) else {
            return Ok(());
        };
        let token = match found {
            Ok(token) => Ok(token),
            Err(NotKnown::Nobody) => self.unknown(&connect.data),
            Err(NotKnown::Told(error)) => Err(NotConnected::Told(error)),
            Err(NotKnown::Closed(code)) => Err(NotConnected::Closed(code)),
        };
        match token {
            Ok(token) => self.on_identified(now, request, &connect, token, out)?,
            Err(refused) => return self.not_connected(now, request, &refused, out),
        }
        if matches!(self.stage, Stage::Refused { .. }) {
            return Ok(());
        }
        commands.into_iter().try_for_each(|command| self.on_command(now, command, out))
    }

    fn not_connected(
        &mut self,
        now: Instant,
        id: u32,
        refused: &NotConnected,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        match refused {
            // The client closes and comes back: a close of ours could be taken for the end.
            NotConnected::Told(error) if error.temporary || *error == ErrorCode::TOKEN_EXPIRED => {
                out.push(self.reply(id, Err(*error)));
                self.stage = Stage::Refused { deadline: now + self.limits.connect_timeout };
                Ok(())
            }
            NotConnected::Told(error) => {
                out.push(self.reply(id, Err(*error)));
                Err(BAD_REQUEST)
            }
            NotConnected::Closed(code) => Err(Fatal(*code)),
            NotConnected::Asked => Ok(()),
        }
    }

    fn on_identified(
        &mut self,
        now: Instant,
        id: u32,
        connect: &Connect,
        token: ConnectionToken,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        if token.rooms.len() > self.limits.rooms {
            return Err(Fatal(CloseCode::CHANNEL_LIMIT));
        }
        let unix = self.clock.unix(now);
        if token.signed && self.policy.roster.revokes(token.user.as_str(), token.issued, unix) {
            tracing::debug!(client = %self.id, user = token.user.as_str(), "connect refused: the token was revoked");
            out.push(self.reply(id, Err(ErrorCode::TOKEN_EXPIRED)));
            self.stage = Stage::Refused { deadline: now + self.limits.connect_timeout };
            return Ok(());
        }
        let client = Arc::new(Client {
            id: self.id.to_string(),
            user: token.user.into_string(),
            conn_info: token.info,
            codec: Codec::Centrifuge(self.transport.format),
            queue: ClientQueue::new(self.limits.queue_bytes).answering(self.transport.format),
        });
        let entry = self.policy.roster.enter(&client, unix).map_err(Fatal)?;
        tracing::debug!(client = %self.id, user = %client.user, sdk = %connect.name, "connected");
        let first = self.limits.ping.mul_f64(0.5 + self.ping_phase.clamp(0.0, 1.0) / 2.0);
        let expires = token.expires.and_then(|at| self.clock.instant(at));
        self.stage =
            Stage::Open { client: client.clone(), next_ping: now + first, pong_due: None, expires, _entry: entry };
        let waiting = token.rooms.keys().cloned().collect();
        let opening = Opening {
            request: id,
            refreshes: token.signed,
            waiting,
            granted: BTreeMap::new(),
            held: Vec::new(),
            commands: Vec::new(),
        };
        self.opening = Some(Box::new(opening));
        client.queue.hold();
        for (room, overrides) in token.rooms {
            match self.join_for(&client, room, overrides, connect) {
                Ok(command) => out.push(Output::Hub(command)),
                Err(error) => return self.not_opened(error, out),
            }
        }
        self.open_if_ready(now, out)
    }

    /// Who the client is, by its token or as far as it is believed; others may have to be asked.
    fn identify(
        &mut self,
        now: Instant,
        request: u32,
        connect: Connect,
        out: &mut Vec<Output>,
    ) -> Result<(ConnectionToken, Connect), NotConnected> {
        let auth = &self.policy.auth;
        if let Some(tokens) = auth.tokens.as_ref().filter(|_| !connect.token.is_empty()) {
            let token = tokens.connection(&connect.token, self.clock.unix(now)).map_err(|e| {
                tracing::debug!(client = %self.id, error = %e, "connect refused");
                match e {
                    Rejected::Expired => NotConnected::Told(ErrorCode::TOKEN_EXPIRED),
                    Rejected::Later => NotConnected::Told(ErrorCode::INTERNAL),
                    Rejected::Invalid(_) => NotConnected::Closed(CloseCode::INVALID_TOKEN),
                }
            })?;
            return Ok((token, connect));
        }
        if let Some(outside) = auth.outside.as_ref().filter(|outside| outside.asks(&self.shown)).cloned() {
            let (shown, client) = (std::mem::take(&mut self.shown), self.id.to_string());
            let connect = Box::new(connect);
            let asked = connect.clone();
            let lookup = Box::pin(async move { outside.identify(&shown, &client, &asked).await });
            out.push(Output::Lookup(Lookup(lookup)));
            self.stage = Stage::Asking { request, connect, commands: Vec::new() };
            return Err(NotConnected::Asked);
        }
        Ok((self.unknown(&connect.data)?, connect))
    }

    /// A client of whom nobody knows anything.
    fn unknown(&mut self, data: &[u8]) -> Result<ConnectionToken, NotConnected> {
        let auth = &self.policy.auth;
        let user = if auth.insecure_names {
            let named = User::of_connect_data(data).map_err(|e| {
                tracing::debug!(client = %self.id, error = %e, "connect refused");
                NotConnected::Told(ErrorCode::BAD_REQUEST)
            })?;
            named.unwrap_or_else(|| std::mem::take(&mut self.user))
        } else if auth.anonymous {
            User::default()
        } else {
            return Err(NotConnected::Closed(CloseCode::BAD_REQUEST));
        };
        Ok(ConnectionToken::unsigned(user))
    }

    /// Joins a room on the client's behalf.
    fn join_for(
        &mut self,
        client: &Arc<Client>,
        room: RoomId,
        overrides: Overrides,
        connect: &Connect,
    ) -> Result<Command, ErrorCode> {
        let options = self.policy.namespaces.of(&room)?;
        let (recoverable, join_leave) = super::rooms::granted(options, overrides, false, false);
        let known = connect.subs.get(room.as_str()).filter(|known| known.recover && recoverable);
        let recover = known.map(|known| ClientPosition { epoch: known.epoch.clone(), seq: Seq(known.offset) });
        let terms = Terms { recoverable, server: true, expires: None };
        self.rooms.insert(room.clone(), Membership::Joining { request: SERVER, terms });
        let client = client.clone();
        Ok(Command::Subscribe { request: SERVER, room, client, join_leave, recover, reject_unrecovered: false })
    }

    /// The business server wants the client in a room.
    pub(super) fn on_told_to_join(&mut self, room: RoomId, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let Stage::Open { client, .. } = &self.stage else { return Ok(()) };
        if self.rooms.contains_key(&room) {
            return Ok(());
        }
        if self.rooms.len() >= self.limits.rooms {
            tracing::debug!(client = %self.id, %room, "not joined as told: the client is in too many rooms");
            return Ok(());
        }
        let client = client.clone();
        match self.join_for(&client, room.clone(), Overrides::default(), &Connect::default()) {
            Ok(command) => {
                if let Some(opening) = &mut self.opening {
                    opening.waiting.insert(room);
                }
                out.push(Output::Hub(command));
            }
            Err(error) => tracing::debug!(client = %self.id, %room, error = error.message, "not joined as told"),
        }
        Ok(())
    }

    /// A room that was joined on the client's behalf, or could not be.
    pub(super) fn on_joined_for(
        &mut self,
        now: Instant,
        room: &RoomId,
        result: Result<Subscribed, ErrorCode>,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let Some(Membership::Joining { request: SERVER, terms }) = self.rooms.get(room).copied() else {
            return Ok(());
        };
        let granted = match result {
            Ok(granted) => granted,
            Err(error) if self.opening.is_some() => return self.not_opened(error, out),
            Err(error) => {
                tracing::debug!(client = %self.id, %room, error = error.message, "not joined as told");
                self.rooms.remove(room);
                return Ok(());
            }
        };
        self.rooms.insert(room.clone(), Membership::Joined(terms));
        let Some(opening) = &mut self.opening else {
            let (Position { epoch, seq }, recoverable) = (granted.position, terms.recoverable);
            let push = Push::Subscribe { epoch, offset: seq, recoverable };
            out.push(Output::Write(self.transport.format.push(room.as_str(), &push)));
            return Ok(());
        };
        opening.waiting.remove(room);
        opening.granted.insert(room.as_str().to_owned(), super::rooms::subscribed(granted, terms, now));
        self.open_if_ready(now, out)
    }

    /// A connection without one of its rooms is none.
    fn not_opened(&mut self, error: ErrorCode, out: &mut Vec<Output>) -> Result<(), Fatal> {
        match self.opening.take() {
            Some(opening) if !error.temporary => {
                out.push(self.reply(opening.request, Err(error)));
                Err(BAD_REQUEST)
            }
            _ => Err(Fatal(CloseCode::INTERNAL_SERVER_ERROR)),
        }
    }

    /// Answers the connect command once every server-side subscription is there, and then whatever waited for that.
    fn open_if_ready(&mut self, now: Instant, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let Some(opening) = self.opening.take_if(|opening| opening.waiting.is_empty()) else { return Ok(()) };
        let Stage::Open { client, expires, .. } = &self.stage else { return Ok(()) };
        client.queue.release();
        let connected = Connected {
            client: client.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            // Others that are asked are asked again, when the client comes back.
            ttl: expires.filter(|_| opening.refreshes).map(|at| seconds_until(now, at)),
            subs: opening.granted,
            // Announced in whole seconds; a little more than true does no harm, less would.
            ping: match self.transport.native_pings {
                true => 0,
                false => u32::try_from(self.limits.ping.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX),
            },
            pong: !self.transport.native_pings,
            session: self.transport.session.map(|secret| format!("{secret:032x}")).unwrap_or_default(),
            node: self.transport.session.map(|_| self.policy.router.clone()).unwrap_or_default(),
        };
        out.push(self.reply(opening.request, Ok(Answer::Connect(connected))));
        out.extend(opening.held);
        opening.commands.into_iter().try_for_each(|command| self.on_command(now, command, out))
    }

    /// A new token for the connection.
    pub(super) fn on_refresh(
        &mut self,
        now: Instant,
        id: u32,
        token: &str,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let Stage::Open { client, expires: expires @ Some(_), .. } = &mut self.stage else { return Err(BAD_REQUEST) };
        let Some(tokens) = self.policy.auth.tokens.as_ref().filter(|_| !token.is_empty()) else {
            return Err(BAD_REQUEST);
        };
        let token = tokens.connection(token, self.clock.unix(now)).map_err(|e| {
            tracing::debug!(client = %self.id, error = %e, "refresh refused");
            match e {
                Rejected::Expired => Err(CloseCode::CONNECTION_EXPIRED),
                Rejected::Invalid(_) => Err(CloseCode::INVALID_TOKEN),
                Rejected::Later => Ok(ErrorCode::INTERNAL),
            }
        });
        let token = match token {
            Ok(token) => token,
            Err(Err(code)) => return Err(Fatal(code)),
            Err(Ok(error)) => {
                out.push(self.reply(id, Err(error)));
                return Ok(());
            }
        };
        if token.user.as_str() != client.user {
            return Err(Fatal(CloseCode::INVALID_TOKEN));
        }
        if self.policy.roster.revokes(&client.user, token.issued, self.clock.unix(now)) {
            return Err(Fatal(CloseCode::CONNECTION_EXPIRED));
        }
        *expires = token.expires.and_then(|at| self.clock.instant(at));
        let ttl = expires.map(|at| seconds_until(now, at));
        out.push(self.reply(id, Ok(Answer::Refresh { ttl })));
        Ok(())
    }
}

/// Why a connect command failed, or why it is not answered yet.
enum NotConnected {
    /// Others are asked first.
    Asked,
    /// The client is told.
    Told(ErrorCode),
    Closed(CloseCode),
}
