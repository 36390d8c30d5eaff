//! The business server's HTTP API, under `/api/`. Methods and fields are named as Centrifugo's users know them.

mod answers;
mod caller;
mod calls;
mod key;
mod problem;

use std::time::{Duration, Instant};

use answers::{Empty, Outcome, result};
use caller::Caller;
use calls::{Batch, Call, METHODS};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Request, StatusCode};
use problem::Problem;
use roomring_control::denials::{Denial, Denied};
use roomring_proto::close::ErrorCode;
use roomring_proto::{RoomId, v1};
use serde_json::value::RawValue;
use tokio::time::timeout;

pub use key::{ApiKeys, BadKey};

use crate::backend::Backend;
use crate::cluster::{Cluster, Errand};
use crate::http::{Answer, App, body, reply};
use crate::hub::api::{ClientPosition, Command, Position, Retracts, ToClient};
use crate::namespaces::Payload;
use crate::roster::unix_now;

/// What the addresses of methods begin with.
pub(crate) const PREFIX: &str = "/api/";

/// Where the description is.
const DESCRIPTION: &str = "openapi.json";

/// The API, described.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// Largest request, in bytes: a broadcast of the largest payload to many rooms, or a good batch.
const REQUEST_BYTES: usize = 4 << 20;

/// Time for a request to come in.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Commands of a batch that are not begun by then are refused.
const BATCH_WITHIN: Duration = Duration::from_secs(20);

/// The header in which Centrifugo's clients show their key.
const KEY: &str = "x-api-key";

/// `method` is one that [`answer`] knows.
pub(crate) fn answers(method: &str) -> bool {
    method == DESCRIPTION || METHODS.contains(&method)
}

/// Answers a request whose path goes on with `method` after [`PREFIX`].
pub(crate) async fn answer<B, R>(app: &App<B>, method: &str, request: Request<R>) -> Answer
where
    B: Backend,
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if method == DESCRIPTION && request.method() == Method::GET {
        return body(StatusCode::OK, crate::http::JSON, OPENAPI);
    }
    let Some(keys) = &app.api else {
        return reply(StatusCode::NOT_FOUND, "the API is off: give the router an api_key_file");
    };
    if !shown(request.headers()).is_some_and(|key| keys.admit(key)) {
        return reply(StatusCode::UNAUTHORIZED, "X-API-Key: not a key of this router");
    }
    if !METHODS.contains(&method) {
        return reply(StatusCode::NOT_FOUND, format!("the API has no such method; it has {}", METHODS.join(", ")));
    }
    if request.method() != Method::POST {
        return crate::http::not_allowed("POST");
    }
    let (Some(backend), Some(cluster)) = (app.backend(), app.cluster()) else {
        return crate::http::unavailable(app);
    };
    if app.policy.memory.is_short() {
        return reply(StatusCode::SERVICE_UNAVAILABLE, "too little memory for another call");
    }
    let arguments = match timeout(READ_WITHIN, Limited::new(request.into_body(), REQUEST_BYTES).collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            return reply(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {REQUEST_BYTES} bytes"));
        }
        Ok(Err(e)) => return reply(StatusCode::BAD_REQUEST, format!("the request can't be read: {e}")),
        Err(_) => return reply(StatusCode::REQUEST_TIMEOUT, "the request did not come in time"),
    };
    let business = Business { app, backend: backend.as_ref(), cluster };
    let outcome = match method {
        "batch" => business.batch(&arguments).await,
        method => business.call(method, &arguments).await,
    };
    let outcome = serde_json::to_vec(&Outcome::from(outcome)).expect("JSON can be written as JSON");
    body(StatusCode::OK, crate::http::JSON, outcome)
}

pub(crate) fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let plain = headers.get(KEY).map(|value| value.as_bytes());
    plain.or_else(|| {
        let (scheme, key) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"apikey ").then_some(key)
    })
}

/// A business server that was let in.
struct Business<'a, B: Backend> {
    app: &'a App<B>,
    backend: &'a B,
    cluster: &'a Cluster,
}

type Done = Result<Box<RawValue>, Problem>;

impl<B: Backend> Business<'_, B> {
    async fn batch(&self, arguments: &[u8]) -> Done {
        let Batch { calls, parallel } = Batch::parse(arguments)?;
        let began = Instant::now();
        let one = async |(method, arguments): &(String, Box<RawValue>)| {
            let outcome = if began.elapsed() < BATCH_WITHIN {
                self.call(method, arguments.get().as_bytes()).await
            } else {
                Err(Problem::passing("the commands before it took too long: not begun"))
            };
            [(method.clone(), Outcome::from(outcome))].into()
        };
        let mut replies = Vec::with_capacity(calls.len());
        if parallel {
            replies = join_all(calls.iter().map(one)).await;
        } else {
            for call in &calls {
                replies.push(one(call).await);
            }
        }
        Ok(result(&answers::Batch { replies }))
    }

    async fn call(&self, method: &str, arguments: &[u8]) -> Done {
        match Call::parse(method, arguments)? {
            Call::Publish { rooms, data, id, one } => self.publish(rooms, &data, &id, one).await,
            Call::Presence { room, stats_only } => self.presence(room, stats_only).await,
            Call::History { room, limit, since, reverse } => {
                let since = since.map(|s| ClientPosition { epoch: s.epoch, seq: roomring_proto::Seq(s.offset) });
                self.history(room, limit, since, reverse).await
            }
            Call::HistoryRemove { room } => {
                Ok(result(&answers::Removed::from(self.retract(room, Retracts::All).await?)))
            }
            Call::Delete { room, at } => {
                let epoch = (!at.epoch.is_empty()).then(|| at.epoch.parse()).transpose();
                // One that we never gave is no room's.
                let epoch = epoch.map_err(|_| ErrorCode::UNRECOVERABLE_POSITION)?;
                let what = Retracts::One { seq: roomring_proto::Seq(at.offset), epoch };
                Ok(result(&answers::Deleted { deleted: self.retract(room, what).await?.is_some() }))
            }
            Call::Channels { pattern } => Ok(result(&answers::Channels::new(self.cluster.rooms().await, &pattern))),
            Call::Info => Ok(result(&answers::Routers::from(self.cluster.routers().await))),
            Call::Subscribe { whom, room } => {
                self.app.policy.namespaces.of(&room)?;
                let request = v1::SubscribeRequest { whom: Some(whom.into()), room: room.as_str().to_owned() };
                Ok(self.everywhere(&Errand::Subscribe(request)).await)
            }
            Call::Unsubscribe { whom, room } => {
                let request = v1::UnsubscribeRequest { whom: Some(whom.into()), room: room.as_str().to_owned() };
                Ok(self.everywhere(&Errand::Unsubscribe(request)).await)
            }
            Call::Disconnect { whom, reconnect } => {
                let request = v1::DisconnectRequest { whom: Some(whom.into()), reconnect };
                Ok(self.everywhere(&Errand::Disconnect(request)).await)
            }
            Call::Revoke { user, seconds } => {
                let what = Denied::Tokens { issued_until: unix_now().0 };
                self.deny(user, what, seconds).await
            }
            Call::Ban { user, room, seconds } => {
                self.deny(user, room.map_or(Denied::Everywhere, Denied::Room), seconds).await
            }
            Call::Unban { user, room } => self.deny(user, room.map_or(Denied::Everywhere, Denied::Room), 0).await,
        }
    }

    /// Publishes to all of `rooms`, side by side.
    async fn publish(&self, rooms: Vec<RoomId>, data: &calls::Given, id: &str, one: bool) -> Done {
        let namespaces = &self.app.policy.namespaces;
        let mut outcomes: Vec<Done> = Vec::with_capacity(rooms.len());
        let mut taken = Vec::new();
        for (index, room) in rooms.into_iter().enumerate() {
            // Of what is published the answer is filled in below.
            outcomes.push(Ok(result(&Empty {})));
            match data.payload(&room, namespaces) {
                Ok(payload) => taken.push((index, room, payload)),
                Err(problem) => outcomes[index] = Err(problem),
            }
        }
        let caller = Caller::new(self.backend);
        let answers = caller.ask(taken.len(), |n, request, client| {
            let (_, room, data) = &taken[n];
            Command::Publish { request, room: room.clone(), client, data: data.clone(), id: id.to_owned() }
        });
        for (answer, (index, ..)) in answers.await.into_iter().zip(&taken) {
            outcomes[*index] = match answer {
                Some(ToClient::Published { result: Ok(published), .. }) => {
                    Ok(result(&answers::Published::from(published)))
                }
                Some(ToClient::Published { result: Err(error), .. }) => Err(error.into()),
                _ => Err(ErrorCode::INTERNAL.into()),
            };
        }
        if one {
            return outcomes.pop().unwrap_or_else(|| Err(ErrorCode::INTERNAL.into()));
        }
        Ok(result(&answers::Broadcast { responses: outcomes.into_iter().map(Outcome::from).collect() }))
    }

    async fn presence(&self, room: RoomId, stats_only: bool) -> Done {
        if !self.app.policy.namespaces.of(&room)?.presence {
            return Err(ErrorCode::NOT_AVAILABLE.into());
        }
        let caller = Caller::new(self.backend);
        let asked = caller.ask_one(|request, client| Command::Presence { request, room, client, stats_only });
        match asked.await {
            Some(ToClient::Presence { result: Ok(presence), .. }) if stats_only => {
                Ok(result(&answers::PresenceStats::from(&presence)))
            }
            Some(ToClient::Presence { result: Ok(presence), .. }) => Ok(result(&answers::Presence::from(presence))),
            Some(ToClient::Presence { result: Err(error), .. }) => Err(error.into()),
            _ => Err(ErrorCode::INTERNAL.into()),
        }
    }

    async fn history(&self, room: RoomId, limit: i32, since: Option<ClientPosition>, reverse: bool) -> Done {
        let options = self.app.policy.namespaces.of(&room)?;
        if !options.has_history() {
            return Err(ErrorCode::NOT_AVAILABLE.into());
        }
        let caller = Caller::new(self.backend);
        let asked = caller.ask_one(|request, client| Command::History { request, room, client, limit, reverse, since });
        match asked.await {
            Some(ToClient::History { result: Ok(history), .. }) => {
                Ok(result(&answers::History::new(history, options.payload)))
            }
            Some(ToClient::History { result: Err(error), .. }) => Err(error.into()),
            _ => Err(ErrorCode::INTERNAL.into()),
        }
    }

    /// Takes back what was published; where that is said. `None`: there was nothing.
    async fn retract(&self, room: RoomId, what: Retracts) -> Result<Option<Position>, Problem> {
        let data = match self.app.policy.namespaces.of(&room)?.payload {
            Payload::Json => Bytes::from_static(b"{}"),
            Payload::Binary => Bytes::new(),
        };
        let caller = Caller::new(self.backend);
        match caller.ask_one(|request, client| Command::Retract { request, room, client, what, data }).await {
            Some(ToClient::Retracted { result, .. }) => Ok(result?),
            _ => Err(ErrorCode::INTERNAL.into()),
        }
    }

    async fn everywhere(&self, errand: &Errand) -> Box<RawValue> {
        result(&answers::Done::from(self.cluster.send(errand).await))
    }

    /// Denies something for a while; 0 seconds = no longer.
    async fn deny(&self, user: String, what: Denied, seconds: u64) -> Done {
        let until = if seconds == 0 { 0 } else { unix_now().0 + seconds };
        let asked = self.cluster.deny(Denial { user, what, until }, seconds).await;
        Ok(result(&answers::Done::from(asked.map_err(Problem::passing)?)))
    }
}

impl From<calls::Whom> for v1::Whom {
    fn from(whom: calls::Whom) -> Self {
        Self { user: whom.user, client: whom.client }
    }
}
