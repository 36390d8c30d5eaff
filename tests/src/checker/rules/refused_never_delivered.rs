//! A refused publish is not in the room and never will be: the client may send it again.

use crate::checker::{Answer, Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    for publish in history.publishes.iter().filter(|p| history.is_one(p.room, p.data)) {
        for (line, answer) in &publish.answers {
            let Answer::Refused(code) = answer else { continue };
            let place = history.places.get(&(publish.room, publish.data)).and_then(|p| p.first());
            findings.expect(place.is_none(), || {
                let text = format!(
                    "{}: {} of {} was refused with {code} and delivered",
                    publish.room, publish.data, publish.client
                );
                Violation::new(text, place.map(|p| p.line).into_iter().chain([*line]))
            });
        }
    }
    findings
}
