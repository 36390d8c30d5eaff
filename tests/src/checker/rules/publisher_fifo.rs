//! What one client publishes to a room is delivered in the order in which it sent it.

use std::collections::BTreeMap;

use crate::checker::{Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut sent = BTreeMap::new();
    for publish in history.publishes.iter().filter(|p| history.is_one(p.room, p.data)) {
        sent.insert((publish.room, publish.data), (publish.client, publish.line));
    }
    // By member, room and publisher: the last one heard. Over memberships too: a later one is never behind an earlier one.
    let mut last: BTreeMap<(&str, &str, &str), (usize, usize)> = BTreeMap::new();
    for span in &history.spans {
        for heard in &span.heard {
            let Some((publisher, line)) = sent.get(&(span.room, heard.data)) else { continue };
            let before = last.insert((span.client, span.room, publisher), (*line, heard.line));
            // The same one again is for other rules.
            findings.expect(before.is_none_or(|(b, _)| b <= *line), || {
                let text = format!(
                    "{}: {} heard {} of {publisher} after what it sent later",
                    span.room, span.client, heard.data
                );
                Violation::new(text, before.map(|(_, l)| l).into_iter().chain([heard.line, *line]))
            });
        }
    }
    findings
}
