//! The history checker: judges a [`Recording`] of what clients did and were told, and knows nothing else of the system.
//!
//! One rule a file under `rules/`. Each is a pure function from the sorted recording to what is wrong with it.

mod history;
mod recording;
mod rules;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

pub use history::{Answer, End, Heard, History, Place, Publish, Span};
pub use recording::{Claim, Line, Position, Recording, What};

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// For people: which client, room, offsets.
    pub text: String,
    /// Numbers of the lines that show it, from 1.
    pub lines: Vec<usize>,
}

impl Violation {
    /// `lines` are indices.
    fn new(text: impl Into<String>, lines: impl IntoIterator<Item = usize>) -> Self {
        Self { text: text.into(), lines: lines.into_iter().map(|l| l + 1).collect() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.lines.iter().map(usize::to_string).collect();
        write!(f, "{} (line {})", self.text, lines.join(", "))
    }
}

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Things looked at: a rule that looked at nothing has shown nothing.
    pub looked_at: usize,
    /// What breaks it.
    pub violations: Vec<Violation>,
}

impl Findings {
    /// Counts one thing looked at, which must be so.
    fn expect(&mut self, so: bool, violation: impl FnOnce() -> Violation) {
        self.looked_at += 1;
        if !so {
            self.violations.push(violation());
        }
    }
}

/// A rule's name and its findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// As in the design.
    pub rule: &'static str,
    /// What it found.
    pub findings: Findings,
}

/// Applies every rule.
pub fn check(recording: &Recording) -> Vec<Verdict> {
    let history = History::of(recording);
    rules::ALL.iter().map(|(rule, check)| Verdict { rule, findings: check(&history) }).collect()
}

/// Every violation of any rule, with the rule's name; empty for a good run.
pub fn violations(recording: &Recording) -> Vec<String> {
    let found = check(recording).into_iter().flat_map(|v| {
        let rule = v.rule;
        v.findings.violations.into_iter().map(move |violation| format!("{rule}: {violation}"))
    });
    found.collect()
}
