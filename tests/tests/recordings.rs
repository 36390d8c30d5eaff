//! Recorded runs of builds that were broken on purpose, one for each rule of the checker: it must reject each, by that rule.
//! `make recordings` makes them anew, and the list of how each was made.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use roomring_node::slot::Rule;
use roomring_tests::checker::{Recording, Violation, check};
use roomring_tests::evidence;
use roomring_tests::sim::{Mutant, Options, run};

/// Seeds tried for each.
const SEEDS: u64 = 60;

/// The rules, and the bugs that may break them; the first one that does is recorded.
const BROKEN_BY: [(&str, &[Mutant]); 15] = [
    ("AckedDeliveredOrTold", &[Mutant::LosesDeliveries]),
    ("NoDuplicateDelivery", &[Mutant::Off(Rule::KnowsNumbers)]),
    ("GapFreeOrRecoveredFalse", &[Mutant::LosesDeliveries]),
    ("TotalOrderAgreement", &[Mutant::Off(Rule::WaitsForInSync)]),
    ("EpochNeverReturns", &[Mutant::EternalContact]),
    ("AckSeqMatchesDelivery", &[Mutant::Off(Rule::KnowsNumbers)]),
    ("PublisherFifo", &[Mutant::ResendsInReverse]),
    ("CausalOrder", &[Mutant::Off(Rule::WaitsForInSync)]),
    ("UnknownNotRetried", &[Mutant::ResendsUnknown]),
    ("RefusedNeverDelivered", &[Mutant::CallsUnknownRefused]),
    ("AnsweredOnce", &[Mutant::AnswersTwice]),
    ("JoinLeaveAlternate", &[Mutant::JoinsTwice]),
    ("PresenceConverges", &[Mutant::TellsNoJoins]),
    ("NoLossOnSingleDeath", &[Mutant::Off(Rule::WaitsForInSync), Mutant::EarlyAck]),
    ("SocketsSurvive", &[Mutant::ClosesSockets]),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/broken")
}

fn file(rule: &str) -> PathBuf {
    directory().join(format!("{rule}.jsonl.gz"))
}

/// What the rule finds wrong.
fn violations(recording: &Recording, rule: &str) -> Vec<Violation> {
    let verdicts = check(recording);
    let verdict = verdicts.into_iter().find(|v| v.rule == rule);
    verdict.unwrap_or_else(|| panic!("no rule {rule}")).findings.violations
}

#[test]
fn the_checker_rejects_runs_of_broken_builds() {
    let rules: Vec<&str> = check(&Recording::default()).into_iter().map(|v| v.rule).collect();
    assert_eq!(rules, BROKEN_BY.map(|(rule, _)| rule), "a recording for every rule");
    for rule in rules {
        let path = file(rule);
        let bytes = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let recording = Recording::read(BufReader::new(GzDecoder::new(bytes))).expect("a recording");
        let found = violations(&recording, rule);
        let first = found.first().unwrap_or_else(|| panic!("{rule} finds nothing in {}", path.display()));
        evidence(format!("{rule}: {} violations in {} lines: {first}", found.len(), recording.lines.len()));
    }
}

#[test]
#[ignore = "minutes: `make recordings` runs it"]
fn remake() {
    let mut list = String::from(
        "# Recordings of broken builds\n\n\
         What clients saw of the simulated cluster, which runs the production cores, with a bug put in on purpose (`tests/src/sim`): the\n\
         lines about one room, compressed. The checker must reject each by the rule that names it (`tests/tests/recordings.rs`).\n\
         `make recordings` makes them and this list.\n\n\
         | rule | bug | seed | lines | found |\n| --- | --- | --- | --- | --- |\n",
    );
    let only = std::env::var("RULE").ok();
    let mut missing = Vec::new();
    for (rule, bugs) in BROKEN_BY.iter().filter(|(rule, _)| only.as_ref().is_none_or(|only| rule == only)) {
        let tries = bugs.iter().flat_map(|bug| (0..SEEDS).map(move |seed| (*bug, seed)));
        let mut broken = tries.filter_map(|(bug, seed)| Some((bug, seed, broken_run(rule, bug, seed)?)));
        let Some((bug, seed, recording)) = broken.next() else {
            missing.push(rule);
            continue;
        };
        let mut out = GzEncoder::new(File::create(file(rule)).expect("a file"), Compression::best());
        recording.write(&mut out).expect("written");
        out.finish().expect("written");
        let first = &violations(&recording, rule)[0].text;
        writeln!(list, "| {rule} | {bug:?} | {seed} | {} | {first} |", recording.lines.len()).expect("a string");
        evidence(format!("{rule}: {bug:?}, seed {seed}"));
    }
    assert!(missing.is_empty(), "nothing breaks {missing:?}");
    if only.is_none() {
        std::fs::write(directory().join("README.md"), list).expect("written");
    }
}

/// The lines about one room of a run that breaks the rule, if it does.
fn broken_run(rule: &str, bug: Mutant, seed: u64) -> Option<Recording> {
    let routers_stay = rule == "SocketsSurvive";
    let options = Options { mutant: Some(bug), black_box: true, routers_stay, ..Options::default() };
    let recording = match run(seed, options) {
        Ok(report) => report.recording,
        Err(failure) => failure.recording,
    };
    let rooms = ["lobby", "garden", "attic", "cellar"].map(|room| recording.clone().room(room));
    let broken = rooms.into_iter().filter(|r| !violations(r, rule).is_empty());
    broken.min_by_key(|r| r.lines.len())
}
