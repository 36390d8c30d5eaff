//! Opening the connection, and keeping it open: tokens, server-side subscriptions, expiry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use roomring_proto::client::{self, Answer, Connect, Connected};
use roomring_proto::close::{CloseCode, ErrorCode};
use roomring_proto::{RoomId, Seq};

use super::{BAD_REQUEST, Centrifuge, Fatal, IN_FLIGHT, Membership, SERVER, Stage, Terms, seconds_until};
use crate::auth::{ConnectionToken, Overrides, Rejected};
use crate::hub::api::{Client, ClientPosition, Codec, Command, Subscribed};
use crate::hub::queue::ClientQueue;
use crate::session::{Output, User};

/// A connection whose connect command waits for its server-side subscriptions.
#[derive(Debug)]
pub(super) struct Opening {
    /// The connect command.
    request: u32,
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
        let token = match self.identify(now, &connect) {
            Ok(token) => token,
            // The client closes and comes back with another: a close of ours could be taken for the end.
            Err(NotConnected::Told(ErrorCode::TOKEN_EXPIRED)) => {
                out.push(self.reply(id, Err(ErrorCode::TOKEN_EXPIRED)));
                self.stage = Stage::Refused { deadline: now + self.limits.connect_timeout };
                return Ok(());
            }
            Err(NotConnected::Told(error)) => {
                out.push(self.reply(id, Err(error)));
                return Err(BAD_REQUEST);
            }
            Err(NotConnected::Closed(code)) => return Err(Fatal(code)),
        };
        if token.rooms.len() > self.limits.rooms {
            return Err(Fatal(CloseCode::CHANNEL_LIMIT));
        }
        let client = Arc::new(Client {
            id: self.id.to_string(),
            user: token.user.into_string(),
            conn_info: token.info,
            codec: Codec::Centrifuge(self.transport.format),
            queue: ClientQueue::new(self.limits.queue_bytes).answering(self.transport.format),
        });
        tracing::debug!(client = %self.id, user = %client.user, sdk = %connect.name, "connected");
        let first = self.limits.ping.mul_f64(0.5 + self.ping_phase.clamp(0.0, 1.0) / 2.0);
        let expires = token.expires.and_then(|at| self.clock.instant(at));
        self.stage = Stage::Open { client: client.clone(), next_ping: now + first, pong_due: None, expires };
        let waiting = token.rooms.keys().cloned().collect();
        let opening =
            Opening { request: id, waiting, granted: BTreeMap::new(), held: Vec::new(), commands: Vec::new() };
        self.opening = Some(Box::new(opening));
        client.queue.hold();
        for (room, overrides) in token.rooms {
            match self.join_for(&client, room, overrides, &connect) {
                Ok(command) => out.push(Output::Hub(command)),
                Err(error) => return self.not_opened(error, out),
            }
        }
        self.open_if_ready(now, out)
    }

    /// Who the client is, by its token or as far as it is believed.
    fn identify(&mut self, now: Instant, connect: &Connect) -> Result<ConnectionToken, NotConnected> {
        let auth = &self.policy.auth;
        if let Some(tokens) = auth.tokens.as_ref().filter(|_| !connect.token.is_empty()) {
            return tokens.connection(&connect.token, self.clock.unix(now)).map_err(|e| {
                tracing::debug!(client = %self.id, error = %e, "connect refused");
                match e {
                    Rejected::Expired => NotConnected::Told(ErrorCode::TOKEN_EXPIRED),
                    Rejected::Invalid(_) => NotConnected::Closed(CloseCode::INVALID_TOKEN),
                }
            });
        }
        let user = if auth.insecure_names {
            let named = User::of_connect_data(&connect.data).map_err(|e| {
                tracing::debug!(client = %self.id, error = %e, "connect refused");
                NotConnected::Told(ErrorCode::BAD_REQUEST)
            })?;
            named.unwrap_or_else(|| std::mem::take(&mut self.user))
        } else if auth.anonymous {
            User::default()
        } else {
            return Err(NotConnected::Closed(CloseCode::BAD_REQUEST));
        };
        Ok(ConnectionToken { user, info: Bytes::new(), expires: None, rooms: BTreeMap::new() })
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
            Err(error) => return self.not_opened(error, out),
        };
        self.rooms.insert(room.clone(), Membership::Joined(terms));
        if let Some(opening) = &mut self.opening {
            opening.waiting.remove(room);
            opening.granted.insert(room.as_str().to_owned(), super::rooms::subscribed(granted, terms, now));
        }
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
            ttl: expires.map(|at| seconds_until(now, at)),
            subs: opening.granted,
            // Announced in whole seconds; a little more than true does no harm, less would.
            ping: match self.transport.native_pings {
                true => 0,
                false => u32::try_from(self.limits.ping.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX),
            },
            pong: !self.transport.native_pings,
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
            Fatal(match e {
                Rejected::Expired => CloseCode::CONNECTION_EXPIRED,
                Rejected::Invalid(_) => CloseCode::INVALID_TOKEN,
            })
        })?;
        if token.user.as_str() != client.user {
            return Err(Fatal(CloseCode::INVALID_TOKEN));
        }
        *expires = token.expires.and_then(|at| self.clock.instant(at));
        let ttl = expires.map(|at| seconds_until(now, at));
        out.push(self.reply(id, Ok(Answer::Refresh { ttl })));
        Ok(())
    }
}

/// Why a connect command failed.
enum NotConnected {
    /// The client is told.
    Told(ErrorCode),
    Closed(CloseCode),
}
