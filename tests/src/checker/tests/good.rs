//! Histories that are as they should be.

use super::{broken, script};
use crate::checker::{Recording, check};

const GOOD: [(&str, &str); 7] = [
    (
        "a talk",
        "claim no_loss
         claim sockets_stay
         ann asks r
         ann enters r e1/0
         ann join r ann
         bob asks r
         bob enters r e1/0
         ann join r bob
         bob join r bob
         ann sends r 1 hi
         ann hears r 1 hi
         ann acked 1 e1/1
         bob hears r 1 hi
         bob sends r 1 hello
         bob acked 1
         ann hears r 2 hello
         bob hears r 2 hello
         all calm
         ann present r ann bob",
    ),
    (
        "what was lost is told",
        "ann enters r e1/0
         ann sends r 1 x
         ann acked 1 e1/1
         ann dropped r
         ann asks r e1/0
         ann unrecovered r e2/0",
    ),
    (
        "a recovery on another connection",
        "ann enters r e1/0
         bob enters r e1/0
         ann hears r 1 x
         bob hears r 1 x
         ann closed
         bob hears r 2 y
         ann2 asks r e1/1
         ann2 recovers r e1/1
         ann2 hears r 2 y",
    ),
    (
        "an unknown one that is in, and before what came later",
        "ann enters r e1/0
         ann sends r 1 x
         ann unknown 1
         ann sends r 2 y
         ann hears r 1 x
         ann hears r 2 y
         ann acked 2",
    ),
    (
        "an unknown one sent again under its id",
        "ann enters r e1/0
         ann sends r 1 x id1
         ann unknown 1
         ann sends r 2 y
         ann sends r 3 x id1
         ann hears r 1 x
         ann hears r 2 y
         ann acked 2 e1/2
         ann acked 3 e1/1",
    ),
    (
        "who leaves and comes back hears joins anew",
        "ann enters r e1/0
         ann join r bob
         ann goes r
         ann enters r e1/0
         ann join r bob
         ann leave r bob
         ann join r bob",
    ),
    (
        "who came too late or left too early is owed nothing",
        "ann enters r e1/0
         eve enters r e1/0
         eve goes r
         ann sends r 1 x
         ann hears r 1 x
         ann acked 1
         bob enters r e1/1",
    ),
];

#[test]
fn good_histories_pass() {
    for (name, text) in GOOD {
        assert_eq!(broken(&script(text)), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn every_rule_looks_at_something_in_a_good_history() {
    let mut looked = std::collections::BTreeMap::new();
    for (_, text) in GOOD {
        for verdict in check(&script(text)) {
            *looked.entry(verdict.rule).or_insert(0) += verdict.findings.looked_at;
        }
    }
    // Nothing is refused there.
    looked.remove("RefusedNeverDelivered");
    assert!(looked.values().all(|n| *n > 0), "{looked:?}");
}

#[test]
fn a_recording_is_the_same_written_and_read() {
    for (_, text) in GOOD {
        let recording = script(text);
        let mut bytes = Vec::new();
        recording.write(&mut bytes).unwrap();
        assert_eq!(Recording::read(bytes.as_slice()).unwrap(), recording);
    }
    let error = Recording::read("\n{\"at_us\":1,\"client\":\"a\",\"what\":\"sang\"}".as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("line 2 is no event of a recording"), "{error}");
}
