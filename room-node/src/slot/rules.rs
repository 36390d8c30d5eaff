//! The protocol's rules as switches, so that the checks in `tests/` can turn one off and see that it is missed.
//!
//! Without the feature `mutants` every rule is kept and [`Rules::keep`] is the constant `true`: nothing of this is left in
//! what is compiled.

/// A rule that lives in the slot's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A process drops a slot's data when its seat is gone or the slot's generation rose.
    DropsDataWithSeat,
    /// A process answers for the very seat and generation that it holds, and an answer counts for the seat that gave it.
    SeatsNamed,
    /// A replica refuses a lower term than it has seen.
    RefusesLowerTerm,
    /// A primary that is refused, or sees a higher term, stops.
    StopsAtHigherTerm,
    /// An acknowledgement counts in the term that it was given in.
    CountsItsTermOnly,
    /// Promotion runs at every rise of the term.
    PromotesEveryTerm,
    /// A new primary keeps its own tail.
    KeepsOwnTail,
    /// A slot is served once the tail that its primary found is committed.
    CommitsTailFirst,
    /// A primary answers nothing before that.
    SilentUntilPromoted,
    /// A primary proposes nothing before that.
    ProposesOncePromoted,
    /// A learner is proposed once it holds everything up to the commit point.
    ProposesWhoHoldsAll,
    /// An entry is committed when every in-sync seat has it.
    WaitsForInSync,
    /// The acknowledgements of a seat proposed for in-sync are waited for too.
    WaitsForProposed,
    /// A time-out does not end that wait.
    ProposalOutlastsTime,
    /// In the first append of a term a replica drops what its primary lacks.
    DropsWhatPrimaryLacks,
    /// Later appends of a term drop nothing.
    TruncatesOnceATerm,
    /// A replica applies up to the commit point only.
    AppliesCommittedOnly,
    /// A snapshot carries the numbers of publishes.
    SnapshotCarriesNumbers,
    /// A publish is acknowledged once its entry is committed.
    AcksOnceCommitted,
    /// It is delivered once its entry is committed.
    DeliversOnceCommitted,
    /// A publish that is sent again is known by its number.
    KnowsNumbers,
    /// What is remembered of publishes is derived from the log.
    RemembersFromLog,
    /// A publish belongs to the generation that it was first sent in.
    ChecksGeneration,
    /// The next sequence counts the uncommitted entries.
    CountsTailInSeq,
    /// A primary that is behind what a router has seen answers `stale`.
    RefusesAsStale,
    /// A router that can not be given everything it missed is told of the gap.
    TellsGap,
    /// After a refused publish nothing is taken from its link until it attaches again.
    StaysShut,
    /// Fewer in-sync seats than `min_in_sync` take no publish.
    MinInSync,
    /// They acknowledge none either, also not one that was taken when there were enough.
    AcksWithMinInSync,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::DropsDataWithSeat,
        Self::SeatsNamed,
        Self::RefusesLowerTerm,
        Self::StopsAtHigherTerm,
        Self::CountsItsTermOnly,
        Self::PromotesEveryTerm,
        Self::KeepsOwnTail,
        Self::CommitsTailFirst,
        Self::SilentUntilPromoted,
        Self::ProposesOncePromoted,
        Self::ProposesWhoHoldsAll,
        Self::WaitsForInSync,
        Self::WaitsForProposed,
        Self::ProposalOutlastsTime,
        Self::DropsWhatPrimaryLacks,
        Self::TruncatesOnceATerm,
        Self::AppliesCommittedOnly,
        Self::SnapshotCarriesNumbers,
        Self::AcksOnceCommitted,
        Self::DeliversOnceCommitted,
        Self::KnowsNumbers,
        Self::RemembersFromLog,
        Self::ChecksGeneration,
        Self::CountsTailInSeq,
        Self::RefusesAsStale,
        Self::TellsGap,
        Self::StaysShut,
        Self::MinInSync,
        Self::AcksWithMinInSync,
    ];
}

/// Which rules are kept: all, unless a check turned one off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    #[cfg(feature = "mutants")]
    off: Option<Rule>,
}

impl Rules {
    /// All but one.
    #[cfg(feature = "mutants")]
    pub const fn without(rule: Rule) -> Self {
        Self { off: Some(rule) }
    }

    /// Whether a rule is kept.
    #[cfg(feature = "mutants")]
    pub(super) fn keep(self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Whether a rule is kept.
    #[cfg(not(feature = "mutants"))]
    pub(super) const fn keep(self, _: Rule) -> bool {
        true
    }
}
