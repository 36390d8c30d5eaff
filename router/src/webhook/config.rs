//! Where events go: `[webhook]`.

use std::path::PathBuf;

use roomring_control::daemon::{Invalid, Span};
use serde::Deserialize;

/// The variable that may hold the secret.
const SECRET: &str = "ROOMRING_WEBHOOK_SECRET";

/// Shortest secret, in bytes.
const SECRET_BYTES: usize = 16;

/// Events older than that are of no use to anybody, and what waits is bounded anyway.
const LONGEST: Span = Span::secs(3_600);

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where to: `http://` or `https://`.
    pub url: String,
    /// Where the secret that requests are signed with is; `None` = in the environment.
    pub secret_file: Option<PathBuf>,
    /// Time for one answer.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// An event that was not taken by then is dropped.
    #[serde(default = "deadline")]
    pub deadline: Span,
}

impl WebhookConfig {
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), Invalid> {
        if !self.url.starts_with("http://") && !self.url.starts_with("https://") {
            return Err(Invalid::new("webhook.url", "expected a URL such as https://example.com/events"));
        }
        for (field, span) in [("webhook.timeout", self.timeout), ("webhook.deadline", self.deadline)] {
            if span.0.is_zero() || span > LONGEST {
                return Err(Invalid::new(field, format!("must be over 0s and at most {LONGEST}")));
            }
        }
        Ok(())
    }

    /// The secret, from its file or else the environment: no flag has it, since everybody on the machine sees flags.
    ///
    /// # Errors
    /// If there is none that can be used.
    pub(super) fn secret(&self) -> Result<Vec<u8>, Invalid> {
        let (field, secret) = match &self.secret_file {
            Some(path) => {
                let bad = |e| Invalid::new("webhook.secret_file", format!("{}: {e}", path.display()));
                ("webhook.secret_file", std::fs::read(path).map_err(bad)?)
            }
            None => match std::env::var(SECRET) {
                Ok(secret) => (SECRET, secret.into_bytes()),
                Err(_) => return Err(Invalid::new("webhook.secret_file", format!("is needed, or {SECRET}"))),
            },
        };
        // Editors and `echo` end files with a newline.
        let secret = secret.trim_ascii_end();
        if secret.len() < SECRET_BYTES {
            let problem = format!("has {} bytes, it must have at least {SECRET_BYTES}", secret.len());
            return Err(Invalid::new(field, problem));
        }
        Ok(secret.to_vec())
    }
}

fn timeout() -> Span {
    Span::secs(5)
}
fn deadline() -> Span {
    Span::secs(60)
}
