//! What a slot of the router does not believe, as switches, so that the checks in `tests/` can turn some off and see that
//! they are missed.
//!
//! Without the feature `mutants` every rule is kept and [`Rules::keep`] is the constant `true`: nothing of this is left in
//! what is compiled.

/// A rule that lives in the slot's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Only the link that the slot is attached on, or attaching on, is listened to.
    OnlyItsLink,
    /// A delivery of another term than the attachment's is not taken.
    OnlyItsTerm,
    /// An epoch older than the room's is not taken.
    NoOlderEpoch,
    /// What was delivered before is not delivered again.
    NothingTwice,
    /// Where a publication is missing the room is attached again.
    NoHole,
    /// A publish that may be in some log is not called refused.
    UnknownOnceSent,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::OnlyItsLink,
        Self::OnlyItsTerm,
        Self::NoOlderEpoch,
        Self::NothingTwice,
        Self::NoHole,
        Self::UnknownOnceSent,
    ];
}

/// Which rules are kept: all, unless a check turned some off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    #[cfg(feature = "mutants")]
    off: u8,
}

impl Rules {
    /// All but these.
    #[cfg(feature = "mutants")]
    pub fn without(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { off: rules.into_iter().fold(0, |off, rule| off | 1 << rule as u8) }
    }

    /// Whether a rule is kept.
    #[cfg(feature = "mutants")]
    pub(super) const fn keep(self, rule: Rule) -> bool {
        self.off & (1 << rule as u8) == 0
    }

    /// Whether a rule is kept.
    #[cfg(not(feature = "mutants"))]
    pub(super) const fn keep(self, _: Rule) -> bool {
        true
    }
}
