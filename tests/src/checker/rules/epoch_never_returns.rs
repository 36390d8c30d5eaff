//! A history that was replaced is never shown again: not to a client that left it, nor to one that asks after another
//! client saw its successor.

use std::collections::BTreeMap;

use crate::checker::{Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    // By room: epochs in the order in which they were first seen, with that line.
    let mut first: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for span in &history.spans {
        let epochs = first.entry(span.room).or_default();
        if !epochs.iter().any(|(e, _)| *e == span.epoch) {
            epochs.push((span.epoch, span.from));
        }
    }
    for span in &history.spans {
        let (room, client, epoch) = (span.room, span.client, span.epoch);
        let mut left = None;
        let mut at = span.before;
        let mut moved = false;
        while let Some(index) = at {
            let earlier = &history.spans[index];
            moved |= earlier.epoch != epoch;
            if moved && earlier.epoch == epoch {
                left = Some(earlier.from);
                break;
            }
            at = earlier.before;
        }
        findings.expect(left.is_none(), || {
            let text = format!("{room}: {client} left epoch {epoch} and was given it again");
            Violation::new(text, [left.unwrap_or_default(), span.from])
        });
        let asked_at = span.asked_at.unwrap_or(span.from);
        let successor = first[room].iter().find(|(e, seen)| *seen < asked_at && history.is_later(room, epoch, e));
        findings.expect(successor.is_none(), || {
            let (e, seen) = successor.copied().unwrap_or_default();
            let text =
                format!("{room}: {client} asked after {e} had replaced epoch {epoch}, and was given the old one");
            Violation::new(text, [seen, asked_at, span.from])
        });
    }
    findings
}
