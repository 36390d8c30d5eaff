//! Seeds of the simulation. `make sim SEEDS=1000` runs many, `make sim SEED=17` one, with a line for every step.

use std::collections::BTreeMap;

use roomring_tests::evidence;
use roomring_tests::sim::{Failure, Interrupt, Mutant, Options, Phase, Victim, run};

/// Seeds run by `make test`.
const SOME: u64 = 16;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is to be a number, not {text:?}")))
}

/// Seeds `0..count`, on all cores: what was seen in all of them together, or the first failure of each core.
fn sweep(from: u64, count: u64, options: Options) -> (BTreeMap<String, u64>, Vec<Failure>) {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let work = |thread: u64| {
        let (mut seen, mut failures) = (BTreeMap::<String, u64>::new(), Vec::new());
        for seed in (from..from + count).filter(|seed| seed % threads == thread) {
            match run(seed, options) {
                Ok(report) => report.seen.into_iter().for_each(|(what, n)| *seen.entry(what).or_default() += n),
                Err(failure) => {
                    failures.push(failure);
                    break;
                }
            }
        }
        (seen, failures)
    };
    let mut all = (BTreeMap::new(), Vec::new());
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        for thread in running {
            let (seen, failures) = thread.join().expect("no panic in a run");
            seen.into_iter().for_each(|(what, n)| *all.0.entry(what).or_default() += n);
            all.1.extend(failures);
        }
    });
    all
}

#[test]
fn many_seeds_find_nothing_and_see_everything() {
    if let Some(seed) = number("SEED") {
        let outcome = run(seed, Options { trace: true, ..Options::default() });
        let (trace, recording, text) = match outcome {
            Ok(report) => (report.trace, report.recording, format!("seed {seed}: fine; {:?}", report.seen)),
            Err(failure) => (failure.trace.clone(), failure.recording.clone(), failure.to_string()),
        };
        let path = std::env::temp_dir().join(format!("roomring-sim-{seed}.jsonl"));
        recording.write(std::fs::File::create(&path).expect("a file")).expect("a recording");
        println!("the clients' recording is in {}", path.display());
        trace.iter().for_each(|line| println!("{line}"));
        println!("{text}");
        assert!(text.contains("fine"), "{text}");
        return;
    }
    let count = number("SEEDS").unwrap_or(SOME);
    let (seen, failures) = sweep(number("FROM").unwrap_or(0), count, Options::default());
    let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", text.join("\n"));
    evidence(format!("{count} seeds: {seen:?}"));
    for what in [
        "fault: stream breaks",
        "fault: node crashes",
        "fault: router crashes",
        "fault: node hangs",
        "fault: partition",
        "fault: the network parts",
        "fault: etcd away",
        "fault: node cut from etcd",
        "fault: drained, or not any more",
        "a registration lapses",
        "evicted: connection refused",
        "evicted: silent",
        "evicted: registration lapsed",
        "a write is late",
        "a write's outcome is unknown",
        "acknowledged",
        "unknown",
        "recovered",
        "not recovered",
        "slots recreated",
        "terms",
    ] {
        assert!(seen.get(what).is_some_and(|n| *n > 0), "{what:?} never happened: {seen:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4] {
        let [a, b] = [(); 2].map(|()| run(seed, Options { trace: true, ..Options::default() }));
        let (a, b) = (a.expect("a good run"), b.expect("a good run"));
        let differs = a.trace.iter().zip(&b.trace).position(|(a, b)| a != b);
        assert_eq!(differs.map(|i| (&a.trace[i], &b.trace[i])), None);
        assert_eq!(a.trace.len(), b.trace.len());
        assert_eq!(a.recording, b.recording);
    }
}

/// Bugs put in on purpose are found within a hundred seeds.
#[test]
fn each_bug_put_in_on_purpose_is_found() {
    for mutant in [Mutant::StaleReady, Mutant::EarlyAck, Mutant::UnreadyInSync, Mutant::SameIncarnation] {
        let options = Options { mutant: Some(mutant), ..Options::default() };
        let found = (0..100).step_by(2).find_map(|from| sweep(from, 2, options).1.into_iter().next());
        let found = found.unwrap_or_else(|| panic!("{mutant:?} was not found"));
        evidence(format!("{mutant:?}: seed {}: {}", found.seed, found.text));
    }
}

/// A planned move interrupted at each of its phases by the loss of each participant: nothing is lost, nobody is told of a
/// loss, and the move ends.
#[test]
fn every_interruption_of_a_move() {
    /// Runs that strike, of each; they differ in their delays, and in some the first move does not come as far as the phase.
    const RUNS: u64 = 2;
    const SEEDS: std::ops::Range<u64> = 0..16;
    let mut failures = Vec::new();
    println!("{:<20}{}", "", Victim::ALL.map(|v| format!("{:>15}", v.to_string())).concat());
    for phase in Phase::ALL {
        let mut row = format!("{:<20}", phase.to_string());
        for victim in Victim::ALL {
            let name = format!("struck: {phase}, {victim}");
            let mut struck = 0;
            for seed in SEEDS {
                if struck >= RUNS {
                    break;
                }
                match run(seed, Options { interrupt: Some(Interrupt { phase, victim }), ..Options::default() }) {
                    Ok(report) => struck += report.seen.get(&name).copied().unwrap_or(0),
                    Err(failure) => failures.push(format!("{phase}, {victim}: {failure}")),
                }
            }
            if struck < RUNS {
                failures.push(format!("{phase}, {victim}: struck {struck} times only"));
            }
            row += &format!("{:>15}", format!("{struck} struck"));
        }
        println!("{row}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
