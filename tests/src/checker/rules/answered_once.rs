//! A publish is answered at most once, and nothing else is.

use crate::checker::{Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    for publish in &history.publishes {
        findings.expect(publish.answers.len() <= 1, || {
            let text = format!(
                "{}: {} of {} was answered {} times",
                publish.room,
                publish.data,
                publish.client,
                publish.answers.len()
            );
            Violation::new(text, publish.answers.iter().map(|(l, _)| *l))
        });
    }
    for (line, client, number) in &history.unasked {
        findings.expect(false, || {
            Violation::new(format!("{client} got an answer to a publish {number} it never sent"), [*line])
        });
    }
    findings
}
