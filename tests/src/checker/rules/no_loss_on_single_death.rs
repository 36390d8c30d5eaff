//! Where at most one node died at a time, with everything replicated, nobody loses anything or is told so: one epoch a room,
//! every recovery whole, every acknowledged publish there.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::{Claim, End, Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    if !history.claims.contains(&Claim::NoLoss) {
        return findings;
    }
    let mut epochs: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut kept = BTreeSet::new();
    for span in &history.spans {
        epochs.entry(span.room).or_default().entry(span.epoch).or_insert(span.from);
        if span.end == End::Open {
            kept.insert(span.room);
        }
        findings.expect(span.recovered || !span.was_recovering, || {
            let text = format!("{}: {} was told that its place is lost", span.room, span.client);
            Violation::new(text, [span.from])
        });
    }
    for (room, epochs) in &epochs {
        findings.expect(epochs.len() == 1, || {
            let names: Vec<&str> = epochs.keys().copied().collect();
            Violation::new(format!("{room} began anew: {}", names.join(", ")), epochs.values().copied())
        });
    }
    let acked = history.publishes.iter().filter(|p| p.is_acked() && kept.contains(p.room));
    for publish in acked {
        let lines = || publish.answers.iter().map(|(l, _)| *l).chain([publish.line]);
        findings.expect(history.place_of(publish).is_some(), || {
            let text =
                format!("{}: {} of {} was acknowledged and is nowhere", publish.room, publish.data, publish.client);
            Violation::new(text, lines())
        });
    }
    findings
}
