//! Once all is calm, who is said to be in a room is who is in it.

use std::collections::BTreeSet;

use crate::checker::{End, Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    for (line, client, room, said) in &history.presence {
        let open = history.spans.iter().filter(|s| s.room == *room && s.end == End::Open);
        let there: BTreeSet<&str> = open.map(|s| s.client).collect();
        findings.expect(there == *said, || {
            let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(" ");
            let missing = list(there.difference(said).copied().collect());
            let extra = list(said.difference(&there).copied().collect());
            Violation::new(
                format!("{room}: {client} was told who is there; missing: [{missing}], not there: [{extra}]"),
                [*line],
            )
        });
    }
    findings
}
