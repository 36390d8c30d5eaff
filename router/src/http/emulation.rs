//! Sessions over plain HTTP, for networks without WebSockets: what the server says is the body of one long answer, and what the
//! client says comes in requests of their own, at whichever router. Server-sent events, or lines (frames, in Protobuf).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame as Part, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL,
    CONTENT_TYPE, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};
use prost::Message;
use roomring_proto::client::{EmulationRequest, Format};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::routes::{Answer, BoxError, body, clock, reply, shown_user, too_little_memory, too_many, unavailable};
use super::server::Source;
use super::{App, query};
use crate::backend::Backend;
use crate::limits::Place;
use crate::session::stream::{self, Heard, Line, Told};
use crate::session::{Centrifuge, ClientId, Transport};

/// Parts of an answer that wait for the client's connection to take them: the rest waits in the client's own queue.
const PARTS: usize = 16;

/// Requests of a client that wait for its session.
const REQUESTS: usize = 64;

/// Time for a request to come in.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// How the server's messages stand in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Events,
    Lines,
    Frames,
}

impl Style {
    fn add(self, message: &[u8], to: &mut Vec<u8>) {
        let (before, after): (&[u8], &[u8]) = match self {
            Self::Events => (b"data: ", b"\n\n"),
            Self::Lines => (b"", b"\n"),
            Self::Frames => (b"", b""),
        };
        to.extend_from_slice(before);
        to.extend_from_slice(message);
        to.extend_from_slice(after);
    }
}

/// The sessions over HTTP of this router, by their secret.
#[derive(Debug, Default)]
pub(crate) struct Emulated(Mutex<HashMap<u128, mpsc::Sender<Bytes>>>);

/// What became of a client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Its session has it.
    Taken,
    /// There is no such session: the client will notice by the end of its answer.
    Gone,
    /// Too many wait already.
    Full,
}

impl Emulated {
    fn open(&self) -> MutexGuard<'_, HashMap<u128, mpsc::Sender<Bytes>>> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a client's commands to its session.
    pub(crate) fn deliver(&self, session: &str, data: Bytes) -> Delivered {
        let sender = u128::from_str_radix(session, 16).ok().and_then(|session| self.open().get(&session).cloned());
        match sender.map(|sender| sender.try_send(data)) {
            Some(Ok(())) => Delivered::Taken,
            Some(Err(mpsc::error::TrySendError::Full(_))) => Delivered::Full,
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => Delivered::Gone,
        }
    }
}

/// The path is one of those that [`answer`] answers.
pub(super) fn answers(path: &str) -> bool {
    matches!(path, "/connection/sse" | "/connection/http_stream" | "/emulation")
}

/// Answers what concerns sessions over HTTP.
pub(super) async fn answer<B: Backend>(app: &Arc<App<B>>, source: &Arc<Source>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let origin = request.headers().get(ORIGIN).cloned();
    if !app.guards.origins.admit(request.headers()) {
        let text = "Origin: pages from there may not connect here; allowed_origins names those that may";
        return reply(StatusCode::FORBIDDEN, text);
    }
    let mut answer = match (path.as_str(), request.method()) {
        (_, &Method::OPTIONS) => preflight(),
        ("/connection/sse", &Method::GET) => events(app, source, request),
        ("/connection/http_stream", &Method::POST) => lines(app, source, request).await,
        ("/emulation", &Method::POST) => emulation(app, request).await,
        ("/connection/sse", _) => super::not_allowed("GET"),
        _ => super::not_allowed("POST"),
    };
    if let Some(origin) = origin {
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    answer
}

/// What browsers ask before they send JSON to another host.
fn preflight() -> Answer {
    let mut answer = reply(StatusCode::OK, "");
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type"));
    answer
}

fn events<B: Backend>(app: &Arc<App<B>>, source: &Arc<Source>, request: Request<Incoming>) -> Answer {
    match query::value(request.uri().query(), "cf_connect") {
        Ok(Some(command)) if command.len() <= app.max_message => {
            begin(app, source, &request, Style::Events, command.into())
        }
        Ok(Some(_)) => reply(StatusCode::PAYLOAD_TOO_LARGE, "cf_connect: too long"),
        Ok(None) => reply(StatusCode::BAD_REQUEST, "cf_connect: missing in the query: the connect command, as JSON"),
        Err(e) => reply(StatusCode::BAD_REQUEST, e.to_string()),
    }
}

async fn lines<B: Backend>(app: &Arc<App<B>>, source: &Arc<Source>, mut request: Request<Incoming>) -> Answer {
    let style = if is_protobuf(&request) { Style::Frames } else { Style::Lines };
    match read(&mut request, app.max_message).await {
        Ok(command) => begin(app, source, &request, style, command),
        Err(answer) => *answer,
    }
}

fn is_protobuf<T>(request: &Request<T>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/octet-stream"))
}

async fn read(request: &mut Request<Incoming>, most: usize) -> Result<Bytes, Box<Answer>> {
    match timeout(READ_WITHIN, Limited::new(request.body_mut(), most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            Err(Box::new(reply(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {most} bytes"))))
        }
        Ok(Err(e)) => Err(Box::new(reply(StatusCode::BAD_REQUEST, format!("the request can't be read: {e}")))),
        Err(_) => Err(Box::new(reply(StatusCode::REQUEST_TIMEOUT, "the request did not come in time"))),
    }
}

/// Begins a session whose first frame is `connect`.
fn begin<B: Backend>(
    app: &Arc<App<B>>,
    source: &Arc<Source>,
    request: &Request<Incoming>,
    style: Style,
    connect: Bytes,
) -> Answer {
    let (Some(backend), false) = (app.backend().cloned(), app.closing.is_cancelled()) else { return unavailable(app) };
    if app.policy.memory.is_short() {
        return too_little_memory();
    }
    let place = match source.take(app, request.headers()) {
        Ok(place) => place,
        Err(()) => return too_many(),
    };
    let user = match shown_user(app, request) {
        Ok(user) => user,
        Err(answer) => return *answer,
    };
    let secret: u128 = rand::random();
    let format = if style == Style::Frames { Format::Protobuf } else { Format::Json };
    let transport = Transport { format, native_pings: false, session: Some(secret) };
    let (policy, id) = (app.policy.clone(), ClientId::now());
    let machine = Centrifuge::new(app.limits, policy, transport, clock(), id, user, rand::random());
    let (commands, requests) = mpsc::channel(REQUESTS);
    let (parts, answer) = mpsc::channel(PARTS);
    app.emulated.open().insert(secret, commands);
    source.stream();
    let counted = app.count_connection();
    let line = Answering { style, format, first: Some(connect), requests, parts };
    let (emulated, source) = (app.emulated.clone(), source.clone());
    app.tasks.spawn(async move {
        let _place: (Option<Place>, Arc<Source>) = (place, source);
        stream::run(Box::new(machine), backend, line, counted.stop.clone()).await;
        emulated.open().remove(&secret);
    });
    let answer = ReceiverStream::new(answer).map(|part: Bytes| Ok::<_, BoxError>(Part::data(part)));
    let mut response = Response::new(StreamBody::new(answer).boxed_unsync());
    let kind = match style {
        Style::Events => "text/event-stream",
        Style::Lines => "application/json",
        Style::Frames => "application/octet-stream",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    // nginx would gather it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A client's commands, with whose they are.
async fn emulation<B: Backend>(app: &Arc<App<B>>, mut request: Request<Incoming>) -> Answer {
    #[derive(Deserialize)]
    struct Wire {
        session: String,
        node: String,
        data: String,
    }
    let binary = is_protobuf(&request);
    // In JSON the commands are a text within a text: every quotation mark is two bytes.
    let whole = match read(&mut request, 2 * app.max_message + 1_024).await {
        Ok(whole) => whole,
        Err(answer) => return *answer,
    };
    let read = if binary {
        EmulationRequest::decode(whole).map(|r| (r.session, r.node, r.data)).map_err(|e| e.to_string())
    } else {
        let wire = serde_json::from_slice::<Wire>(&whole);
        wire.map(|w| (w.session, w.node, w.data.into())).map_err(|e| e.to_string())
    };
    let (session, node, data): (String, String, Bytes) = match read {
        Ok(read) => read,
        Err(problem) => return reply(StatusCode::BAD_REQUEST, problem),
    };
    if data.len() > app.max_message {
        return reply(StatusCode::PAYLOAD_TOO_LARGE, format!("data: at most {} bytes", app.max_message));
    }
    let delivered = if node == app.policy.router {
        Some(app.emulated.deliver(&session, data))
    } else {
        match app.cluster() {
            Some(cluster) => cluster.emulate(&node, session, data).await,
            None => return unavailable(app),
        }
    };
    match delivered {
        Some(Delivered::Taken | Delivered::Gone) => {
            let mut answer = body(StatusCode::NO_CONTENT, super::JSON, Bytes::new());
            answer.headers_mut().remove(CONTENT_TYPE);
            answer
        }
        Some(Delivered::Full) => reply(StatusCode::TOO_MANY_REQUESTS, "too many requests of this session are waiting"),
        // The client connects again.
        None => reply(StatusCode::NOT_FOUND, "node: no such router answers"),
    }
}

/// A client that reads an answer, and sends requests.
struct Answering {
    style: Style,
    format: Format,
    /// Its first request, which asked for the answer.
    first: Option<Bytes>,
    requests: mpsc::Receiver<Bytes>,
    parts: mpsc::Sender<Bytes>,
}

impl Line for Answering {
    async fn hear(&mut self) -> Option<Heard> {
        let text = self.format == Format::Json;
        if let Some(data) = self.first.take() {
            return Some(Heard::Message { data, text });
        }
        tokio::select! {
            data = self.requests.recv() => data.map(|data| Heard::Message { data, text }),
            () = self.parts.closed() => None,
        }
    }

    async fn tell(&mut self, all: Vec<Told>) -> bool {
        let mut part = Vec::new();
        for told in all {
            match told {
                Told::Message { data, .. } => self.style.add(&data, &mut part),
                // Only WebSockets have these.
                Told::Ping => {}
                Told::Close(code, reason) => self.style.add(&self.format.disconnect(code, &reason), &mut part),
            }
        }
        self.parts.send(part.into()).await.is_ok()
    }
}
