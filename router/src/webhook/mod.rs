//! Tells the business server what happens in rooms: `[webhook]`.
//!
//! Every event is told by one router: a publication by the one that got its acknowledgement, a visit by the one that the room's
//! primary told of it. Events wait in one bounded queue, in order, and go out in signed batches, one request at a time: what comes
//! while one is under way goes with the next.

mod backlog;
mod config;
mod event;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use hyper::header::CONTENT_TYPE;
use reqwest::StatusCode;
use roomring_control::clock::unix_ms;
use roomring_control::daemon::Invalid;
use roomring_control::daemon::metrics::Counter;
use roomring_proto::{NodeId, v1};
use sha2::Sha256;
use tokio::sync::Notify;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use self::backlog::Backlog;
pub use config::WebhookConfig;
pub use event::Happening;

use crate::hub::api::Told;
use crate::metrics::{WEBHOOK_DROPPED, WEBHOOK_EXPIRED, WEBHOOK_REFUSED, WEBHOOK_TAKEN};
use crate::namespaces::Namespaces;

/// The header with the Unix time, in seconds, at which a request was signed.
const TIMESTAMP: &str = "x-roomring-timestamp";

/// The header with the signature of timestamp and body.
const SIGNATURE: &str = "x-roomring-signature";

/// Largest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;

/// Between two lines in the log about dropped events.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Whom the business server's events come from.
pub struct Webhook {
    config: WebhookConfig,
    secret: Vec<u8>,
    router: NodeId,
    namespaces: Namespaces,
    client: reqwest::Client,
    backlog: Mutex<Backlog>,
    /// There is something to be told.
    some: Notify,
    complained: Mutex<Complaint>,
}

/// What was dropped since the log last said so.
#[derive(Debug, Default)]
struct Complaint {
    dropped: u64,
    at: Option<Instant>,
}

/// Its secret is nobody's business.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("url", &self.config.url).finish_non_exhaustive()
    }
}

/// What became of a request.
enum Outcome {
    Taken,
    /// Another try will not help.
    Refused(StatusCode),
    Failed(String),
}

impl Webhook {
    /// Tells nobody yet.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub(crate) fn new(
        config: &WebhookConfig,
        router: NodeId,
        namespaces: Namespaces,
        client: reqwest::Client,
    ) -> Result<Self, Invalid> {
        Ok(Self {
            secret: config.secret()?,
            backlog: Mutex::new(Backlog::new(config.deadline.0)),
            config: config.clone(),
            router,
            namespaces,
            client,
            some: Notify::new(),
            complained: Mutex::default(),
        })
    }

    /// Nodes are to say who comes and goes.
    pub(crate) fn wants_visits(&self) -> bool {
        self.namespaces.tells(|happening| happening != Happening::Published)
    }

    /// The room's primary says that somebody came or went.
    pub(crate) fn visit(&self, visit: &v1::Visit) {
        for event in event::visit(visit, &self.namespaces) {
            self.push(event);
        }
    }

    /// A client's publish was acknowledged.
    pub(crate) fn published(&self, told: &Told) {
        if let Some(event) = event::published(told, unix_ms(), &self.namespaces) {
            self.push(event);
        }
    }

    /// Events that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog(|backlog| backlog.len())
    }

    fn push(&self, event: Vec<u8>) {
        if self.backlog(|backlog| backlog.push(Instant::now(), event)) {
            self.some.notify_one();
        } else {
            self.lost(&WEBHOOK_DROPPED, 1, "too many wait");
        }
    }

    /// Tells the business server until `stop` is cancelled, and then what waits still, until a request fails.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let old = self.backlog(|backlog| backlog.expire(Instant::now()));
            self.lost(&WEBHOOK_EXPIRED, old as u64, "they were not taken in time");
            let due = self.backlog(|backlog| backlog.due(Instant::now()));
            tokio::select! {
                () = self.some.notified(), if due.is_none() => continue,
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
                () = stop.cancelled() => break,
            }
            self.tell().await;
        }
        while self.waiting() > 0 && self.tell().await {}
        let left = self.backlog(|backlog| {
            let left = backlog.len();
            backlog.done(left);
            left
        });
        self.lost(&WEBHOOK_DROPPED, left as u64, "the router stops");
    }

    /// Makes one request; false if it failed.
    async fn tell(&self) -> bool {
        let (count, events) = self.backlog(|backlog| backlog.batch());
        let outcome = self.send(&events).await;
        let now = Instant::now();
        match outcome {
            Outcome::Taken => {
                if self.backlog(|backlog| backlog.fails()) {
                    tracing::info!(url = self.config.url, "the business server takes events again");
                }
                self.backlog(|backlog| backlog.done(count));
                WEBHOOK_TAKEN.add(count as u64);
            }
            Outcome::Refused(status) => {
                self.backlog(|backlog| backlog.done(count));
                self.lost(&WEBHOOK_REFUSED, count as u64, &format!("the business server answered {status}"));
            }
            Outcome::Failed(error) => {
                if self.backlog(|backlog| backlog.failed(now, rand::random())) {
                    tracing::warn!(url = self.config.url, error, "the business server does not take events; trying on");
                }
                return false;
            }
        }
        true
    }

    async fn send(&self, events: &[u8]) -> Outcome {
        let mut body = format!("{{\"router\":\"{}\",\"events\":[", self.router).into_bytes();
        body.extend_from_slice(events);
        body.extend_from_slice(b"]}");
        let timestamp = (unix_ms() / 1_000).to_string();
        let request = self
            .client
            .post(&self.config.url)
            .timeout(self.config.timeout.0)
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE, signature(&self.secret, &timestamp, &body))
            .header(TIMESTAMP, timestamp)
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                if answer.content_length().is_some_and(|length| length <= ANSWER_BYTES) {
                    // Read to its end a connection is used again. What it says is of no interest.
                    let _ = answer.bytes().await;
                }
                Outcome::Taken
            }
            Ok(answer) if may_pass(answer.status()) => Outcome::Failed(format!("the status is {}", answer.status())),
            Ok(answer) => Outcome::Refused(answer.status()),
            Err(e) => Outcome::Failed(crate::auth::cause(e)),
        }
    }

    /// Counts events that are told no more, and says so from time to time.
    fn lost(&self, counter: &Counter, count: u64, why: &str) {
        if count == 0 {
            return;
        }
        counter.add(count);
        let mut complaint = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        complaint.dropped += count;
        if complaint.at.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            complaint.at = Some(Instant::now());
            let dropped = std::mem::take(&mut complaint.dropped);
            tracing::warn!(url = self.config.url, dropped, why, "the business server is not told of some events");
        }
    }

    fn backlog<T>(&self, f: impl FnOnce(&mut Backlog) -> T) -> T {
        // Whole between any two statements of it.
        f(&mut self.backlog.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a server says that is not there, not ready, or busy.
fn may_pass(status: StatusCode) -> bool {
    let waits = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() || waits.contains(&status)
}

/// Of `timestamp.body`.
fn signature(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length is good");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_what_others_compute() {
        // printf '1735689600.{"events":[]}' | openssl dgst -sha256 -hmac 'a secret of sufficient length'
        let signed = signature(b"a secret of sufficient length", "1735689600", br#"{"events":[]}"#);
        assert_eq!(signed, "sha256=d103b28044ad68f05a848303f980394ac76a4300c5a1ce1346fc0a744956f478");
    }
}
