//! Who a client is according to others: the session store of the business server, or the business server itself.

mod breaker;
mod caller;
mod config;
mod http;
mod permit;
mod session;

use std::pin::Pin;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use roomring_proto::client::Connect;
use roomring_proto::close::{CloseCode, ErrorCode};

pub use config::{ConnectCall, SessionCookie};
use http::Business;
pub use permit::{Act, PermitCall, Permits, Question, Verdict};
use session::Sessions;

use super::ConnectionToken;

/// Most bytes of headers that are kept of a handshake.
const HEADER_BYTES: usize = 16 << 10;

/// What a client showed in its handshake, as far as somebody is to be shown it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    cookie: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cookies: Vec<(String, String)>,
}

/// Why a client that others were asked about does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotKnown {
    /// It is told, and may come back.
    Told(ErrorCode),
    /// It is closed.
    Closed(CloseCode),
    /// Nobody knows it: the next way in is tried.
    Nobody,
}

/// An answer that somebody else has to give first.
pub struct Lookup(pub(crate) Pin<Box<dyn Future<Output = Result<ConnectionToken, NotKnown>> + Send>>);

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookup")
    }
}

/// Those who are asked: first the session store, then the business server.
#[derive(Debug, Default)]
pub struct Outside {
    sessions: Option<Sessions>,
    business: Option<Business>,
}

impl Outside {
    /// Asks whoever is configured.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn new(
        cookie: Option<&SessionCookie>,
        connect: Option<&ConnectCall>,
        client: &reqwest::Client,
    ) -> Result<Self, roomring_control::daemon::Invalid> {
        Ok(Self {
            sessions: cookie.map(Sessions::new).transpose()?,
            business: connect.map(|connect| Business::new(connect, client.clone())).transpose()?,
        })
    }

    /// What is to be kept of a handshake's headers.
    pub fn shown(&self, headers: &HeaderMap) -> Shown {
        let mut shown = Shown::default();
        if let Some(sessions) = &self.sessions {
            shown.cookie = cookie(headers, sessions.cookie()).filter(|value| value.len() <= HEADER_BYTES);
        }
        if let Some(business) = &self.business {
            let mut left = HEADER_BYTES;
            for name in business.headers() {
                for value in headers.get_all(name) {
                    if value.len() <= left {
                        left -= value.len();
                        shown.headers.push((name.clone(), value.clone()));
                    }
                }
            }
            for name in business.cookies() {
                if let Some(value) = cookie(headers, name).filter(|value| value.len() <= left) {
                    left -= value.len();
                    shown.cookies.push((name.clone(), value));
                }
            }
        }
        shown
    }

    /// Whether anybody is to be asked about a client that showed this.
    pub fn asks(&self, shown: &Shown) -> bool {
        self.business.is_some() || shown.cookie.is_some()
    }

    /// Asks. `client` is the id that the connection has.
    ///
    /// # Errors
    /// Why it does not get in.
    pub async fn identify(&self, shown: &Shown, client: &str, connect: &Connect) -> Result<ConnectionToken, NotKnown> {
        if let (Some(sessions), Some(cookie)) = (&self.sessions, &shown.cookie) {
            match sessions.identify(cookie).await {
                Err(NotKnown::Nobody) => {}
                known => return known,
            }
        }
        match &self.business {
            Some(business) => business.identify(shown, client, connect).await,
            None => Err(NotKnown::Nobody),
        }
    }
}

/// The first cookie of that name.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(hyper::header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(n, _)| *n == name).map(|(_, value)| value.trim_matches('"').to_owned()).next()
}

/// JSON shown to others, if it may be.
fn info(json: &[u8]) -> Result<Bytes, String> {
    let info = roomring_proto::client::json::embeddable(json).map_err(|e| e.to_string())?;
    if info.len() > roomring_proto::limits::INFO_BYTES {
        return Err(format!("has {} bytes, the limit is {}", info.len(), roomring_proto::limits::INFO_BYTES));
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found() {
        let mut headers = HeaderMap::new();
        for line in ["a=1; sid=x%20y ; sid=z", "b=\"q\""] {
            headers.append("cookie", line.parse().unwrap());
        }
        let found = |name| cookie(&headers, name);
        assert_eq!(found("sid").as_deref(), Some("x%20y"));
        assert_eq!((found("b").as_deref(), found("si"), found("")), (Some("q"), None, None));
    }
}
