//! An acknowledged publish reaches every member that is still there at the end, or that member was told that it lost its
//! place (a subscription that was not recovered).

use std::collections::BTreeMap;

use crate::checker::{Findings, History, Span, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut standing: BTreeMap<&str, Vec<Vec<&Span<'_>>>> = BTreeMap::new();
    for run in history.standing() {
        standing.entry(run[0].room).or_default().push(run);
    }
    for publish in history.publishes.iter().filter(|p| p.is_acked() && history.is_one(p.room, p.data)) {
        let place = history.place_of(publish);
        for run in standing.get(publish.room).into_iter().flatten() {
            let first = run[0];
            let epoch = first.epoch;
            let due = match place {
                Some((e, offset)) if e == epoch => first.start < offset,
                // It was there before the publish, hears of no other history, and so must have it.
                _ => first.from < publish.line,
            };
            if !due {
                continue;
            }
            let has = place.is_some_and(|(e, offset)| {
                e == epoch && run.iter().any(|s| s.heard.binary_search_by_key(&offset, |h| h.offset).is_ok())
            });
            findings.expect(has, || {
                let (room, data, client) = (publish.room, publish.data, first.client);
                let at = place.map_or("nowhere".to_owned(), |(e, o)| format!("at {e}/{o}"));
                let text = format!(
                    "{room}: {data} of {} was acknowledged ({at}), {client}, in epoch {epoch} from offset {} to the end, never got it and was not told",
                    publish.client, first.start
                );
                Violation::new(text, publish.answers.iter().map(|(l, _)| *l).chain([publish.line, first.from]))
            });
        }
    }
    findings
}
