//! The business server, asked what a client may do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use roomring_control::daemon::{Invalid, Span};
use roomring_proto::RoomId;
use roomring_proto::close::{CloseCode, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::NotKnown;
use super::caller::{self, Caller};
use super::http::Refusal;
use crate::hub::api::Client;

/// Questions at once. When all of a router's clients come back there are many more, and they wait here.
const AT_ONCE: usize = 256;

/// The call of the business server: `[permit]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermitCall {
    /// Where to: `http://` or `https://`.
    pub url: String,
    /// Time for an answer, with all tries.
    #[serde(default = "two_seconds")]
    pub timeout: Span,
    /// How often it is tried again.
    #[serde(default = "retries")]
    pub retries: u32,
}

impl PermitCall {
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), Invalid> {
        caller::check("permit", &self.url, self.timeout, self.retries)
    }
}

fn two_seconds() -> Span {
    Span::secs(2)
}
fn retries() -> u32 {
    1
}

/// What a client may have to be allowed by the business server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// To join.
    Subscribe,
    /// To publish.
    Publish,
}

/// What the business server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Yes,
    /// It may not, or not now.
    No(ErrorCode),
    /// It is closed.
    Closed(CloseCode),
}

/// A question that is under way.
pub struct Question {
    /// The room that it is about.
    pub room: RoomId,
    pub(crate) answer: std::pin::Pin<Box<dyn Future<Output = Verdict> + Send>>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("room", &self.room).finish_non_exhaustive()
    }
}

/// Who is asked.
pub struct Permits {
    caller: Caller,
    timeout: Duration,
    places: Semaphore,
}

impl fmt::Debug for Permits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permits").field("url", &self.caller.url).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    ask: Act,
    channel: &'a str,
    user: &'a str,
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

impl Permits {
    /// Asks nobody yet.
    pub fn new(config: &PermitCall, client: reqwest::Client) -> Self {
        Self {
            caller: Caller::new(client, config.url.clone(), config.timeout, config.retries),
            timeout: config.timeout.0,
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// The question whether a client may do something, of which `data` is the payload, if it has one.
    pub fn question(self: &Arc<Self>, act: Act, room: RoomId, client: &Client, data: Option<&Bytes>) -> Question {
        let json = data.and_then(|data| serde_json::from_slice::<&RawValue>(data).ok());
        let wire = Wire {
            ask: act,
            channel: room.as_str(),
            user: &client.user,
            client: &client.id,
            data: json,
            b64data: data.filter(|_| json.is_none()).map(|data| STANDARD.encode(data)),
        };
        let wire = Bytes::from(serde_json::to_vec(&wire).expect("text and JSON can be written as JSON"));
        let permits = self.clone();
        Question { room, answer: Box::pin(async move { permits.ask(wire).await }) }
    }

    async fn ask(&self, question: Bytes) -> Verdict {
        // Who waits for a place so long that there would be no time to ask gives up.
        let Ok(Ok(_place)) = timeout(self.timeout, self.places.acquire()).await else {
            return Verdict::No(ErrorCode::TOO_MANY_REQUESTS);
        };
        let make = || {
            let request = self.caller.client.post(&self.caller.url);
            request.header(CONTENT_TYPE, "application/json").body(question.clone())
        };
        self.caller.ask(make).await.map_or(Verdict::No(ErrorCode::INTERNAL), |answer| read(&answer))
    }
}

/// `{"result": {}}`, `{"error": {...}}` or `{"disconnect": {...}}`.
#[derive(Deserialize)]
struct Answer {
    result: Option<serde::de::IgnoredAny>,
    error: Option<Refusal>,
    disconnect: Option<Refusal>,
}

/// What an answer says. One that says nothing allows nothing.
fn read(answer: &[u8]) -> Verdict {
    match serde_json::from_slice(answer) {
        Ok(Answer { disconnect: Some(refusal), .. }) => refused(refusal.closes()),
        Ok(Answer { error: Some(refusal), .. }) => refused(refusal.tells()),
        Ok(Answer { result: Some(_), .. }) => Verdict::Yes,
        Ok(_) => Verdict::No(ErrorCode::PERMISSION_DENIED),
        Err(error) => {
            tracing::warn!(%error, "the business server's answer can't be used");
            Verdict::No(ErrorCode::INTERNAL)
        }
    }
}

fn refused(why: NotKnown) -> Verdict {
    match why {
        NotKnown::Told(error) => Verdict::No(error),
        NotKnown::Closed(code) => Verdict::Closed(code),
        NotKnown::Nobody => Verdict::No(ErrorCode::PERMISSION_DENIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_result_allows() {
        for (answer, wanted) in [
            (r#"{"result":{}}"#, Verdict::Yes),
            (r#"{"result":{"later":1}}"#, Verdict::Yes),
            ("{}", Verdict::No(ErrorCode::PERMISSION_DENIED)),
            (r#"{"result":null}"#, Verdict::No(ErrorCode::PERMISSION_DENIED)),
            (r#"{"error":{"code":1000},"result":{}}"#, Verdict::No(ErrorCode::PERMISSION_DENIED)),
            (r#"{"error":{"code":111}}"#, Verdict::No(ErrorCode::TOO_MANY_REQUESTS)),
            (r#"{"disconnect":{"code":4500}}"#, Verdict::Closed(CloseCode::PERMISSION_DENIED)),
            ("yes", Verdict::No(ErrorCode::INTERNAL)),
            ("", Verdict::No(ErrorCode::INTERNAL)),
        ] {
            assert_eq!(read(answer.as_bytes()), wanted, "{answer}");
        }
    }
}
