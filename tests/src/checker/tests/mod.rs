//! The checker's own tests: what it must reject, and what it must not.

mod broken;
mod good;
mod mutations;

use super::{Claim, Line, Position, Recording, What};

/// A recording in short hand, one event a line: who, what, and its details. Rooms are named first where there are several
/// words; `e1/3` is a position.
pub(crate) fn script(text: &str) -> Recording {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let mut recording = Recording::default();
    for (at_us, line) in (1..).zip(lines) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let room = || words[2].to_owned();
        let (client, what) = match (words[0], words[1]) {
            ("claim", "no_loss") => ("", What::Claimed { claim: Claim::NoLoss }),
            ("claim", "sockets_stay") => ("", What::Claimed { claim: Claim::SocketsStay }),
            ("all", "calm") => ("", What::Calm),
            (who, "closed") => (who, What::Closed { code: words.get(2).map(|c| c.parse().unwrap()), wanted: false }),
            (who, "asks") => (who, What::Subscribing { room: room(), recover: words.get(3).map(|p| position(p)) }),
            (who, "enters") => (who, subscribed(room(), words[3], false, false)),
            (who, "recovers") => (who, subscribed(room(), words[3], true, true)),
            (who, "unrecovered") => (who, subscribed(room(), words[3], true, false)),
            (who, "hears") => {
                (who, What::Message { room: room(), offset: words[3].parse().unwrap(), data: words[4].to_owned() })
            }
            (who, "join") => (who, What::Joined { room: room(), who: words[3].to_owned() }),
            (who, "leave") => (who, What::Left { room: room(), who: words[3].to_owned() }),
            (who, "dropped") => (who, What::Unsubscribed { room: room(), code: 2500 }),
            (who, "goes") => (who, What::Gone { room: room() }),
            (who, "sends") => {
                let (number, data) = (words[3].parse().unwrap(), words[4].to_owned());
                (who, What::Sent { room: room(), number, data, id: words.get(5).map(|id| (*id).to_owned()) })
            }
            (who, "acked") => {
                let place = words.get(3).map(|p| position(p));
                (who, What::Acked { number: words[2].parse().unwrap(), place })
            }
            (who, "refused") => (who, What::Refused { number: words[2].parse().unwrap(), code: 100 }),
            (who, "unknown") => (who, What::Unknown { number: words[2].parse().unwrap(), code: 1000 }),
            (who, "present") => {
                (who, What::Presence { room: room(), clients: words[3..].iter().map(|c| (*c).to_owned()).collect() })
            }
            (_, other) => panic!("no such word: {other}"),
        };
        recording.lines.push(Line { at_us, client: client.to_owned(), what });
    }
    recording
}

fn position(text: &str) -> Position {
    let (epoch, offset) = text.split_once('/').expect("epoch/offset");
    Position { epoch: epoch.to_owned(), offset: offset.parse().unwrap() }
}

fn subscribed(room: String, at: &str, was_recovering: bool, recovered: bool) -> What {
    What::Subscribed { room, position: position(at), was_recovering, recovered }
}

/// Rules that a recording breaks.
fn broken(recording: &Recording) -> Vec<&'static str> {
    let verdicts = super::check(recording).into_iter();
    verdicts.filter(|v| !v.findings.violations.is_empty()).map(|v| v.rule).collect()
}
