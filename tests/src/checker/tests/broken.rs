//! For each rule, histories that break it and nothing else (or say what else).

use super::{broken, script};

/// The rules broken, the history.
const BROKEN: [(&str, &str); 29] = [
    ("AckedDeliveredOrTold", "ann enters r e1/0\nann sends r 1 x\nann acked 1"),
    ("AckedDeliveredOrTold", "ann enters r e1/0\nbob enters r e1/0\nann sends r 1 x\nann hears r 1 x\nann acked 1"),
    // Recovered, so not told.
    (
        "AckedDeliveredOrTold",
        "ann enters r e1/0\nann sends r 1 x\nann acked 1 e1/1\nann dropped r\nann asks r e1/0\nann recovers r e1/0",
    ),
    // Acknowledged in an epoch that its members never hear of.
    ("AckedDeliveredOrTold", "ann enters r e1/0\nann sends r 1 x\nann acked 1 e2/1"),
    (
        "NoDuplicateDelivery CausalOrder PublisherFifo",
        "ann enters r e1/0\nann sends r 1 x\nann acked 1\nann hears r 1 x\nann sends r 2 y\nann hears r 2 y\nann hears r 3 x\nann sends r 3 z\nann hears r 4 w\nann hears r 5 v\nann sends r 4 w",
    ),
    ("NoDuplicateDelivery", "ann enters r e1/0\nann sends r 1 x\nann hears r 1 x\nann hears r 2 x"),
    // Told of a new epoch, and the old message again in it.
    (
        "NoDuplicateDelivery",
        "ann enters r e1/0\nann sends r 1 x\nann hears r 1 x\nann dropped r\nann unrecovered r e2/0\nann hears r 1 x",
    ),
    ("GapFreeOrRecoveredFalse", "ann enters r e1/0\nann hears r 1 x\nann hears r 3 y"),
    ("GapFreeOrRecoveredFalse", "ann enters r e1/0\nann hears r 1 x\nann hears r 1 x"),
    ("GapFreeOrRecoveredFalse", "ann enters r e1/5\nann hears r 5 x"),
    ("GapFreeOrRecoveredFalse", "ann hears r 1 x"),
    ("GapFreeOrRecoveredFalse", "ann enters r e1/0\nann goes r\nann join r bob"),
    ("GapFreeOrRecoveredFalse", "ann enters r e1/0\nann enters r e1/0"),
    (
        "GapFreeOrRecoveredFalse",
        "ann enters r e1/0\nann hears r 1 x\nann dropped r\nann asks r e1/1\nann recovers r e1/2",
    ),
    ("GapFreeOrRecoveredFalse", "ann asks r e1/4\nann recovers r e2/4"),
    ("TotalOrderAgreement", "ann enters r e1/0\nbob enters r e1/0\nann hears r 1 x\nbob hears r 1 y"),
    (
        "TotalOrderAgreement NoDuplicateDelivery",
        "ann enters r e1/0\nbob enters r e1/0\nann hears r 1 x\nann hears r 2 y\nbob hears r 1 y\nbob hears r 2 x",
    ),
    (
        "EpochNeverReturns",
        "ann enters r e1/0\nann dropped r\nann unrecovered r e2/0\nann dropped r\nann unrecovered r e1/0",
    ),
    ("EpochNeverReturns", "ann enters r e1/0\nann dropped r\nann unrecovered r e2/0\nbob asks r\nbob enters r e1/0"),
    ("AckSeqMatchesDelivery", "ann enters r e1/0\nann sends r 1 x\nann hears r 1 x\nann acked 1 e1/2"),
    (
        "AckSeqMatchesDelivery",
        "bob sends r 1 y\nbob sends r 2 x\nann enters r e1/0\nann hears r 1 x\nann goes r\nbob acked 1 e1/1",
    ),
    ("PublisherFifo", "ann enters r e1/0\nbob sends r 1 x\nbob sends r 2 y\nann hears r 1 y\nann hears r 2 x"),
    (
        "CausalOrder",
        "ann enters r e1/0\nbob enters r e1/0\nann sends r 1 q\nann hears r 1 a\nann hears r 2 q\nbob sends r 1 a\nbob hears r 1 a\nbob hears r 2 q",
    ),
    // Acknowledged before the other was sent, known to nobody else.
    (
        "CausalOrder",
        "ann enters r e1/0\nann sends r 1 q\nann acked 1 e1/2\nbob sends r 1 a\nann hears r 1 a\nann hears r 2 q",
    ),
    // Into an epoch that was over when it was sent.
    (
        "CausalOrder",
        "ann enters r e1/0\nbob enters r e1/0\nann dropped r\nann unrecovered r e2/0\nbob sends r 1 x\nbob hears r 1 x",
    ),
    (
        "UnknownNotRetried PublisherFifo",
        "ann enters r e1/0\nbob sends r 1 x\nbob unknown 1\nbob sends r 2 y\nann hears r 1 y\nann hears r 2 x",
    ),
    ("RefusedNeverDelivered", "ann enters r e1/0\nann sends r 1 x\nann refused 1\nann hears r 1 x"),
    ("AnsweredOnce", "ann sends r 1 x\nann acked 1 e1/1\nann acked 1 e1/1"),
    ("JoinLeaveAlternate", "ann enters r e1/0\nann join r bob\nann join r bob"),
];

/// As above, for rules that depend on what the driver said.
const CLAIMED: [(&str, &str); 7] = [
    ("PresenceConverges", "ann enters r e1/0\nbob enters r e1/0\nall calm\nann present r ann"),
    ("PresenceConverges", "ann enters r e1/0\nbob enters r e1/0\nbob goes r\nall calm\nann present r ann bob"),
    ("SocketsSurvive", "claim sockets_stay\nann enters r e1/0\nann closed 3010"),
    ("NoLossOnSingleDeath", "claim no_loss\nann enters r e1/0\nann dropped r\nann unrecovered r e1/0"),
    ("NoLossOnSingleDeath", "claim no_loss\nann enters r e1/0\nbob enters r e2/0"),
    ("NoLossOnSingleDeath", "claim no_loss\nbob sends r 1 x\nbob acked 1\nann enters r e1/0"),
    ("AnsweredOnce", "ann acked 7"),
];

#[test]
fn each_broken_history_is_rejected_by_its_rules_alone() {
    for (rules, text) in BROKEN.iter().chain(&CLAIMED) {
        let mut wanted: Vec<&str> = rules.split(' ').collect();
        let mut found = broken(&script(text));
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted, "of\n{text}");
    }
}

#[test]
fn without_the_claim_there_is_nothing_to_break() {
    for (rules, text) in CLAIMED.iter().filter(|(_, text)| text.starts_with("claim")) {
        let without = text.split_once('\n').expect("more lines").1;
        assert_eq!(broken(&script(without)), Vec::<&str>::new(), "{rules}: {without}");
    }
}

#[test]
fn every_rule_is_broken_by_some_history() {
    let all: Vec<&str> = BROKEN.iter().chain(&CLAIMED).flat_map(|(rules, _)| rules.split(' ')).collect();
    for verdict in crate::checker::check(&script("all calm")) {
        assert!(all.contains(&verdict.rule), "nothing here breaks {}", verdict.rule);
    }
}
