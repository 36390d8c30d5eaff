//! What is sent after something was delivered or acknowledged comes after it in the room: a reply never precedes what it
//! answers.

use std::collections::BTreeMap;

use crate::checker::{Answer, Findings, History, Violation};

enum Step<'a> {
    Known { room: &'a str, epoch: &'a str, offset: u64 },
    Sent { index: usize },
}

pub(super) fn check(history: &History<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut steps = Vec::new();
    for span in &history.spans {
        steps.push((span.from, Step::Known { room: span.room, epoch: span.epoch, offset: span.start }));
        let heard = span.heard.iter();
        steps.extend(heard.map(|h| (h.line, Step::Known { room: span.room, epoch: span.epoch, offset: h.offset })));
    }
    for (index, publish) in history.publishes.iter().enumerate() {
        for (line, answer) in &publish.answers {
            if let Answer::Acked(Some(p)) = answer {
                steps.push((*line, Step::Known { room: publish.room, epoch: &p.epoch, offset: p.offset }));
            }
        }
        if history.is_one(publish.room, publish.data) {
            steps.push((publish.line, Step::Sent { index }));
        }
    }
    steps.sort_by_key(|(line, _)| *line);
    // By room and epoch: the highest offset that anybody knows so far, and the line that says so.
    let mut known: BTreeMap<(&str, &str), (u64, usize)> = BTreeMap::new();
    for (line, step) in steps {
        match step {
            Step::Known { room, epoch, offset } => {
                let top = known.entry((room, epoch)).or_insert((offset, line));
                if offset > top.0 {
                    *top = (offset, line);
                }
            }
            Step::Sent { index } => {
                let publish = &history.publishes[index];
                let Some((epoch, offset)) = history.place_of(publish) else { continue };
                let (room, data) = (publish.room, publish.data);
                let top = known.get(&(room, epoch)).copied();
                findings.expect(top.is_none_or(|(top, _)| top < offset), || {
                    let (top, said) = top.unwrap_or_default();
                    let text = format!(
                        "{room}: {data} of {} is at {epoch}/{offset}, though offset {top} was known when it was sent",
                        publish.client
                    );
                    Violation::new(text, [said, line])
                });
                let later = known.range((room, "")..).take_while(|((r, _), _)| *r == room);
                let over = later.filter(|((_, e), _)| *e != epoch).find(|((_, e), _)| history.is_later(room, epoch, e));
                findings.expect(over.is_none(), || {
                    let ((_, e), (_, said)) = over.map(|(k, v)| (*k, *v)).unwrap_or_default();
                    let text = format!(
                        "{room}: {data} of {} is in epoch {epoch}, though {e} had followed it when it was sent",
                        publish.client
                    );
                    Violation::new(text, [said, line])
                });
            }
        }
    }
    findings
}
