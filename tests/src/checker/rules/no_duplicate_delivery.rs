//! One publish has one place. A publish sent again without an id is another publish.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::{Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut times: BTreeMap<(&str, &str), (usize, BTreeSet<&str>)> = BTreeMap::new();
    for publish in &history.publishes {
        let (plain, ids) = times.entry((publish.room, publish.data)).or_default();
        match publish.id {
            Some(id) => _ = ids.insert(id),
            None => *plain += 1,
        }
    }
    for ((room, data), places) in &history.places {
        // What a client that is not recorded said it is taken to have said once.
        let allowed = times.get(&(*room, *data)).map_or(1, |(plain, ids)| plain + ids.len());
        findings.expect(places.len() <= allowed, || {
            let at: Vec<String> = places.iter().map(|p| format!("{}/{}", p.epoch, p.offset)).collect();
            let text = format!("{room}: {data} was published {allowed} times and delivered at {}", at.join(", "));
            Violation::new(text, places.iter().map(|p| p.line))
        });
    }
    findings
}
