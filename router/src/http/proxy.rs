//! Passes on to the business server what the router does not answer itself: `[proxy]`.
//!
//! Bodies are streamed both ways, and upgraded connections are passed through as they are. What stands still is given up.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use roomring_control::daemon::{Invalid, Span};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::routes::{Answer, BoxError, reply, too_little_memory};
use super::server::{Pass, Source};
use super::{App, too_many};
use crate::backend::Backend;

/// How long a connection to the business server is kept for the next request. Node.js closes them after 5 s: one that is
/// closed when a request is on its way costs that request.
const IDLE: Duration = Duration::from_secs(4);

/// Idle connections to the business server.
const IDLE_CONNECTIONS: usize = 64;

/// Largest head of an answer, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// Headers that are about one connection, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What else says whom somebody speaks for: of a client that is no trusted proxy it is not passed on.
const OTHER_CLAIMS: [HeaderName; 3] = [
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];

/// Where to: `[proxy]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// `http://` or `https://`, a host, and perhaps a path that goes in front of each request's.
    pub url: String,
    /// Time to a connection.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Span,
    /// Time for the head of an answer, from the last that came of the request.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// A body of which nothing comes, or which its client does not take, for so long is cut off.
    #[serde(default = "idle_timeout")]
    pub idle_timeout: Span,
    /// Requests and upgraded connections at once.
    #[serde(default = "connections")]
    pub connections: u32,
}

impl ProxyConfig {
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), Invalid> {
        Target::of(&self.url)?;
        let spans = [
            ("proxy.connect_timeout", self.connect_timeout),
            ("proxy.timeout", self.timeout),
            ("proxy.idle_timeout", self.idle_timeout),
        ];
        for (field, span) in spans {
            if span.0.is_zero() {
                return Err(Invalid::new(field, "must be over 0s"));
            }
        }
        if self.connections == 0 {
            return Err(Invalid::new("proxy.connections", "must be over 0"));
        }
        Ok(())
    }
}

fn connect_timeout() -> Span {
    Span::secs(2)
}
fn timeout() -> Span {
    Span::secs(30)
}
fn idle_timeout() -> Span {
    Span::secs(120)
}
fn connections() -> u32 {
    1_000
}

/// The business server's address.
#[derive(Debug, Clone)]
struct Target {
    scheme: Scheme,
    authority: Authority,
    /// Goes in front of each path; does not end with a slash.
    prefix: String,
}

impl Target {
    fn of(url: &str) -> Result<Self, Invalid> {
        let bad = || Invalid::new("proxy.url", "expected a URL such as http://127.0.0.1:3000");
        let parts = url.parse::<Uri>().map_err(|_| bad())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(bad()) };
        let known = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if !known || path.query().is_some() || authority.as_str().contains('@') {
            return Err(bad());
        }
        Ok(Self { scheme, authority, prefix: path.path().trim_end_matches('/').to_owned() })
    }

    /// Where a request goes. It has a path: `*` and mere hosts are none.
    fn uri(&self, request: &Uri) -> Option<Uri> {
        let path = request.path_and_query().map(PathAndQuery::as_str).filter(|path| path.starts_with('/'))?;
        let (scheme, authority) = (self.scheme.clone(), self.authority.clone());
        let path = format!("{}{path}", self.prefix);
        Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok()
    }
}

/// The way to the business server.
pub struct Proxy {
    target: Target,
    timeout: Duration,
    idle_timeout: Duration,
    client: Client<HttpsConnector<HttpConnector>, Passing>,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A way that nobody has gone yet. The server's certificate may be signed by `authorities`, too.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn new(config: &ProxyConfig, authorities: &[CertificateDer<'static>]) -> Result<Self, Invalid> {
        let target = Target::of(&config.url)?;
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(config.connect_timeout.0));
        http.set_nodelay(true);
        http.enforce_http(false);
        let bad = |e: String| Invalid::new("proxy.url", format!("TLS can't be had: {e}"));
        let mut roots = RootCertStore::empty();
        if target.scheme == Scheme::HTTPS {
            // Those of the system that can't be read are as good as absent.
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs.into_iter().chain(authorities.iter().cloned()));
            if roots.is_empty() {
                return Err(bad(format!("no certificate is trusted, the system has none {:?}", system.errors)));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(|e| bad(e.to_string()))?.with_root_certificates(roots).with_no_client_auth();
        let https = HttpsConnectorBuilder::new().with_tls_config(tls);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(HEAD_BYTES)
            .build(https.https_or_http().enable_http1().wrap_connector(http));
        let places = usize::try_from(config.connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            target,
            timeout: config.timeout.0,
            idle_timeout: config.idle_timeout.0,
            client,
            places: Arc::new(Semaphore::new(places)),
        })
    }

    /// A body of which nothing comes, or which its client does not take, for so long is cut off.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }
}

/// Passes a request on.
pub(super) async fn answer<B: Backend>(
    app: &Arc<App<B>>,
    proxy: &Proxy,
    source: &Arc<Source>,
    mut request: Request<Incoming>,
) -> Answer {
    let Some(uri) = proxy.target.uri(request.uri()).filter(|_| *request.method() != Method::CONNECT) else {
        return reply(StatusCode::BAD_REQUEST, "only paths are passed on");
    };
    if app.policy.memory.is_short() {
        return too_little_memory();
    }
    let Ok(permit) = proxy.places.clone().try_acquire_owned() else {
        let mut busy = reply(StatusCode::SERVICE_UNAVAILABLE, "too many requests to the business server at once");
        busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return busy;
    };
    let wanted = upgrade_of(request.headers());
    // An upgraded connection is one for long; others are counted as what they are.
    let place = match wanted.is_some().then(|| source.take(app, request.headers())).transpose() {
        Ok(place) => place.flatten(),
        Err(()) => return too_many(),
    };
    let client_half = wanted.is_some().then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let mut passed = Request::builder().method(head.method).uri(uri);
    if let Some(headers) = passed.headers_mut() {
        *headers = head.headers;
        pass_on(headers, wanted.as_ref());
        introduce(headers, source.address, source.secure, app.guards.proxies.trust(source.address));
    }
    let pass = Arc::new(source.pass());
    let (progress, moved) = watch::channel(Progress { at: Instant::now(), whole: body.is_end_stream() });
    let body = Passing::new(body, proxy.idle_timeout, pass.clone()).reporting(progress);
    let Ok(passed) = passed.body(body) else { return reply(StatusCode::BAD_REQUEST, "only paths are passed on") };

    let answered = tokio::select! {
        answered = proxy.client.request(passed) => answered,
        whole = stands_still(moved, proxy.timeout) => {
            let uri = proxy.target.authority.as_str();
            return if whole {
                tracing::warn!(server = uri, "the business server does not answer in time");
                reply(StatusCode::GATEWAY_TIMEOUT, "the business server did not answer in time")
            } else {
                reply(StatusCode::REQUEST_TIMEOUT, "the request did not come in time")
            };
        }
    };
    let mut answered = match answered {
        Ok(answered) => answered,
        Err(error) => {
            let (server, why) = (proxy.target.authority.as_str(), innermost(&error));
            tracing::warn!(server, error = why, "the business server can't be reached");
            return reply(StatusCode::BAD_GATEWAY, "the business server can't be reached");
        }
    };
    if answered.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client_half), Some(agreed)) = (client_half, upgrade_of(answered.headers())) else {
            return reply(StatusCode::BAD_GATEWAY, "the business server switched to a protocol that nobody asked for");
        };
        let server_half = hyper::upgrade::on(&mut answered);
        let stop = app.stop.clone();
        let source = source.clone();
        app.tasks.spawn(async move {
            let _places = (permit, place, source);
            let _ = stop.run_until_cancelled(join(client_half, server_half)).await;
        });
        let (mut head, _) = answered.into_parts();
        pass_on(&mut head.headers, Some(&agreed));
        return Response::from_parts(head, super::routes::empty());
    }
    let (mut head, body) = answered.into_parts();
    pass_on(&mut head.headers, None);
    let passing = Passing::new(body, proxy.idle_timeout, pass).holding(permit);
    Response::from_parts(head, passing.boxed_unsync())
}

/// The protocol that is to be spoken on the connection from now on, if any is.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = |value: &HeaderValue| {
        let tokens = value.to_str().unwrap_or_default().split(',');
        tokens.into_iter().any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
    };
    headers.get_all(CONNECTION).iter().any(named).then(|| headers.get(UPGRADE).cloned()).flatten()
}

/// Leaves out what is about one connection only.
fn pass_on(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade.clone());
    }
}

/// Says on whose behalf a request comes.
fn introduce(headers: &mut HeaderMap, peer: IpAddr, secure: bool, trusted: bool) {
    // The body says its length itself, and we have told the client to go on.
    headers.remove(CONTENT_LENGTH);
    headers.remove(EXPECT);
    if !trusted {
        for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST].iter().chain(&OTHER_CLAIMS) {
            headers.remove(name);
        }
    }
    let mut path: Vec<String> = Vec::new();
    path.extend(headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)));
    path.push(peer.to_string());
    if let Ok(path) = HeaderValue::from_str(&path.join(", ")) {
        headers.insert(FORWARDED_FOR, path);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if secure { "https" } else { "http" }));
    }
    if let (Some(host), false) = (headers.get(HOST).cloned(), headers.contains_key(FORWARDED_HOST)) {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// How far a request's body is.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// When the last of it came.
    at: Instant,
    /// It is all there.
    whole: bool,
}

/// Returns when nothing has moved for so long; whether the request was whole by then.
async fn stands_still(mut moved: watch::Receiver<Progress>, limit: Duration) -> bool {
    let mut open = true;
    loop {
        let Progress { at, whole } = *moved.borrow_and_update();
        tokio::select! {
            () = sleep_until(at + limit) => return whole,
            // A body that is gone moves no more.
            changed = moved.changed(), if open => open = changed.is_ok(),
        }
    }
}

/// Passes bytes both ways until both sides, or the connection, ended.
async fn join(client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(halves) => halves,
        Err(error) => return tracing::debug!(%error, "an upgrade was not completed"),
    };
    let ended = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}

/// The innermost reason.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A body on its way, which ends with an error if nothing of it comes for a while.
struct Passing {
    body: Incoming,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    pass: Arc<Pass>,
    progress: Option<watch::Sender<Progress>>,
    /// The place that it takes.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Passing {
    fn new(body: Incoming, idle_timeout: Duration, pass: Arc<Pass>) -> Self {
        Self { body, idle_timeout, idle: Box::pin(sleep(idle_timeout)), pass, progress: None, _permit: None }
    }

    fn reporting(self, progress: watch::Sender<Progress>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    fn holding(self, permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: Some(permit), ..self }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            ready!(this.idle.as_mut().poll(cx));
            return Poll::Ready(Some(Err("nothing came for too long".into())));
        };
        let at = Instant::now();
        this.idle.as_mut().reset(at + this.idle_timeout);
        if let Some(progress) = &this.progress {
            progress.send_replace(Progress { at, whole: frame.is_none() || this.body.is_end_stream() });
        }
        this.pass.moved();
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in all.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn paths_go_behind_that_of_the_url() {
        let uri = |url: &str, request: &str| {
            Target::of(url).unwrap().uri(&request.parse().unwrap()).map(|uri| uri.to_string())
        };
        assert_eq!(uri("http://a:1", "/x?y=1").as_deref(), Some("http://a:1/x?y=1"));
        assert_eq!(uri("https://a/base/", "/x").as_deref(), Some("https://a/base/x"));
        // Somebody else's host is not where it goes.
        assert_eq!(uri("http://a:1", "http://other/x").as_deref(), Some("http://a:1/x"));
        assert_eq!(uri("http://a:1", "//other/x").as_deref(), Some("http://a:1//other/x"));
        assert_eq!(uri("http://a:1", "*"), None);
        for bad in ["", "a:1", "ftp://a", "http://u:p@a", "http://a/?q", "/x"] {
            assert!(Target::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_about_one_connection_is_left_out() {
        let mut passed = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "upgrade"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "x"),
            ("cookie", "a=1"),
            ("sec-websocket-key", "k"),
        ]);
        let wanted = upgrade_of(&passed).unwrap();
        let mut plain = passed.clone();
        pass_on(&mut plain, None);
        assert_eq!(plain, headers(&[("cookie", "a=1"), ("sec-websocket-key", "k")]));
        pass_on(&mut passed, Some(&wanted));
        assert_eq!((&passed[CONNECTION], &passed[UPGRADE], passed.len()), (&"upgrade".parse().unwrap(), &wanted, 4));
        assert_eq!(upgrade_of(&headers(&[("upgrade", "websocket"), ("connection", "close")])), None);
    }

    #[test]
    fn only_proxies_are_believed_whom_they_speak_for() {
        let claims = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
            ("x-real-ip", "1.2.3.4"),
            ("host", "h"),
            ("content-length", "5"),
        ];
        let peer = IpAddr::from([10, 0, 0, 1]);
        let mut said = headers(&claims);
        introduce(&mut said, peer, false, false);
        let wanted =
            [("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "h"), ("host", "h")];
        assert_eq!(said, headers(&wanted));
        let mut said = headers(&claims);
        introduce(&mut said, peer, false, true);
        assert_eq!(said["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
        assert_eq!(
            (&said["x-forwarded-proto"], &said["x-forwarded-host"]),
            (&"https".parse().unwrap(), &"a".parse().unwrap())
        );
        let mut said = headers(&[("host", "h")]);
        introduce(&mut said, peer, true, false);
        assert_eq!(said["x-forwarded-proto"], "https");
    }
}
