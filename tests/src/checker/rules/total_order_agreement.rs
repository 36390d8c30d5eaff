//! All members agree on what is at a place.

use std::collections::BTreeMap;

use crate::checker::{Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut at: BTreeMap<(&str, &str, u64), (&str, &str, usize)> = BTreeMap::new();
    for span in &history.spans {
        for heard in &span.heard {
            let known =
                *at.entry((span.room, span.epoch, heard.offset)).or_insert((heard.data, span.client, heard.line));
            findings.expect(known.0 == heard.data, || {
                let text = format!(
                    "{}: at {}/{} {} got {} and {} got {}",
                    span.room, span.epoch, heard.offset, known.1, known.0, span.client, heard.data
                );
                Violation::new(text, [known.2, heard.line])
            });
        }
    }
    findings
}
