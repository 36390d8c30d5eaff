//! What a primary checks before it logs.

/// A limit would be passed. The text names what and the limit, for the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: the limit is {limit}")]
pub struct LimitMet {
    what: &'static str,
    limit: usize,
}

impl LimitMet {
    /// Fails if `count` more than what is there (`held`) passes `limit`.
    pub(super) fn check(what: &'static str, held: usize, count: usize, limit: usize) -> Result<(), Self> {
        if held.saturating_add(count) > limit { Err(Self { what, limit }) } else { Ok(()) }
    }
}
