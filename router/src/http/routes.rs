//! What each address of the router does.

use std::sync::Arc;
use std::time::Instant;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use roomring_proto::RoomId;
use roomring_proto::close::CloseCode;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::handshake::Handshake;
use super::server::Source;
use super::tls::Socket;
use super::{App, Readiness, emulation, proxy, query};
use crate::api;
use crate::auth::{ConnectionToken, Rejected, Shown, SubscriptionToken, Unix};
use crate::backend::Backend;
use crate::limits::Place;
use crate::namespaces::{self, Join, Options, Payload};
use crate::roster::unix_now;
use crate::session::{Centrifuge, ClientId, Clock, Machine, Plain, Transport, User, stream, task};

/// Why a body broke off.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer to a request.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// No body.
pub(super) fn empty() -> UnsyncBoxBody<Bytes, BoxError> {
    full(Bytes::new())
}

fn full(body: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// The chat page.
const PAGE: &str = include_str!("../../page/index.html");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers a request; a WebSocket handshake starts a session.
pub(super) async fn answer<B: Backend>(app: Arc<App<B>>, source: Arc<Source>, request: Request<Incoming>) -> Answer {
    if source.over {
        return too_many();
    }
    let path = request.uri().path().to_owned();
    let proxy = app.proxy.as_ref();
    // It is open to everybody: the chat page shows it.
    let method = path.strip_prefix(api::PREFIX).filter(|method| *method != "room");
    if let Some(method) = method.filter(|method| proxy.is_none() || api::answers(method)) {
        return Box::pin(api::answer(&app, method, request)).await;
    }
    let app = &app;
    if emulation::answers(&path) {
        return Box::pin(emulation::answer(app, &source, request)).await;
    }
    if let Some(proxy) = proxy.filter(|_| !is_ours(&path)) {
        return Box::pin(proxy::answer(app, proxy, &source, request)).await;
    }
    let answered = match path.as_str() {
        "/connection/websocket" => centrifuge(app, source, request),
        "/healthz" => get(&request).map(|()| reply(StatusCode::OK, "live")),
        "/readyz" => get(&request).map(|()| readyz(app)),
        "/api/room" => get(&request).and_then(|()| room(app, request.uri().query())),
        "/" if app.page => get(&request).map(|()| page()),
        path => match path.strip_prefix("/rooms/") {
            Some(name) => plain(app, source, name, request),
            None => Err(Box::new(reply(StatusCode::NOT_FOUND, "there is nothing at this address"))),
        },
    };
    answered.unwrap_or_else(|refused| *refused)
}

/// The path is the router's own, also where others are the business server's.
fn is_ours(path: &str) -> bool {
    matches!(path, "/connection/websocket" | "/healthz" | "/readyz" | "/api/room") || path.starts_with("/rooms/")
}

/// A short text.
pub(crate) fn reply(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut text = text.into();
    text.push('\n');
    body(status, TEXT, text)
}

/// An answer with a body.
pub(crate) fn body(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(full(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn get<T>(request: &Request<T>) -> Result<(), Box<Answer>> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(Box::new(not_allowed("GET, HEAD")))
}

/// The answer to a request whose method is not among `allowed`.
pub(crate) fn not_allowed(allowed: &'static str) -> Answer {
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn page() -> Answer {
    body(StatusCode::OK, HTML, PAGE)
}

fn readyz<B: Backend>(app: &App<B>) -> Answer {
    let readiness = app.readiness();
    let status = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply(status, readiness.to_string())
}

/// The answer of a router that does not serve now.
pub(crate) fn unavailable<B: Backend>(app: &App<B>) -> Answer {
    let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, app.readiness().to_string());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn bad_request(problem: impl std::fmt::Display) -> Box<Answer> {
    Box::new(reply(StatusCode::BAD_REQUEST, problem.to_string()))
}

/// `{"room", "slot", "node"}` of the room named in the query.
fn room<B: Backend>(app: &App<B>, query: Option<&str>) -> Result<Answer, Box<Answer>> {
    #[derive(Serialize)]
    struct Room<'a> {
        room: &'a RoomId,
        slot: u32,
        node: &'a str,
    }
    let name = query::value(query, "room").map_err(bad_request)?;
    let name = name.ok_or_else(|| bad_request("room: missing in the query"))?;
    let room = RoomId::new(&name).map_err(bad_request)?;
    let found =
        app.backend().and_then(|backend| backend.whereabouts(&room)).ok_or_else(|| Box::new(unavailable(app)))?;
    let answer = Room { room: &room, slot: found.slot.0, node: found.node.as_str() };
    Ok(body(StatusCode::OK, JSON, serde_json::to_vec(&answer).expect("text and numbers can be written as JSON")))
}

fn centrifuge<B: Backend>(
    app: &Arc<App<B>>,
    source: Arc<Source>,
    request: Request<Incoming>,
) -> Result<Answer, Box<Answer>> {
    let handshake = Handshake::of(&request)?.negotiate(&request);
    let user = shown_user(app, &request)?;
    let native_pings =
        query::value(request.uri().query(), "cf_ws_frame_ping_pong").is_ok_and(|v| v.as_deref() == Some("true"));
    let transport = Transport { format: handshake.format(), native_pings, session: None };
    let (policy, id) = (app.policy.clone(), ClientId::now());
    let session = Centrifuge::new(app.limits, policy, transport, clock(), id, user, rand::random());
    upgrade(app, source, request, &handshake, session)
}

fn plain<B: Backend>(
    app: &Arc<App<B>>,
    source: Arc<Source>,
    name: &str,
    request: Request<Incoming>,
) -> Result<Answer, Box<Answer>> {
    let handshake = Handshake::of(&request)?;
    let name = query::segment(name, "room name").map_err(bad_request)?;
    let room = RoomId::new(&name).map_err(bad_request)?;
    let visitor = visitor(app, &room, &request)?;
    let options = admitted(app, &room, &visitor)?.clone();
    let (policy, id) = (app.policy.clone(), ClientId::now());
    let until = visitor.expires.and_then(|at| clock().instant(at));
    let (user, ping_phase) = ((visitor.user, visitor.info), rand::random());
    let mut session = Plain::new(app.limits, policy, options, id, user, room, ping_phase).until(until);
    let banned = |close: CloseCode| Box::new(reply(StatusCode::FORBIDDEN, close.reason));
    session.enter(unix_now()).map_err(banned)?;
    upgrade(app, source, request, &handshake, session)
}

/// Who wants to join a room at its own address.
struct Visitor {
    user: User,
    info: Bytes,
    /// Something vouches for the name: a token.
    vouched: bool,
    /// A subscription token lets it in, whoever else may join.
    invited: bool,
    /// When the token is over.
    expires: Option<Unix>,
}

/// Who sends this: whom a token names, in the query or as the bearer's, or else who it says it is.
fn visitor<B: Backend, T>(app: &App<B>, room: &RoomId, request: &Request<T>) -> Result<Visitor, Box<Answer>> {
    let token = match query::value(request.uri().query(), "token").map_err(bad_request)? {
        None => bearer(request.headers()).map(str::to_owned),
        token => token,
    };
    let tokens = app.policy.auth.tokens.as_ref();
    let Some((tokens, token)) = tokens.zip(token.filter(|token| !token.is_empty())) else {
        let user = user(request)?;
        return Ok(Visitor { user, info: Bytes::new(), vouched: false, invited: false, expires: None });
    };
    let now = unix_now();
    let refused = |status, text: &str| Box::new(reply(status, text));
    let (visitor, issued) = match tokens.subscription(&token, now) {
        Ok(token) if token.room != *room || token.client.is_some() => {
            return Err(refused(StatusCode::FORBIDDEN, "the token is for another room or connection"));
        }
        Ok(SubscriptionToken { user, expires, issued, .. }) => {
            (Visitor { user, info: Bytes::new(), vouched: true, invited: true, expires }, issued)
        }
        Err(Rejected::Invalid(_)) => match tokens.connection(&token, now) {
            Ok(ConnectionToken { user, info, expires, issued, .. }) => {
                (Visitor { user, info, vouched: true, invited: false, expires }, issued)
            }
            Err(error) => return Err(rejected(&error)),
        },
        Err(error) => return Err(rejected(&error)),
    };
    if app.policy.roster.revokes(visitor.user.as_str(), issued, now) {
        return Err(rejected(&Rejected::Expired));
    }
    Ok(visitor)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn rejected(error: &Rejected) -> Box<Answer> {
    match error {
        Rejected::Later => {
            let mut answer = reply(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            Box::new(answer)
        }
        Rejected::Expired => Box::new(reply(StatusCode::UNAUTHORIZED, error.to_string())),
        // Why it is invalid is for logs.
        Rejected::Invalid(_) => {
            tracing::debug!(%error, "a token was refused");
            Box::new(reply(StatusCode::UNAUTHORIZED, "the token is not valid here"))
        }
    }
}

/// The options of a room that a visitor may join.
fn admitted<'a, B: Backend>(app: &'a App<B>, room: &RoomId, visitor: &Visitor) -> Result<&'a Options, Box<Answer>> {
    let Visitor { user, vouched, invited, .. } = visitor;
    let auth = &app.policy.auth;
    let options = app.policy.namespaces.of(room);
    let options = options.map_err(|e| Box::new(reply(StatusCode::NOT_FOUND, format!("room: {}", e.message))))?;
    let forbidden = |text: &str| Err(Box::new(reply(StatusCode::FORBIDDEN, text)));
    let named = !user.as_str().is_empty();
    if !vouched && !auth.insecure_names && (named || !auth.anonymous) {
        return forbidden("nobody is let in here without a token");
    }
    let open = match options.join {
        Join::Anyone => true,
        Join::Users => named,
        Join::Token => false,
    };
    let banned = app.policy.roster.bans_from(user.as_str(), room, unix_now());
    let may = *invited || (open && namespaces::admits(room, user.as_str()));
    if !may || banned {
        return forbidden("you may not join this room");
    }
    if !options.ask.is_empty() {
        return forbidden("the business server is asked about this room: join it through a Centrifuge client");
    }
    match options.payload {
        Payload::Json => Ok(options),
        Payload::Binary => forbidden("this room's messages are binary: join it through a Protobuf client"),
    }
}

/// Who a client says it is, and what others are shown of its request.
pub(super) fn shown_user<B: Backend, T>(app: &App<B>, request: &Request<T>) -> Result<(User, Shown), Box<Answer>> {
    let shown = app.policy.auth.outside.as_ref().map(|outside| outside.shown(request.headers()));
    Ok((user(request)?, shown.unwrap_or_default()))
}

/// The time that a session begins at.
pub(super) fn clock() -> Clock {
    Clock::new(Instant::now(), unix_now())
}

fn user<T>(request: &Request<T>) -> Result<User, Box<Answer>> {
    let name = query::value(request.uri().query(), "user").map_err(bad_request)?;
    User::new(name.unwrap_or_default()).map_err(bad_request)
}

/// The answer to whoever comes when memory is short.
pub(super) fn too_little_memory() -> Answer {
    let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, "too little memory for another connection");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The answer to whoever has too many connections.
pub(super) fn too_many() -> Answer {
    let mut response = reply(StatusCode::TOO_MANY_REQUESTS, "too many connections from your address");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn upgrade<B: Backend>(
    app: &Arc<App<B>>,
    source: Arc<Source>,
    request: Request<Incoming>,
    handshake: &Handshake,
    session: impl Machine + Send + 'static,
) -> Result<Answer, Box<Answer>> {
    let backend = app.backend().cloned().ok_or_else(|| Box::new(unavailable(app)))?;
    if app.closing.is_cancelled() {
        return Err(Box::new(unavailable(app)));
    }
    if !app.guards.origins.admit(request.headers()) {
        let text = "Origin: pages from there may not connect here; allowed_origins names those that may";
        return Err(Box::new(reply(StatusCode::FORBIDDEN, text)));
    }
    if app.policy.memory.is_short() {
        return Err(Box::new(too_little_memory()));
    }
    let behind = source.take(app, request.headers()).map_err(|()| Box::new(too_many()))?;
    let upgraded = hyper::upgrade::on(request);
    app.tasks.spawn(run(app.clone(), backend, upgraded, Box::new(session), (source, behind)));
    Ok(handshake.response())
}

/// Runs a session; `_places` are its places among the connections.
async fn run<B: Backend>(
    app: Arc<App<B>>,
    backend: Arc<B>,
    upgraded: OnUpgrade,
    session: Box<impl Machine + Send>,
    _places: (Arc<Source>, Option<Place>),
) {
    let upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(e) => return tracing::debug!(error = %e, "the client went away during the handshake"),
    };
    let counted = app.count_connection();
    let stop = counted.stop.clone();
    // The socket itself rather than a box around it: every read and write goes through this.
    let session = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => task::run(parts.io.into_inner(), parts.read_buf, app.max_message, session, backend, stop),
        Err(upgraded) => return Box::pin(run_within_tls(upgraded, app.max_message, session, backend, stop)).await,
    };
    session.await;
}

async fn run_within_tls<B: Backend>(
    upgraded: Upgraded,
    max_message: usize,
    session: Box<impl Machine + Send>,
    backend: Arc<B>,
    stop: CancellationToken,
) {
    let Ok(parts) = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() else {
        return tracing::error!("a connection is not of a type that it was served as");
    };
    let socket = Socket::new(parts.io.into_inner(), parts.read_buf, max_message).await;
    stream::run(session, backend, socket, stop).await;
}
