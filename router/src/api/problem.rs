//! Why a call of the business server was not done.

use std::fmt::Display;

use roomring_proto::close::ErrorCode;
use serde::Serialize;

/// Code and text, as clients are told them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    code: u32,
    message: String,
}

impl Problem {
    /// Something in the request can't be used.
    pub(super) fn bad(field: &str, problem: impl Display) -> Self {
        Self { code: ErrorCode::BAD_REQUEST.code, message: format!("{field}: {problem}") }
    }

    /// A bound of this interface was met.
    pub(super) fn limit(field: &str, problem: impl Display) -> Self {
        Self { code: ErrorCode::LIMIT_EXCEEDED.code, message: format!("{field}: {problem}") }
    }

    /// The request can't be read.
    pub(super) fn unreadable(problem: impl Display) -> Self {
        Self { code: ErrorCode::BAD_REQUEST.code, message: problem.to_string() }
    }

    /// A passing trouble.
    pub(super) fn passing(problem: impl Display) -> Self {
        Self { code: ErrorCode::INTERNAL.code, message: problem.to_string() }
    }
}

impl From<ErrorCode> for Problem {
    fn from(error: ErrorCode) -> Self {
        Self { code: error.code, message: error.message.to_owned() }
    }
}
