//! A publish whose outcome was given as unknown is not sent again: it is never delivered after something that its client
//! sent to the room once it had been told so.

use crate::checker::{Answer, Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    let unknown = history.publishes.iter().filter_map(|p| {
        let told = p.answers.iter().find(|(_, a)| matches!(a, Answer::Unknown))?;
        history.is_one(p.room, p.data).then_some((p, told.0))
    });
    for (publish, told) in unknown {
        let Some((epoch, offset)) = history.place_of(publish) else { continue };
        let (room, client, data) = (publish.room, publish.client, publish.data);
        let later = history.publishes.iter().filter(|p| (p.room, p.client) == (room, client) && p.line > told);
        for later in later.filter(|p| history.is_one(p.room, p.data)) {
            let Some((e, o)) = history.place_of(later) else { continue };
            let before = (e == epoch && offset < o) || history.is_later(room, epoch, e);
            findings.expect(before || (e != epoch && !history.is_later(room, e, epoch)), || {
                let text = format!("{room}: {data} of {client} was of unknown outcome, and is at {epoch}/{offset}, after {} at {e}/{o} that was sent later", later.data);
                Violation::new(text, [publish.line, told, later.line])
            });
        }
    }
    findings
}
