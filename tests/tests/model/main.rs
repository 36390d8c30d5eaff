//! The model check: every state of one slot within stated bounds, and every rule turned off to see that it is missed.
//!
//! `make model` takes larger bounds. `BOUNDS="nodes=2 writes=1 switch=1" cargo test -p roomring-tests --test model explore --
//! --ignored --nocapture` takes any.

mod rules;

use std::time::Instant;

use roomring_tests::model::{Action, Bounds, Mutant, SlotModel, reached};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Nothing happens unless a row says so.
const NONE: Bounds = Bounds {
    nodes: 2,
    in_sync: 2,
    writes: 0,
    publishes: 1,
    crashes: 0,
    restarts: 0,
    wrong_evictions: 0,
    breaks: 0,
    expiries: 0,
    attaches: 1,
    waits: 0,
    lost_words: 0,
    late_words: false,
    admit: false,
    switch: false,
    remove: false,
    recreate: false,
    linger: false,
    attach_behind: false,
    min_in_sync: 1,
    kept_bytes: 1 << 20,
    calm_one_in: 0,
};

/// Its name, how much may happen, what must.
type Row = (&'static str, Bounds, &'static [&'static str]);

/// What `make test` looks at. A router that attaches again makes twenty times the states and more: most rows have it, or the other
/// troubles in full, and `make model` both.
const SMALL: [Row; 15] = [
    (
        "a switch and a death",
        Bounds { writes: 1, crashes: 1, switch: true, ..NONE },
        &[reached::TAIL, reached::RESENT, reached::DEPOSED],
    ),
    (
        "a switch, a death and a successor",
        Bounds { writes: 1, crashes: 1, restarts: 1, switch: true, attaches: 0, calm_one_in: 64, ..NONE },
        &[reached::TAIL, reached::DEPOSED],
    ),
    (
        "a switch, and a stream that ends",
        Bounds { writes: 1, breaks: 1, switch: true, attaches: 0, calm_one_in: 64, ..NONE },
        &[reached::TAIL, reached::DEPOSED],
    ),
    (
        "a learner that catches up",
        Bounds { in_sync: 1, writes: 2, admit: true, calm_one_in: 64, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC],
    ),
    (
        "a learner that catches up and takes over",
        Bounds { in_sync: 1, writes: 3, admit: true, switch: true, attaches: 0, calm_one_in: 64, ..NONE },
        &[reached::SNAPSHOT, reached::TAIL, reached::IN_SYNC, reached::DEPOSED],
    ),
    (
        "the same without a publish, and a router that follows",
        Bounds { in_sync: 1, writes: 3, publishes: 0, admit: true, switch: true, calm_one_in: 64, ..NONE },
        &[reached::SNAPSHOT, reached::TAIL, reached::IN_SYNC, reached::DEPOSED],
    ),
    (
        "a seat that goes and comes back",
        Bounds { writes: 3, remove: true, admit: true, attaches: 0, calm_one_in: 64, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC],
    ),
    (
        "a wrong eviction",
        Bounds { writes: 1, wrong_evictions: 1, calm_one_in: 64, ..NONE },
        &[reached::DEPOSED, reached::RESENT],
    ),
    (
        "a wrong eviction and a return",
        Bounds { writes: 3, wrong_evictions: 1, admit: true, attaches: 0, calm_one_in: 64, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC, reached::DEPOSED],
    ),
    (
        "a death, lost contact and a recreation",
        Bounds { writes: 1, crashes: 1, expiries: 1, recreate: true, calm_one_in: 64, ..NONE },
        &[reached::RECREATED, reached::FENCED, reached::UNKNOWN],
    ),
    (
        "the same with a successor",
        Bounds {
            writes: 2,
            crashes: 1,
            restarts: 1,
            expiries: 1,
            recreate: true,
            attaches: 0,
            calm_one_in: 64,
            ..NONE
        },
        &[reached::TAIL, reached::RECREATED, reached::FENCED],
    ),
    (
        "a primary evicted wrongly, and its heir recreated",
        Bounds { writes: 2, wrong_evictions: 1, expiries: 2, recreate: true, attaches: 0, calm_one_in: 64, ..NONE },
        &[reached::TAIL, reached::RECREATED, reached::FENCED, reached::DEPOSED],
    ),
    (
        "a publish that takes too long",
        Bounds { writes: 1, expiries: 1, switch: true, attaches: 0, waits: 1, calm_one_in: 64, ..NONE },
        &[reached::UNKNOWN, reached::REFUSED],
    ),
    (
        "min_in_sync of 2, a seat that goes and comes back",
        Bounds { writes: 3, remove: true, admit: true, attaches: 0, min_in_sync: 2, ..NONE },
        &[reached::WITHHELD, reached::COPIED],
    ),
    (
        "a link of the router that loses a word, and says another late",
        Bounds { publishes: 2, lost_words: 1, late_words: true, ..NONE },
        &[],
    ),
];

/// What `make model` looks at. Rows of three nodes, and of two switches with a stream that ends, leave the router attached where it
/// was; a death and a stream that ends are not in one row with a short log.
const LARGE: [Row; 15] = [
    (
        "a switch, a death and a successor",
        Bounds { writes: 1, crashes: 1, restarts: 1, switch: true, calm_one_in: 64, ..NONE },
        &[reached::TAIL, reached::RESENT, reached::DEPOSED],
    ),
    (
        "a switch, and a stream that ends",
        Bounds { writes: 1, breaks: 1, switch: true, calm_one_in: 64, ..NONE },
        &[reached::TAIL, reached::RESENT],
    ),
    (
        "a learner that catches up and takes over",
        Bounds { in_sync: 1, writes: 3, admit: true, switch: true, calm_one_in: 64, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC, reached::RESENT],
    ),
    (
        "a seat that goes and comes back",
        Bounds { writes: 3, remove: true, admit: true, calm_one_in: 256, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC],
    ),
    (
        "a wrong eviction and a return",
        Bounds { writes: 3, wrong_evictions: 1, admit: true, calm_one_in: 64, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC, reached::DEPOSED, reached::RESENT],
    ),
    (
        "a death, lost contact and a recreation",
        Bounds { writes: 2, crashes: 1, restarts: 1, expiries: 1, recreate: true, calm_one_in: 64, ..NONE },
        &[reached::RECREATED, reached::FENCED, reached::UNKNOWN],
    ),
    (
        "a primary evicted wrongly, and its heir recreated",
        Bounds { writes: 2, wrong_evictions: 1, expiries: 1, recreate: true, calm_one_in: 64, ..NONE },
        &[reached::RECREATED, reached::FENCED, reached::UNKNOWN, reached::DEPOSED],
    ),
    (
        "three in sync, a switch",
        Bounds { nodes: 3, in_sync: 3, writes: 1, switch: true, attaches: 0, ..NONE },
        &[reached::TAIL, reached::DEPOSED],
    ),
    (
        "three nodes, a wrong eviction, a death and a recreation",
        Bounds {
            nodes: 3,
            writes: 2,
            crashes: 1,
            wrong_evictions: 1,
            expiries: 1,
            recreate: true,
            attaches: 0,
            ..NONE
        },
        &[reached::RECREATED, reached::DEPOSED],
    ),
    (
        "three nodes, a learner, a wrong eviction",
        Bounds { nodes: 3, writes: 2, wrong_evictions: 1, admit: true, attaches: 0, ..NONE },
        &[reached::IN_SYNC, reached::DEPOSED],
    ),
    (
        "two switches and a stream that ends",
        Bounds { writes: 2, switch: true, breaks: 1, attaches: 0, ..NONE },
        &[reached::TAIL, reached::DEPOSED],
    ),
    (
        "two publishes, a switch",
        Bounds { writes: 1, publishes: 2, switch: true, ..NONE },
        &[reached::TAIL, reached::RESENT],
    ),
    (
        "a switch, two attaches",
        Bounds { writes: 1, switch: true, attaches: 2, ..NONE },
        &[reached::TAIL, reached::RESENT],
    ),
    (
        "a short log, a death and a successor that catches up",
        Bounds { in_sync: 1, writes: 2, crashes: 1, restarts: 1, admit: true, kept_bytes: 300, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC],
    ),
    (
        "a short log, two publishes and a stream that ends",
        Bounds { in_sync: 1, writes: 2, publishes: 2, breaks: 1, admit: true, kept_bytes: 300, ..NONE },
        &[reached::SNAPSHOT, reached::IN_SYNC],
    ),
];

fn check(name: &str, model: SlotModel) -> impl Checker<SlotModel> + use<> {
    check_until(name, model, HasDiscoveries::AnyFailures)
}

fn check_until(name: &str, model: SlotModel, end: HasDiscoveries) -> impl Checker<SlotModel> + use<> {
    let began = Instant::now();
    let checker = model.checker().threads(2).finish_when(end).spawn_bfs().join();
    println!(
        "{name}: {} states, {} transitions, depth {}, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    checker
}

/// The invariants that fail, with the way there.
fn failures(checker: &impl Checker<SlotModel>) -> Vec<(&'static str, Vec<Action>)> {
    let always = |p: &stateright::Property<SlotModel>| p.expectation == Expectation::Always;
    let properties = checker.model().properties();
    let failed = properties.iter().filter(|p| always(p)).filter_map(|p| Some((p.name, checker.discovery(p.name)?)));
    failed.map(|(name, path)| (name, path.into_actions())).collect()
}

fn check_all(rows: &[Row]) {
    let mut states = 0;
    let only = std::env::var("ROW").ok();
    for (name, bounds, reach) in rows.iter().filter(|(name, ..)| only.as_ref().is_none_or(|only| name.contains(only))) {
        let checker = check(name, SlotModel { bounds: *bounds, ..SlotModel::default() });
        let failures = failures(&checker);
        assert!(failures.is_empty(), "{name}: {failures:#?}");
        for what in *reach {
            assert!(checker.discovery(what).is_some(), "{name}: never {what}");
        }
        states += checker.unique_state_count();
    }
    println!("{states} states in all");
}

#[test]
fn every_state_within_small_bounds_keeps_every_invariant() {
    check_all(&SMALL);
}

#[test]
#[ignore = "many minutes: `make model` runs it"]
fn every_state_within_larger_bounds_keeps_every_invariant() {
    check_all(&LARGE);
}

/// Bounds from `BOUNDS="nodes=3 writes=2 admit=1 ..."`, and a rule that is off from `MUTANT`.
#[test]
#[ignore = "for exploring: `make model BOUNDS=...` runs it"]
fn explore() {
    let mut bounds = NONE;
    let given = std::env::var("BOUNDS").unwrap_or_default();
    for (name, value) in given.split_whitespace().filter_map(|pair| pair.split_once('=')) {
        let value: u64 = value.parse().expect("a number");
        let small = u8::try_from(value.min(255)).expect("small");
        match name {
            "nodes" => bounds.nodes = value,
            "in_sync" => bounds.in_sync = value,
            "writes" => bounds.writes = small,
            "publishes" => bounds.publishes = small,
            "crashes" => bounds.crashes = small,
            "restarts" => bounds.restarts = small,
            "wrong_evictions" => bounds.wrong_evictions = small,
            "breaks" => bounds.breaks = small,
            "expiries" => bounds.expiries = small,
            "attaches" => bounds.attaches = small,
            "waits" => bounds.waits = small,
            "lost_words" => bounds.lost_words = small,
            "late_words" => bounds.late_words = value > 0,
            "admit" => bounds.admit = value > 0,
            "switch" => bounds.switch = value > 0,
            "remove" => bounds.remove = value > 0,
            "recreate" => bounds.recreate = value > 0,
            "linger" => bounds.linger = value > 0,
            "attach_behind" => bounds.attach_behind = value > 0,
            "min_in_sync" => bounds.min_in_sync = u32::from(small),
            "kept_bytes" => bounds.kept_bytes = usize::try_from(value).expect("small"),
            "calm_one_in" => bounds.calm_one_in = value,
            _ => panic!("no bound {name}"),
        }
    }
    let mutant = std::env::var("MUTANT").ok();
    let mutant = mutant.map(|name| Mutant::all().find(|m| format!("{m:?}") == name).expect("a mutant"));
    let checker = check("explore", SlotModel { bounds, mutant, ..SlotModel::default() });
    for (name, _) in reached::ALL.iter().filter(|(name, _)| checker.discovery(name).is_some()) {
        println!("  {name}");
    }
    let failures = failures(&checker);
    assert!(failures.is_empty(), "{failures:#?}");
}
