//! Every rule of the protocol, its switch, the bounds in which it is missed when it is off, and the invariant that misses
//! it. The table is asserted whole.

use roomring_node::slot::Rule;
use roomring_proto::{Incarnation, Seat, Version};
use roomring_router::hub::core::Rule as RouterRule;
use roomring_tests::model::Action::{self, Admit, Attach, Crash, Deliver, Expire, Publish, Recreate, Switch, View};
use roomring_tests::model::{Bounds, Mutant, SlotModel};
use stateright::HasDiscoveries;

use super::{NONE, check, check_until, failures};

const A: Incarnation = Incarnation(1);
const B: Incarnation = Incarnation(2);
const C: Incarnation = Incarnation(3);
const V2: Version = Version(2);
const V3: Version = Version(3);

const fn seat(incarnation: Incarnation) -> Seat {
    Seat { incarnation, since: Version(1) }
}

const fn to(opener: Incarnation, other: Incarnation) -> Action {
    Deliver { opener, other, back: false }
}

const fn back(opener: Incarnation, other: Incarnation) -> Action {
    Deliver { opener, other, back: true }
}

/// An append of A is on its way to C while B becomes primary, brings both others to its log, and takes another entry.
const LATE_APPEND: &[Action] =
    &[Publish, Switch(seat(B)), View(B, V2), View(A, V2), to(B, A), back(B, A), to(B, C), back(B, C), Attach(V2)];

/// C acknowledged an entry of A, and dropped it for B, before A became primary again.
const LATE_ACKNOWLEDGEMENT: &[Action] =
    &[Publish, to(A, C), Switch(seat(B)), View(B, V2), to(B, C), Switch(seat(A)), View(A, V3)];

/// The same, and A had counted it.
const COUNTED: &[Action] =
    &[Publish, to(A, C), back(A, C), Switch(seat(B)), View(B, V2), to(B, C), Switch(seat(A)), View(A, V3)];

/// B has caught up, and its proposal is under way.
const PROPOSED: &[Action] =
    &[Admit(B), View(A, V2), View(B, V2), to(A, B), back(A, B), to(A, B), back(A, B), to(A, B), back(A, B)];

/// What A said of a publish is still under way when the router attaches to B, which is primary in a later term.
const SAID_BEFORE_A_SWITCH: &[Action] =
    &[Publish, to(A, B), back(A, B), Switch(seat(B)), View(B, V2), View(A, V2), Attach(V2)];

/// The same of a slot that was recreated on B since.
const SAID_BEFORE_A_RECREATION: &[Action] = &[Publish, Expire(A), Crash(A), Recreate(B), View(B, V2), Attach(V2)];

const RECREATE: Bounds = Bounds { writes: 1, expiries: 2, recreate: true, ..NONE };
const CATCH_UP: Bounds = Bounds { in_sync: 1, writes: 2, admit: true, ..NONE };
const SWITCH: Bounds = Bounds { writes: 1, switch: true, attaches: 2, ..NONE };
const AWAY_AND_BACK: Bounds = Bounds { writes: 2, remove: true, admit: true, ..NONE };
const THREE: Bounds = Bounds { nodes: 3, in_sync: 3, attaches: 0, publishes: 0, ..NONE };
const ALONE: Bounds = Bounds { nodes: 1, in_sync: 1, attaches: 2, ..RECREATE };

/// A rule of the design.
struct Row {
    rule: &'static str,
    off: Mutant,
    bounds: Bounds,
    /// Rules of the router that are off too.
    beside: &'static [RouterRule],
    prefix: &'static [Action],
    missed_by: &'static str,
}

const fn row(rule: &'static str, off: Mutant, bounds: Bounds, missed_by: &'static str) -> Row {
    Row { rule, off, bounds, beside: &[], prefix: &[], missed_by }
}

const fn slot(rule: &'static str, off: Rule, bounds: Bounds, missed_by: &'static str) -> Row {
    row(rule, Mutant::Slot(off), bounds, missed_by)
}

/// A rule of the router that others stand in for, unless they are off too.
const fn router(
    rule: &'static str,
    off: RouterRule,
    beside: &'static [RouterRule],
    bounds: Bounds,
    missed_by: &'static str,
) -> Row {
    Row { beside, ..row(rule, Mutant::Router(off), bounds, missed_by) }
}

const fn after(prefix: &'static [Action], row: Row) -> Row {
    Row { prefix, ..row }
}

fn table() -> Vec<Row> {
    vec![
        // Seats and terms.
        row("a seat is never used twice", Mutant::SeatReused, AWAY_AND_BACK, "SeatNeverReused"),
        row(
            "a successor has another incarnation",
            Mutant::IncarnationKept,
            Bounds { crashes: 1, restarts: 1, ..NONE },
            "ProgressMatchesSeat",
        ),
        slot(
            "data goes with its seat and generation",
            Rule::DropsDataWithSeat,
            Bounds { crashes: 1, ..RECREATE },
            "IdsEqualLog",
        ),
        slot("messages name both seats", Rule::SeatsNamed, AWAY_AND_BACK, "ProgressMatchesSeat"),
        after(
            LATE_APPEND,
            slot(
                "a lower term is refused",
                Rule::RefusesLowerTerm,
                Bounds { calm_one_in: 1, ..THREE },
                "EventuallyServes",
            ),
        ),
        slot("a refused primary stops", Rule::StopsAtHigherTerm, SWITCH, "LeadsHighestSeen"),
        after(
            LATE_ACKNOWLEDGEMENT,
            slot(
                "acknowledgements count per term",
                Rule::CountsItsTermOnly,
                Bounds { calm_one_in: 4096, ..THREE },
                "ProgressMatchesSeat",
            ),
        ),
        // The placement.
        slot(
            "a proposed learner holds all that is committed",
            Rule::ProposesWhoHoldsAll,
            CATCH_UP,
            "InSyncHoldsCommitted",
        ),
        row("a learner goes in sync by its primary's word", Mutant::IntoSyncUnasked, CATCH_UP, "WaitSetCoversInSync"),
        after(
            PROPOSED,
            row(
                "a proposal lands on its base only",
                Mutant::BaseIgnored,
                Bounds { nodes: 3, ..CATCH_UP },
                "WaitSetCoversInSync",
            ),
        ),
        slot("a proposed seat is waited for", Rule::WaitsForProposed, CATCH_UP, "InSyncHoldsCommitted"),
        slot("a time-out does not end that wait", Rule::ProposalOutlastsTime, CATCH_UP, "WaitSetCoversInSync"),
        row("a switch raises the term", Mutant::TermKept, SWITCH, "OnePrimaryPerTerm"),
        row(
            "so does an eviction",
            Mutant::EvictKeepsTerm,
            Bounds { writes: 1, wrong_evictions: 1, attaches: 2, ..NONE },
            "OnePrimaryPerTerm",
        ),
        row(
            "the last copy stays",
            Mutant::LastCopyEvicted,
            Bounds { wrong_evictions: 1, ..CATCH_UP },
            "CommittedNeverTruncated",
        ),
        row(
            "recreation raises the generation",
            Mutant::GenerationKept,
            Bounds { crashes: 1, ..RECREATE },
            "CommittedNeverTruncated",
        ),
        row(
            "and the term",
            Mutant::RecreateKeepsTerm,
            Bounds { crashes: 1, restarts: 1, attaches: 2, ..RECREATE },
            "OnePrimaryPerTerm",
        ),
        row(
            "it waits until nobody in sync may have contact",
            Mutant::RecreateOnSuspicion,
            RECREATE,
            "NoAckAfterRecreate",
        ),
        row(
            "and nobody who was",
            Mutant::RecreateUnsettled,
            Bounds { writes: 2, wrong_evictions: 1, ..RECREATE },
            "NoAckAfterRecreate",
        ),
        // Promotion.
        after(
            COUNTED,
            slot(
                "promotion runs at every rise of the term",
                Rule::PromotesEveryTerm,
                Bounds { calm_one_in: 4096, ..THREE },
                "ProgressMatchesSeat",
            ),
        ),
        slot(
            "a new primary keeps its tail",
            Rule::KeepsOwnTail,
            Bounds { attaches: 1, ..SWITCH },
            "InSyncHoldsCommitted",
        ),
        slot("and commits it first", Rule::CommitsTailFirst, SWITCH, "SilentUntilPromoted"),
        slot("answering nothing before", Rule::SilentUntilPromoted, SWITCH, "SilentUntilPromoted"),
        slot(
            "nor proposing",
            Rule::ProposesOncePromoted,
            Bounds { nodes: 3, writes: 2, admit: true, attaches: 0, ..SWITCH },
            "SilentUntilPromoted",
        ),
        slot(
            "the others drop what it lacks",
            Rule::DropsWhatPrimaryLacks,
            Bounds { publishes: 2, calm_one_in: 8, ..SWITCH },
            "EventuallyServes",
        ),
        slot(
            "later appends drop nothing",
            Rule::TruncatesOnceATerm,
            Bounds { publishes: 2, breaks: 1, linger: true, ..NONE },
            "InSyncHoldsCommitted",
        ),
        // Commits.
        slot("every in-sync seat is waited for", Rule::WaitsForInSync, NONE, "InSyncHoldsCommitted"),
        slot(
            "replicas apply up to the commit point",
            Rule::AppliesCommittedOnly,
            Bounds { nodes: 3, in_sync: 3, ..NONE },
            "InSyncHoldsCommitted",
        ),
        slot("only what is committed is acknowledged", Rule::AcksOnceCommitted, NONE, "AckedImpliesCommitted"),
        slot("or delivered", Rule::DeliversOnceCommitted, NONE, "DeliveredImpliesCommitted"),
        slot(
            "the next sequence counts the tail",
            Rule::CountsTailInSeq,
            Bounds { publishes: 2, calm_one_in: 8, ..NONE },
            "EpochSeqUnique",
        ),
        row("contact", Mutant::ContactIgnored, RECREATE, "NoAckAfterRecreate"),
        slot("min_in_sync", Rule::MinInSync, Bounds { nodes: 1, in_sync: 1, min_in_sync: 2, ..NONE }, "MinInSyncHeld"),
        slot(
            "also of what was taken before",
            Rule::AcksWithMinInSync,
            Bounds { writes: 1, remove: true, min_in_sync: 2, ..NONE },
            "MinInSyncHeld",
        ),
        // Publishes that are sent again.
        slot("a number is known again", Rule::KnowsNumbers, SWITCH, "PublishAtMostOnce"),
        slot("what is remembered comes from the log", Rule::RemembersFromLog, NONE, "IdsEqualLog"),
        slot("and goes with a snapshot", Rule::SnapshotCarriesNumbers, CATCH_UP, "IdsEqualLog"),
        slot("a publish belongs to a generation", Rule::ChecksGeneration, ALONE, "PublishAtMostOnce"),
        row("and says to which", Mutant::GenerationNotSent, ALONE, "PublishAtMostOnce"),
        row("it keeps its number", Mutant::NumbersNotKept, SWITCH, "PublishAtMostOnce"),
        slot(
            "after a refusal its link is shut",
            Rule::StaysShut,
            Bounds { nodes: 1, in_sync: 1, publishes: 2, expiries: 1, attaches: 2, ..NONE },
            "PublisherOrder",
        ),
        // Attachment.
        row("a router says what it has seen", Mutant::PositionNotSent, SWITCH, "RouterNeverGoesBack"),
        slot(
            "a primary that is behind says so",
            Rule::RefusesAsStale,
            Bounds { writes: 1, wrong_evictions: 1, attaches: 2, attach_behind: true, ..NONE },
            "RouterNeverGoesBack",
        ),
        slot("a gap is told", Rule::TellsGap, ALONE, "RouterNeverGoesBack"),
        // What a router believes. Its rules stand in for each other: what one lets pass the next one stops.
        router(
            "a router delivers nothing twice",
            RouterRule::NothingTwice,
            &[RouterRule::OnlyItsLink],
            Bounds { publishes: 2, late_words: true, ..NONE },
            "RouterNeverGoesBack",
        ),
        router(
            "it listens to the link that it is attached on",
            RouterRule::OnlyItsLink,
            &[RouterRule::NothingTwice],
            Bounds { publishes: 2, late_words: true, ..NONE },
            "RouterNeverGoesBack",
        ),
        after(
            SAID_BEFORE_A_SWITCH,
            router(
                "it believes what is said in the attachment's term",
                RouterRule::OnlyItsTerm,
                &[RouterRule::OnlyItsLink, RouterRule::NothingTwice],
                Bounds { attaches: 0, late_words: true, ..NONE },
                "RouterNeverGoesBack",
            ),
        ),
        after(
            SAID_BEFORE_A_RECREATION,
            router(
                "and of no older epoch",
                RouterRule::NoOlderEpoch,
                &[RouterRule::OnlyItsLink, RouterRule::OnlyItsTerm],
                Bounds { in_sync: 1, attaches: 0, late_words: true, ..NONE },
                "DeliveredImpliesCommitted",
            ),
        ),
        router(
            "what is missing is asked for",
            RouterRule::NoHole,
            &[],
            Bounds { publishes: 2, lost_words: 1, attaches: 0, ..NONE },
            "RouterNeverGoesBack",
        ),
        router(
            "what may be in a log is not called refused",
            RouterRule::UnknownOnceSent,
            &[],
            Bounds { expiries: 1, waits: 1, ..NONE },
            "AckedSurvives",
        ),
    ]
}

#[test]
fn every_rule_that_is_off_is_missed() {
    let rows = table();
    for mutant in Mutant::all() {
        assert_eq!(rows.iter().filter(|row| row.off == mutant).count(), 1, "a row for {mutant:?}");
    }
    let only = std::env::var("ROW").ok();
    let mut blind = Vec::new();
    for row in rows.iter().filter(|row| only.as_ref().is_none_or(|only| format!("{:?}", row.off).contains(only))) {
        let Row { rule, off, bounds, beside, prefix, missed_by } = row;
        let model = SlotModel { bounds: *bounds, mutant: Some(*off), beside, prefix };
        let checker = check_until(rule, model, HasDiscoveries::AnyOf([*missed_by].into()));
        let found = failures(&checker);
        match found.iter().find(|(name, _)| name == missed_by) {
            Some((_, path)) => {
                println!("  without {off:?} {missed_by} fails after {} steps", path.len() - 1 + prefix.len());
            }
            None => blind.push((off, found.into_iter().map(|(name, _)| name).collect::<Vec<_>>())),
        }
        // The same with the rule on: it is the rule that is missed, not the prefix or the check that is wrong.
        if (!prefix.is_empty() && bounds.writes == 0) || matches!(off, Mutant::Router(_)) {
            let checker = check("  the same with the rule on", SlotModel { mutant: None, ..model });
            let missed_by = failures(&checker);
            assert!(missed_by.is_empty(), "{off:?}: {missed_by:#?}");
        }
    }
    assert!(blind.is_empty(), "not missed by what should: {blind:?}");
}
