//! Where no router was killed no connection ends that its client did not end.

use crate::checker::{Claim, Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    if !history.claims.contains(&Claim::SocketsStay) {
        return findings;
    }
    findings.looked_at = history.spans.len();
    for (line, client, code) in &history.cut {
        let code = code.map_or("no code".to_owned(), |c| format!("code {c}"));
        findings.expect(false, || Violation::new(format!("the connection of {client} ended with {code}"), [*line]));
    }
    findings
}
