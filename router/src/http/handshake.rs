//! The server's half of a WebSocket handshake.

use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use roomring_proto::client::Format;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::routes::empty;
use super::{Answer, reply};

/// The subprotocol of the JSON encoding.
const JSON: &str = "centrifuge-json";

/// The subprotocol of the Protobuf encoding.
const PROTOBUF: &str = "centrifuge-protobuf";

/// A request that is a WebSocket handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    accept: String,
    protocol: Option<&'static str>,
    format: Format,
}

impl Handshake {
    /// Checks the request. The error is the answer to it.
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, Box<Answer>> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(Box::new(reply(StatusCode::METHOD_NOT_ALLOWED, "use GET")));
        }
        let upgrade =
            has_token(headers, UPGRADE.as_str(), "websocket") && has_token(headers, CONNECTION.as_str(), "upgrade");
        if !upgrade || request.version() != Version::HTTP_11 {
            return Err(Box::new(upgrade_required("this address speaks WebSocket: connect with a WebSocket client")));
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
            return Err(Box::new(upgrade_required("only WebSocket version 13 is spoken here")));
        }
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
            return Err(Box::new(reply(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key: expected 24 characters")));
        };
        Ok(Self { accept: derive_accept_key(key.as_bytes()), protocol: None, format: Format::Json })
    }

    /// Agrees on an encoding of the client protocol: Protobuf where the subprotocol or the query asks for it, else JSON.
    pub(super) fn negotiate<B>(mut self, request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let asked_in_query = query.split('&').any(|p| p == "format=protobuf" || p == "cf_protocol=protobuf");
        // An empty header, as some clients send it, offers nothing.
        let offered = |token: &str| has_token(request.headers(), SEC_WEBSOCKET_PROTOCOL.as_str(), token);
        self.protocol = [PROTOBUF, JSON].into_iter().find(|protocol| offered(protocol));
        if asked_in_query || self.protocol == Some(PROTOBUF) {
            self.format = Format::Protobuf;
        }
        self
    }

    /// The encoding agreed on.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// The answer that switches protocols.
    pub(super) fn response(&self) -> Answer {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let accept = HeaderValue::from_str(&self.accept).expect("base64 fits into a header");
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

fn upgrade_required(text: &'static str) -> Answer {
    let mut response = reply(StatusCode::UPGRADE_REQUIRED, text);
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// A header with a comma-separated list, possibly given several times, names `token`.
fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
}
