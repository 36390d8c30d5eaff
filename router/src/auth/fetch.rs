//! Requests to servers of the application: bounded in time and size.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use tokio::time::timeout;

/// Why there is no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// It did not come in time.
    #[error("no answer in time")]
    Late,
    /// The server can't be reached, or broke off.
    #[error("{0}")]
    Broken(String),
    /// It has another status than 200.
    #[error("the status is {0}")]
    Status(StatusCode),
    /// It is too large.
    #[error("the answer has more than {0} bytes")]
    Large(usize),
    /// It is not what it should be.
    #[error("the answer can't be read: {0}")]
    Unreadable(String),
}

impl Failed {
    /// Another try may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Late | Self::Broken(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Large(_) | Self::Unreadable(_) => false,
        }
    }
}

/// The innermost cause, which says what a person needs. The URL, which may hold a password, is left out.
pub(crate) fn cause(e: reqwest::Error) -> String {
    let e = e.without_url();
    let mut cause: &dyn std::error::Error = &e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The body of an answer with status 200.
pub(super) async fn body(request: RequestBuilder, most: usize, within: Duration) -> Result<Vec<u8>, Failed> {
    let broken = |e| Failed::Broken(cause(e));
    let exchange = async {
        let mut answer = request.send().await.map_err(broken)?;
        if answer.status() != StatusCode::OK {
            return Err(Failed::Status(answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > most {
                return Err(Failed::Large(most));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    timeout(within, exchange).await.unwrap_or(Err(Failed::Late))
}
