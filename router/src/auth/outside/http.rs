//! The business server, asked who a client is.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CONTENT_TYPE, COOKIE, HeaderName, HeaderValue};
use roomring_control::daemon::Invalid;
use roomring_proto::RoomId;
use roomring_proto::client::Connect;
use roomring_proto::close::{CloseCode, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::caller::{Caller, NoAnswer};
use super::{ConnectCall, NotKnown, Shown, info};
use crate::auth::{ConnectionToken, Overrides, Unix};
use crate::session::User;

/// The business server.
pub(super) struct Business {
    config: ConnectCall,
    headers: Vec<HeaderName>,
    caller: Caller,
}

impl fmt::Debug for Business {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.config)
    }
}

#[derive(Serialize)]
struct Question<'a> {
    client: &'a str,
    name: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// `{"result": {...}}`, `{"error": {...}}` or `{"disconnect": {...}}`.
#[derive(Deserialize)]
struct Verdict {
    result: Option<Good>,
    error: Option<Refusal>,
    disconnect: Option<Refusal>,
}

#[derive(Deserialize)]
struct Good {
    user: String,
    expire_at: Option<u64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
}

/// Why not.
#[derive(Deserialize)]
pub(super) struct Refusal {
    code: u32,
}

impl Refusal {
    /// Of a `disconnect`.
    pub(super) fn closes(&self) -> NotKnown {
        NotKnown::Closed(match self.code {
            3000..3500 | 4000..4500 => CloseCode::FORCE_RECONNECT,
            _ => CloseCode::PERMISSION_DENIED,
        })
    }

    /// Of an `error`.
    pub(super) fn tells(&self) -> NotKnown {
        NotKnown::Told(match self.code {
            100 => ErrorCode::INTERNAL,
            109 => ErrorCode::TOKEN_EXPIRED,
            111 => ErrorCode::TOO_MANY_REQUESTS,
            _ => ErrorCode::PERMISSION_DENIED,
        })
    }
}

impl Business {
    pub(super) fn new(config: &ConnectCall, client: reqwest::Client) -> Result<Self, Invalid> {
        config.check()?;
        let name = |name: &String| {
            let bad = || Invalid::new("connect.headers", format!("{name:?} is not the name of a header"));
            name.to_ascii_lowercase().parse().map_err(|_| bad())
        };
        let headers = config.headers.iter().map(name).collect::<Result<_, _>>()?;
        let caller = Caller::new(client, config.url.clone(), config.timeout, config.retries);
        Ok(Self { config: config.clone(), headers, caller })
    }

    pub(super) fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    pub(super) fn cookies(&self) -> &[String] {
        &self.config.cookies
    }

    pub(super) async fn identify(
        &self,
        shown: &Shown,
        client: &str,
        connect: &Connect,
    ) -> Result<ConnectionToken, NotKnown> {
        let data = serde_json::from_slice(&connect.data).ok();
        let question = Question { client, name: &connect.name, version: &connect.version, data };
        let question = serde_json::to_vec(&question).expect("text and JSON can be written as JSON");
        let answer = self.caller.ask(|| self.request(shown, question.clone())).await;
        read(&answer.map_err(|NoAnswer| NotKnown::Told(ErrorCode::INTERNAL))?)
    }

    fn request(&self, shown: &Shown, question: Vec<u8>) -> reqwest::RequestBuilder {
        let mut request =
            self.caller.client.post(&self.caller.url).header(CONTENT_TYPE, "application/json").body(question);
        for (name, value) in &shown.headers {
            request = request.header(name, value);
        }
        if !shown.cookies.is_empty() {
            let pairs: Vec<String> = shown.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if let Ok(mut line) = HeaderValue::from_str(&pairs.join("; ")) {
                line.set_sensitive(true);
                request = request.header(COOKIE, line);
            }
        }
        request
    }
}

/// What an answer says.
fn read(answer: &[u8]) -> Result<ConnectionToken, NotKnown> {
    let unreadable = |error: String| {
        tracing::warn!(error, "the business server's answer can't be used");
        NotKnown::Told(ErrorCode::INTERNAL)
    };
    let verdict: Verdict = serde_json::from_slice(answer).map_err(|e| unreadable(e.to_string()))?;
    match verdict {
        Verdict { disconnect: Some(refusal), .. } => Err(refusal.closes()),
        Verdict { error: Some(refusal), .. } => Err(refusal.tells()),
        Verdict { result: Some(good), .. } => good.grant().map_err(unreadable),
        // Without a result it says that this is nobody it knows.
        Verdict { result: None, .. } => Err(NotKnown::Nobody),
    }
}

impl Good {
    fn grant(self) -> Result<ConnectionToken, String> {
        let user = User::new(self.user).map_err(|e| e.to_string())?;
        let info = match (&self.b64info, &self.info) {
            (Some(text), _) => info(&STANDARD.decode(text).map_err(|e| format!("b64info: {e}"))?),
            (None, Some(json)) => info(json.get().as_bytes()),
            (None, None) => Ok(bytes::Bytes::new()),
        };
        let room = |name: &String| Ok((RoomId::new(name)?, Overrides::default()));
        let rooms: Result<_, roomring_proto::InvalidId> = self.channels.iter().map(room).collect();
        Ok(ConnectionToken {
            info: info.map_err(|e| format!("info: {e}"))?,
            expires: self.expire_at.filter(|at| *at > 0).map(Unix),
            rooms: rooms.map_err(|e| format!("channels: {e}"))?,
            ..ConnectionToken::unsigned(user)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let good = r#"{"result":{"user":"ann","info":{"n": 1},"expire_at":9,"channels":["a"],"later":1}}"#;
        let granted = read(good.as_bytes()).unwrap();
        assert_eq!(
            (granted.user.as_str(), &granted.info[..], granted.expires),
            ("ann", &br#"{"n": 1}"#[..], Some(Unix(9)))
        );
        assert!(granted.rooms.keys().map(RoomId::as_str).eq(["a"]) && !granted.signed);
        let refused = |answer: &str| read(answer.as_bytes()).unwrap_err();
        for (answer, wanted) in [
            ("{}", NotKnown::Nobody),
            (r#"{"result":null}"#, NotKnown::Nobody),
            ("", NotKnown::Told(ErrorCode::INTERNAL)),
            (r#"{"result":{}}"#, NotKnown::Told(ErrorCode::INTERNAL)),
            (r#"{"result":{"user":"a\nb"}}"#, NotKnown::Told(ErrorCode::INTERNAL)),
            (r#"{"result":{"user":"a","channels":[""]}}"#, NotKnown::Told(ErrorCode::INTERNAL)),
            (r#"{"error":{"code":1000,"message":"no"}}"#, NotKnown::Told(ErrorCode::PERMISSION_DENIED)),
            (r#"{"error":{"code":111}}"#, NotKnown::Told(ErrorCode::TOO_MANY_REQUESTS)),
            (r#"{"disconnect":{"code":4500,"reason":"no"}}"#, NotKnown::Closed(CloseCode::PERMISSION_DENIED)),
            (r#"{"disconnect":{"code":4001}}"#, NotKnown::Closed(CloseCode::FORCE_RECONNECT)),
        ] {
            assert_eq!(refused(answer), wanted, "{answer}");
        }
    }
}
