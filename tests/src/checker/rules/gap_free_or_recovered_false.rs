//! In a membership offsets rise by one; a recovered one goes on exactly where the client stood; nothing comes outside one.

use crate::checker::{Findings, History, Violation};

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    for span in &history.spans {
        let (room, client, epoch) = (span.room, span.client, span.epoch);
        let mut last = (span.start, span.from);
        for heard in &span.heard {
            findings.expect(heard.offset == last.0 + 1, || {
                let text =
                    format!("{room}: {client} got {} at {epoch}/{} after offset {}", heard.data, heard.offset, last.0);
                Violation::new(text, [last.1, heard.line])
            });
            last = (heard.offset, heard.line);
        }
        if !span.recovered {
            continue;
        }
        findings.expect(span.was_recovering, || {
            Violation::new(format!("{room}: {client} is promised a recovery it did not ask for"), [span.from])
        });
        // A client that gives no epoch accepts any.
        if let Some(asked) = span.asked {
            let same = asked.offset == span.start && (asked.epoch.is_empty() || asked.epoch == epoch);
            findings.expect(same, || {
                let text = format!(
                    "{room}: {client} asked for {}/{} and was told recovered at {epoch}/{}",
                    asked.epoch, asked.offset, span.start
                );
                Violation::new(text, span.asked_at.into_iter().chain([span.from]))
            });
        }
    }
    for (line, client, room) in &history.strays {
        findings.expect(false, || {
            Violation::new(format!("{room}: {client} was told something while it was not in"), [*line])
        });
    }
    for (line, client, room) in &history.twice {
        findings.expect(false, || Violation::new(format!("{room}: {client} was subscribed twice"), [*line]));
    }
    findings
}
