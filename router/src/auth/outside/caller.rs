//! Questions to the business server: each with a deadline for all its tries, none while the server fails again and again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use roomring_control::daemon::{Invalid, Span};
use tokio::time::sleep;

use super::breaker::Breaker;
use crate::auth::fetch::{self, Failed};

/// Before another try.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Largest answer, in bytes.
const ANSWER_BYTES: usize = 256 << 10;

/// Clients wait 5 s for an answer.
const LONGEST: Span = Span::secs(4);

/// More would only hold up the client.
const RETRIES: u32 = 5;

/// Whom to ask.
pub(super) struct Caller {
    pub(super) client: reqwest::Client,
    pub(super) url: String,
    timeout: Duration,
    retries: u32,
    breaker: Mutex<Breaker>,
}

/// There is no answer.
#[derive(Debug)]
pub(super) struct NoAnswer;

impl Caller {
    /// `within` is the time for all tries together.
    pub(super) fn new(client: reqwest::Client, url: String, within: Span, retries: u32) -> Self {
        Self { client, url, timeout: within.0, retries, breaker: Mutex::default() }
    }

    /// The body of the answer to the request that `make` makes, as often as need be.
    pub(super) async fn ask(&self, make: impl Fn() -> RequestBuilder) -> Result<Vec<u8>, NoAnswer> {
        let began = Instant::now();
        let mut tries = 0;
        loop {
            if !self.breaker(|breaker| breaker.admits(Instant::now())) {
                return Err(NoAnswer);
            }
            let left = self.timeout.saturating_sub(began.elapsed());
            let answer = fetch::body(make(), ANSWER_BYTES, left).await;
            // A refusal by status is an answer: the server is there.
            let well = !answer.as_ref().is_err_and(Failed::may_pass);
            if self.breaker(|breaker| breaker.ended(Instant::now(), well)) {
                tracing::warn!(url = self.url, "the business server fails again and again: it is left alone");
            }
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::warn!(url = self.url, %error, "the business server does not answer");
                    let late = began.elapsed() + AGAIN_AFTER >= self.timeout;
                    if well || late || tries >= self.retries {
                        return Err(NoAnswer);
                    }
                }
            }
            tries += 1;
            sleep(AGAIN_AFTER).await;
        }
    }

    fn breaker<T>(&self, f: impl FnOnce(&mut Breaker) -> T) -> T {
        f(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Checks the settings of the caller in the section `name`.
pub(super) fn check(name: &str, url: &str, timeout: Span, retries: u32) -> Result<(), Invalid> {
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Invalid::new(&format!("{name}.url"), "expected a URL such as https://example.com/connect"));
    }
    if retries > RETRIES {
        return Err(Invalid::new(&format!("{name}.retries"), format!("must be at most {RETRIES}")));
    }
    within(&format!("{name}.timeout"), timeout)
}

/// Checks a time that a client waits.
pub(super) fn within(field: &str, span: Span) -> Result<(), Invalid> {
    if span.0.is_zero() || span > LONGEST {
        return Err(Invalid::new(field, format!("must be over 0s and at most {LONGEST}: clients wait 5s")));
    }
    Ok(())
}
