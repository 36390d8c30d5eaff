//! What sessions share: who clients are, and what holds in rooms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::{Auth, Unix};
use crate::limits::{Memory, Rates};
use crate::namespaces::Namespaces;
use crate::roster::Roster;

/// The rules that every session goes by.
#[derive(Debug, Default)]
pub struct Policy {
    /// Who clients are.
    pub auth: Auth,
    /// What holds in rooms.
    pub namespaces: Namespaces,
    /// The router's name, for clients over HTTP.
    pub router: String,
    /// Who is connected, and who may not.
    pub roster: Arc<Roster>,
    /// How often users may command something, and rooms be published to.
    pub rates: Arc<Rates>,
    /// Whether there is memory for anything new.
    pub memory: Arc<Memory>,
}

/// Time of day on the clock of instants: read once, when a connection is made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    at: Instant,
    unix: Unix,
}

impl Clock {
    /// At the instant `at` it was `unix`.
    pub fn new(at: Instant, unix: Unix) -> Self {
        Self { at, unix }
    }

    pub(super) fn unix(&self, now: Instant) -> Unix {
        Unix(self.unix.0 + now.saturating_duration_since(self.at).as_secs())
    }

    /// When it is `unix`; `None` beyond what instants can tell.
    pub fn instant(&self, unix: Unix) -> Option<Instant> {
        self.at.checked_add(Duration::from_secs(unix.0.saturating_sub(self.unix.0)))
    }
}
