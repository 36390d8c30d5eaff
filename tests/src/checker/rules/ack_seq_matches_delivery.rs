//! An acknowledgement that names a place is right: that payload is there and nowhere else.

use std::collections::BTreeMap;

use crate::checker::{Answer, Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut at = BTreeMap::new();
    for ((room, data), places) in &history.places {
        for place in places {
            at.entry((*room, place.epoch, place.offset)).or_insert((*data, place.line));
        }
    }
    for publish in &history.publishes {
        for (line, answer) in &publish.answers {
            let Answer::Acked(Some(place)) = answer else { continue };
            let (room, data, client) = (publish.room, publish.data, publish.client);
            let here = at.get(&(room, place.epoch.as_str(), place.offset));
            findings.expect(here.is_none_or(|(there, _)| *there == data), || {
                let (there, heard) = here.copied().unwrap_or_default();
                let text = format!(
                    "{room}: {data} of {client} was acknowledged at {}/{}, where {there} was delivered",
                    place.epoch, place.offset
                );
                Violation::new(text, [*line, heard])
            });
            let elsewhere = history
                .places
                .get(&(room, data))
                .and_then(|places| places.iter().find(|p| (p.epoch, p.offset) != (place.epoch.as_str(), place.offset)));
            findings.expect(elsewhere.is_none(), || {
                let (epoch, offset, heard) = elsewhere.map(|p| (p.epoch, p.offset, p.line)).unwrap_or_default();
                let text = format!(
                    "{room}: {data} of {client} was acknowledged at {}/{} and delivered at {epoch}/{offset}",
                    place.epoch, place.offset
                );
                Violation::new(text, [*line, heard])
            });
        }
    }
    findings
}
