//! To one member, another joins and leaves by turns.

use std::collections::BTreeMap;

use crate::checker::{Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    for span in &history.spans {
        let mut last: BTreeMap<&str, (bool, usize)> = BTreeMap::new();
        for (line, who, joined) in &span.presence {
            let before = last.insert(who, (*joined, *line));
            findings.expect(before.is_none_or(|(b, _)| b != *joined), || {
                let word = if *joined { "join" } else { "leave" };
                let text = format!("{}: {} heard {who} {word} twice", span.room, span.client);
                Violation::new(text, before.map(|(_, l)| l).into_iter().chain([*line]))
            });
        }
    }
    findings
}
