//! What each address of the router does.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use roomring_proto::RoomId;
use serde::Serialize;
use tokio::net::TcpStream;

use super::handshake::Handshake;
use super::{App, Readiness, query};
use crate::auth::Unix;
use crate::backend::Backend;
use crate::namespaces::{self, Join, Options, Payload};
use crate::session::{Centrifuge, ClientId, Clock, Machine, Plain, Transport, User, task};

/// An answer to a request.
pub(super) type Answer = Response<Full<Bytes>>;

/// The chat page.
const PAGE: &str = include_str!("../../page/index.html");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers a request; a WebSocket handshake starts a session.
pub(super) fn answer<B: Backend>(app: &Arc<App<B>>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let answered = match path.as_str() {
        "/connection/websocket" => centrifuge(app, request),
        "/healthz" => get(&request).map(|()| reply(StatusCode::OK, "live")),
        "/readyz" => get(&request).map(|()| readyz(app)),
        "/api/room" => get(&request).and_then(|()| room(app, request.uri().query())),
        "/" if app.page => get(&request).map(|()| page()),
        path => match path.strip_prefix("/rooms/") {
            Some(name) => plain(app, name, request),
            None => Err(Box::new(reply(StatusCode::NOT_FOUND, "there is nothing at this address"))),
        },
    };
    answered.unwrap_or_else(|refused| *refused)
}

/// A short text.
pub(super) fn reply(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut text = text.into();
    text.push('\n');
    body(status, TEXT, text)
}

fn body(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
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
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Err(Box::new(response))
}

fn page() -> Answer {
    body(StatusCode::OK, HTML, PAGE)
}

fn readyz<B: Backend>(app: &App<B>) -> Answer {
    let readiness = app.readiness();
    let status = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply(status, readiness.to_string())
}

fn unavailable<B: Backend>(app: &App<B>) -> Box<Answer> {
    let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, app.readiness().to_string());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    Box::new(response)
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
    let found = app.backend().and_then(|backend| backend.whereabouts(&room)).ok_or_else(|| unavailable(app))?;
    let answer = Room { room: &room, slot: found.slot.0, node: found.node.as_str() };
    Ok(body(StatusCode::OK, JSON, serde_json::to_vec(&answer).expect("text and numbers can be written as JSON")))
}

fn centrifuge<B: Backend>(app: &Arc<App<B>>, request: Request<Incoming>) -> Result<Answer, Box<Answer>> {
    let handshake = Handshake::of(&request)?.negotiate(&request);
    let user = user(&request)?;
    let native_pings =
        query::value(request.uri().query(), "cf_ws_frame_ping_pong").is_ok_and(|v| v.as_deref() == Some("true"));
    let transport = Transport { format: handshake.format(), native_pings };
    let (policy, id) = (app.policy.clone(), ClientId(rand::random()));
    let session = Centrifuge::new(app.limits, policy, transport, clock(), id, user, rand::random());
    upgrade(app, request, &handshake, session)
}

fn plain<B: Backend>(app: &Arc<App<B>>, name: &str, request: Request<Incoming>) -> Result<Answer, Box<Answer>> {
    let handshake = Handshake::of(&request)?;
    let name = query::segment(name, "room name").map_err(bad_request)?;
    let room = RoomId::new(&name).map_err(bad_request)?;
    let user = user(&request)?;
    let options = admitted(app, &room, &user)?.clone();
    let session = Plain::new(app.limits, options, ClientId(rand::random()), user, room, rand::random());
    upgrade(app, request, &handshake, session)
}

/// The options of a room that `user` may join without a token.
fn admitted<'a, B: Backend>(app: &'a App<B>, room: &RoomId, user: &User) -> Result<&'a Options, Box<Answer>> {
    let auth = &app.policy.auth;
    let options = app.policy.namespaces.of(room);
    let options = options.map_err(|e| Box::new(reply(StatusCode::NOT_FOUND, format!("room: {}", e.message))))?;
    let forbidden = |text: &str| Err(Box::new(reply(StatusCode::FORBIDDEN, text)));
    let named = !user.as_str().is_empty();
    if !auth.insecure_names && (named || !auth.anonymous) {
        return forbidden("this endpoint takes no tokens, and without one nobody is let in here");
    }
    let open = match options.join {
        Join::Anyone => true,
        Join::Users => named,
        Join::Token => false,
    };
    if !open || !namespaces::admits(room, user.as_str()) {
        return forbidden("you may not join this room");
    }
    match options.payload {
        Payload::Json => Ok(options),
        Payload::Binary => forbidden("this room's messages are binary: join it through a Protobuf client"),
    }
}

fn clock() -> Clock {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Clock::new(Instant::now(), Unix(unix))
}

fn user<T>(request: &Request<T>) -> Result<User, Box<Answer>> {
    let name = query::value(request.uri().query(), "user").map_err(bad_request)?;
    User::new(name.unwrap_or_default()).map_err(bad_request)
}

fn upgrade<B: Backend>(
    app: &Arc<App<B>>,
    request: Request<Incoming>,
    handshake: &Handshake,
    session: impl Machine + Send + 'static,
) -> Result<Answer, Box<Answer>> {
    let backend = app.backend().cloned().ok_or_else(|| unavailable(app))?;
    if app.closing.is_cancelled() {
        return Err(unavailable(app));
    }
    let upgraded = hyper::upgrade::on(request);
    app.tasks.spawn(run(app.clone(), backend, upgraded, Box::new(session)));
    Ok(handshake.response())
}

async fn run<B: Backend>(app: Arc<App<B>>, backend: Arc<B>, upgraded: OnUpgrade, session: Box<impl Machine>) {
    let upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(e) => return tracing::debug!(error = %e, "the client went away during the handshake"),
    };
    // The socket itself rather than a box around it: every read and write goes through this.
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return tracing::error!("a connection is not of the type it was served as");
    };
    let counted = app.count_connection();
    let stop = counted.stop.clone();
    task::run(parts.io.into_inner(), parts.read_buf, app.max_message, session, backend, stop).await;
}
