//! A real run, recorded, with one thing changed: each class of change must be rejected wherever it is made.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::broken;
use crate::checker::{End, History, Recording, What};

/// Three rooms of four members on two routers; a node was killed, its rooms were recreated. See `tests/recorded.rs`.
const REAL: &str = include_str!("../../../recordings/crash.jsonl");

fn real() -> Recording {
    Recording::read(REAL.as_bytes()).unwrap()
}

/// Lines that fit, by index.
fn lines(recording: &Recording, fits: impl Fn(&What) -> bool) -> Vec<usize> {
    let fitting = recording.lines.iter().enumerate().filter(|(_, l)| fits(&l.what));
    fitting.map(|(i, _)| i).collect()
}

/// Messages heard in a membership, all but its last: line indices.
fn inner(history: &History<'_>) -> Vec<usize> {
    history.spans.iter().flat_map(|s| s.heard.iter().rev().skip(1)).map(|h| h.line).collect()
}

/// The last message of each membership that is open at the end.
fn last(history: &History<'_>) -> Vec<usize> {
    let open = history.spans.iter().filter(|s| s.end == End::Open);
    open.filter_map(|s| s.heard.last()).map(|h| h.line).collect()
}

/// Changes one thing; gives the rule that must reject it.
type Mutation = fn(&mut Recording, &Index) -> &'static str;

const MUTATIONS: [(&str, Mutation); 12] = [
    ("drop a delivery", |r, at| {
        r.lines.remove(*at.get(&inner(&History::of(r))));
        "GapFreeOrRecoveredFalse"
    }),
    ("drop the last delivery", |r, at| {
        r.lines.remove(*at.get(&last(&History::of(r))));
        "AckedDeliveredOrTold"
    }),
    ("duplicate a delivery", |r, at| {
        let i = *at.get(&lines(r, |w| matches!(w, What::Message { .. })));
        r.lines.insert(i, r.lines[i].clone());
        "GapFreeOrRecoveredFalse"
    }),
    ("swap two deliveries", |r, at| {
        let pairs: Vec<(usize, usize)> =
            History::of(r).spans.iter().flat_map(|s| s.heard.windows(2)).map(|w| (w[0].line, w[1].line)).collect();
        let (a, b) = *at.get(&pairs);
        r.lines.swap(a, b);
        "GapFreeOrRecoveredFalse"
    }),
    ("alter a payload", |r, at| {
        let i = *at.get(&lines(r, |w| matches!(w, What::Message { .. })));
        if let What::Message { data, .. } = &mut r.lines[i].what {
            *data = "\"never said\"".to_owned();
        }
        "TotalOrderAgreement"
    }),
    ("swap two publishes of one client, to all", |r, at| {
        let history = History::of(r);
        let mut pairs = Vec::new();
        for span in &history.spans {
            for w in span.heard.windows(2) {
                let whose = |data| history.publishes.iter().find(|p| p.data == data).map(|p| p.client);
                if whose(w[0].data).is_some() && whose(w[0].data) == whose(w[1].data) {
                    pairs.push((w[0].data.to_owned(), w[1].data.to_owned()));
                }
            }
        }
        let (a, b) = at.get(&pairs).clone();
        for line in &mut r.lines {
            if let What::Message { data, .. } = &mut line.what {
                if *data == a {
                    b.clone_into(data);
                } else if *data == b {
                    a.clone_into(data);
                }
            }
        }
        "PublisherFifo"
    }),
    ("lose an acknowledged publish for all, without a trace", |r, at| {
        let history = History::of(r);
        let kept: BTreeSet<(&str, &str)> = history.standing().map(|run| (run[0].room, run[0].epoch)).collect();
        let lost = history.places.iter().filter(|((room, _), places)| kept.contains(&(*room, places[0].epoch)));
        let lost: Vec<(String, String, String, u64)> = lost
            .map(|((room, data), p)| ((*room).to_owned(), (*data).to_owned(), p[0].epoch.to_owned(), p[0].offset))
            .collect();
        let (room, data, epoch, offset) = at.get(&lost).clone();
        forget(r, &room, &data, &epoch, offset);
        "AckedDeliveredOrTold"
    }),
    ("refuse what is there", |r, at| {
        let history = History::of(r);
        let there = history.publishes.iter().filter(|p| p.is_acked() && history.places.contains_key(&(p.room, p.data)));
        let answers: Vec<usize> = there.flat_map(|p| p.answers.iter().map(|(l, _)| *l)).collect();
        let line = &mut r.lines[*at.get(&answers)];
        if let What::Acked { number, .. } = line.what {
            line.what = What::Refused { number, code: 100 };
        }
        "RefusedNeverDelivered"
    }),
    ("answer twice", |r, at| {
        let i = *at.get(&lines(r, |w| matches!(w, What::Acked { .. })));
        r.lines.push(r.lines[i].clone());
        "AnsweredOnce"
    }),
    ("send after delivery", |r, at| {
        let history = History::of(r);
        let delivered = history.publishes.iter().filter_map(|p| {
            let place = history.places.get(&(p.room, p.data))?.first()?;
            Some((p.line, place.line))
        });
        let (sent, heard) = *at.get(&delivered.collect::<Vec<_>>());
        // Between the two lines, not past the answer: that is another fault.
        let line = r.lines.remove(sent);
        r.lines.insert(heard, line);
        "CausalOrder"
    }),
    ("promise a recovery that is none", |r, at| {
        let i = *at.get(&lines(r, |w| matches!(w, What::Subscribed { was_recovering: true, recovered: false, .. })));
        if let What::Subscribed { recovered, .. } = &mut r.lines[i].what {
            *recovered = true;
        }
        "GapFreeOrRecoveredFalse"
    }),
    ("forget somebody who is there", |r, at| {
        let i = *at.get(&lines(r, |w| matches!(w, What::Presence { .. })));
        if let What::Presence { clients, .. } = &mut r.lines[i].what {
            clients.pop();
        }
        "PresenceConverges"
    }),
];

/// Takes a publication out of a room's history as if it had never been: those after it move up.
fn forget(recording: &mut Recording, room: &str, data: &str, epoch: &str, offset: u64) {
    let history = History::of(recording);
    let spans = history.spans.iter().filter(|s| s.room == room && s.epoch == epoch);
    let later: BTreeSet<usize> = spans
        .flat_map(|s| {
            s.heard.iter().filter(|h| h.offset > offset).map(|h| h.line).chain((s.start >= offset).then_some(s.from))
        })
        .collect();
    for line in later {
        match &mut recording.lines[line].what {
            What::Message { offset, .. } => *offset -= 1,
            What::Subscribed { position, .. } => position.offset -= 1,
            _ => {}
        }
    }
    recording.lines.retain(|l| !matches!(&l.what, What::Message { room: r, data: d, .. } if r == room && d == data));
}

#[test]
fn the_real_run_is_good() {
    assert_eq!(crate::checker::violations(&real()), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_change_of_the_real_run_is_rejected(at: Index) {
        for (name, mutation) in MUTATIONS {
            let mut recording = real();
            let rule = mutation(&mut recording, &at);
            let broken = broken(&recording);
            prop_assert!(broken.contains(&rule), "{name}: {rule} sees nothing, broken are {broken:?}");
        }
    }
}
