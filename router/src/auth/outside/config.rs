//! Whom to ask, and how.

use std::fmt;

use roomring_control::daemon::{Invalid, Span};
use serde::Deserialize;

use super::caller;

/// The session store: `[session_cookie]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionCookie {
    /// The cookie's name.
    pub name: String,
    /// Where Redis is: `redis://host:port/db`, with a password if need be.
    pub redis: String,
    /// The key of a session, with `{id}` for the cookie's value.
    #[serde(default = "key")]
    pub key: String,
    /// Where the user's name is in a session that is JSON: names of fields, with dots between them. `None`: the session is the
    /// name itself.
    pub user: Option<String>,
    /// Where what others see of the user is, if anywhere.
    pub info: Option<String>,
    /// How long an answer is remembered.
    #[serde(default = "cache")]
    pub cache: Span,
    /// Time for an answer.
    #[serde(default = "two_seconds")]
    pub timeout: Span,
}

/// Its password is nobody's business.
impl fmt::Debug for SessionCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCookie").field("name", &self.name).field("key", &self.key).finish_non_exhaustive()
    }
}

/// The call of the business server: `[connect]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectCall {
    /// Where to: `http://` or `https://`.
    pub url: String,
    /// Headers of the client's that it is shown.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Cookies of the client's that it is shown.
    #[serde(default)]
    pub cookies: Vec<String>,
    /// Time for one answer.
    #[serde(default = "two_seconds")]
    pub timeout: Span,
    /// How often it is tried again.
    #[serde(default = "retries")]
    pub retries: u32,
}

impl SessionCookie {
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.name.is_empty() || self.name.contains(|c: char| c.is_whitespace() || "=;,".contains(c)) {
            return Err(Invalid::new("session_cookie.name", "is not the name of a cookie"));
        }
        if !self.key.contains("{id}") {
            return Err(Invalid::new("session_cookie.key", "must have {id} in the place of the cookie's value"));
        }
        caller::within("session_cookie.timeout", self.timeout)
    }
}

impl ConnectCall {
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), Invalid> {
        caller::check("connect", &self.url, self.timeout, self.retries)
    }
}

fn key() -> String {
    "{id}".to_owned()
}
fn cache() -> Span {
    Span::secs(10)
}
fn two_seconds() -> Span {
    Span::secs(2)
}
fn retries() -> u32 {
    1
}
