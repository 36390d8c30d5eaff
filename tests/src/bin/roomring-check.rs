//! `roomring-check FILE...`: applies the history checker to recordings and prints a verdict for each rule.
//!
//! Exit code 0: no rule is broken; 1: some are; 2: a file can't be read.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use roomring_tests::checker::{self, Recording, Verdict};

/// Violations shown of one rule; more of the same seldom say more.
const SHOWN: usize = 10;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() || files.iter().any(|f| f.starts_with('-')) {
        eprintln!("usage: roomring-check RECORDING...   (JSON lines, as written by the tests and `make soak`)");
        return ExitCode::from(2);
    }
    let mut broken = false;
    for file in &files {
        let recording = match File::open(file).and_then(|f| Recording::read(BufReader::new(f))) {
            Ok(recording) => recording,
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::from(2);
            }
        };
        println!("{file}: {} events", recording.lines.len());
        for verdict in checker::check(&recording) {
            broken |= !verdict.findings.violations.is_empty();
            print(&verdict);
        }
    }
    ExitCode::from(u8::from(broken))
}

fn print(verdict: &Verdict) {
    let Verdict { rule, findings } = verdict;
    let word = match (findings.violations.len(), findings.looked_at) {
        (0, 0) => "nothing to check",
        (0, _) => "holds",
        _ => "BROKEN",
    };
    println!("  {rule:<26} {word:<17} {} checked, {} violations", findings.looked_at, findings.violations.len());
    for violation in findings.violations.iter().take(SHOWN) {
        println!("    {violation}");
    }
    if let Some(more) = findings.violations.len().checked_sub(SHOWN).filter(|n| *n > 0) {
        println!("    and {more} more");
    }
}
