//! Judges what the members of a room were told against what publishers were told: the promises, seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::{Event, RoomLog};
use crate::traffic::{Outcome, Sent};

/// Everything known about one room after a run.
#[derive(Debug, Default)]
pub struct Oracle {
    room: String,
    logs: Vec<RoomLog>,
    sent: Vec<Sent>,
}

/// A room's history as its members agree on it.
#[derive(Debug, Default)]
pub struct Story {
    /// Epochs that some member saw.
    pub epochs: BTreeSet<String>,
    /// (epoch, offset) -> payload.
    pub messages: BTreeMap<(String, u64), String>,
    /// Unsubscribes by the server, over all members.
    pub unsubscribed: usize,
    /// Recoveries that were promised whole, over all members.
    pub recovered: usize,
    /// Recoveries that were refused, over all members.
    pub not_recovered: usize,
}

impl Oracle {
    /// Of the room `room`.
    pub fn new(room: &str) -> Self {
        Self { room: room.to_owned(), ..Self::default() }
    }

    /// What a member was told.
    pub fn member(&mut self, log: RoomLog) {
        self.logs.push(log);
    }

    /// What publishers were told.
    pub fn sent<'a>(&mut self, sent: impl IntoIterator<Item = &'a Sent>) {
        self.sent.extend(sent.into_iter().filter(|s| s.room == self.room).cloned());
    }

    /// Checks order, completeness, agreement and honesty.
    ///
    /// # Panics
    /// At the first broken promise, naming it, the room and the member.
    pub fn judge(&self) -> Story {
        let mut story = Story::default();
        for log in &self.logs {
            self.walk(log, &mut story);
        }
        self.no_duplicates(&story);
        self.publishers_kept_their_word(&story);
        story
    }

    /// As [`Oracle::judge`], for a run in which no member may have noticed anything.
    ///
    /// # Panics
    /// Also if some member was unsubscribed, missed something or stands elsewhere than the others.
    pub fn judge_quiet(&self) -> Story {
        let story = self.judge();
        let room = &self.room;
        assert_eq!(story.epochs.len(), 1, "{room}: one epoch, got {:?}", story.epochs);
        assert_eq!(story.unsubscribed, 0, "{room}: members were unsubscribed");
        self.all_at_top(&story);
        story
    }

    /// Checks that every member stands at the end of the story.
    ///
    /// # Panics
    /// If one does not.
    pub fn all_at_top(&self, story: &Story) {
        for log in &self.logs {
            let top =
                story.messages.keys().filter(|(e, _)| *e == log.epoch).map(|(_, o)| *o).max().unwrap_or(log.offset);
            let (room, name) = (&self.room, &log.name);
            assert!(log.subscribed, "{room}: {name} is out, last {:#?}", log.brief());
            assert_eq!(log.offset, top, "{room}: {name} lacks the end, last {:#?}", log.brief());
        }
        let epochs: BTreeSet<&str> = self.logs.iter().map(|l| l.epoch.as_str()).collect();
        assert!(epochs.len() <= 1, "{}: members stand in different epochs {epochs:?}", self.room);
    }

    /// One member: by one in an epoch, nothing before it is in, no epoch comes back, promises to recover are kept.
    fn walk(&self, log: &RoomLog, story: &mut Story) {
        let (room, name) = (&self.room, &log.name);
        let mut at: Option<(String, u64)> = None;
        let mut inside = false;
        let mut left_epochs = BTreeSet::new();
        let mut present: BTreeMap<&str, bool> = BTreeMap::new();
        for event in &log.events {
            match event {
                Event::Subscribed { epoch, offset, was_recovering, recovered } => {
                    assert!(!inside, "{room}: {name} was subscribed twice");
                    inside = true;
                    present.clear();
                    let new = (epoch.clone(), *offset);
                    if *recovered {
                        assert_eq!(at.as_ref(), Some(&new), "{room}: {name} recovered from another place than asked");
                    } else if let Some((old, _)) = at.take().filter(|(old, _)| old != epoch) {
                        left_epochs.insert(old);
                    }
                    assert!(!left_epochs.contains(epoch), "{room}: {name} saw epoch {epoch} come back");
                    story.recovered += usize::from(*was_recovering && *recovered);
                    story.not_recovered += usize::from(*was_recovering && !*recovered);
                    story.epochs.insert(epoch.clone());
                    at = Some(new);
                }
                Event::Message { offset, data, .. } => {
                    assert!(inside, "{room}: {name} got {data} while it was out");
                    let (epoch, last) = at.as_mut().expect("inside, so somewhere");
                    assert_eq!(*offset, *last + 1, "{room}: {name} got {data} in {epoch} after offset {last}");
                    *last = *offset;
                    let known = story.messages.entry((epoch.clone(), *offset)).or_insert_with(|| data.clone());
                    assert_eq!(known, data, "{room}: {name} disagrees about {epoch}/{offset}");
                }
                Event::Joined(member) => {
                    assert!(inside, "{room}: {name} heard {member:?} join while it was out");
                    let before = present.insert(&member.client, true);
                    assert_ne!(before, Some(true), "{room}: {name} heard {member:?} join twice");
                }
                Event::Left(member) => {
                    assert!(inside, "{room}: {name} heard {member:?} leave while it was out");
                    let before = present.insert(&member.client, false);
                    assert_ne!(before, Some(false), "{room}: {name} heard {member:?} leave twice");
                }
                Event::Unsubscribed(_) => {
                    story.unsubscribed += 1;
                    inside = false;
                }
                Event::Gone => inside = false,
            }
        }
    }

    /// A payload, unique by its maker, has one place.
    fn no_duplicates(&self, story: &Story) {
        let mut seen = BTreeMap::new();
        for (place, data) in &story.messages {
            if let Some(before) = seen.insert(data, place) {
                panic!("{}: {data} was delivered twice, at {before:?} and {place:?}", self.room);
            }
        }
    }

    /// Acknowledged: delivered, if the room kept its history. Refused: never delivered. Each publisher's in its order.
    fn publishers_kept_their_word(&self, story: &Story) {
        let room = &self.room;
        let place: BTreeMap<&str, &(String, u64)> = story.messages.iter().map(|(p, d)| (d.as_str(), p)).collect();
        let mut last: BTreeMap<(&str, &str), (u64, &str)> = BTreeMap::new();
        for sent in &self.sent {
            let data = sent.data.as_str();
            let Some((epoch, offset)) = place.get(data) else {
                let lost = sent.outcome == Outcome::Acked && story.epochs.len() == 1 && !self.logs.is_empty();
                assert!(!lost, "{room}: {data} was acknowledged and never delivered");
                continue;
            };
            assert!(!matches!(sent.outcome, Outcome::Refused(_)), "{room}: {data} was refused and delivered");
            if let Some((before, other)) = last.insert((epoch, &sent.publisher), (*offset, data)) {
                assert!(before < *offset, "{room}: {data} was delivered before {other} of the same publisher");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Error, Member};

    fn entered(epoch: &str, offset: u64) -> Event {
        Event::Subscribed { epoch: epoch.into(), offset, was_recovering: false, recovered: false }
    }

    fn back(epoch: &str, offset: u64, recovered: bool) -> Event {
        Event::Subscribed { epoch: epoch.into(), offset, was_recovering: true, recovered }
    }

    fn message(offset: u64, data: &str) -> Event {
        Event::Message { offset, data: data.into(), from: None }
    }

    fn log(events: &[Event]) -> RoomLog {
        let mut log = RoomLog::new("ann");
        events.iter().for_each(|e| log.push(e.clone()));
        log
    }

    fn sent(data: &str, outcome: Outcome) -> Sent {
        Sent { room: "lobby".into(), publisher: "p".into(), data: data.into(), outcome }
    }

    fn oracle(logs: &[&[Event]], sent: &[Sent]) -> Oracle {
        let mut oracle = Oracle::new("lobby");
        logs.iter().for_each(|events| oracle.member(log(events)));
        oracle.sent(sent);
        oracle
    }

    /// What the verdict should say, what members were told, what publishers were told.
    type Row<'a> = (&'a str, &'a [&'a [Event]], &'a [Sent]);

    /// What the verdict says, or an empty text if it is good.
    fn verdict(logs: &[&[Event]], sent: &[Sent]) -> String {
        let oracle = oracle(logs, sent);
        let judged = std::panic::catch_unwind(|| oracle.judge());
        judged.err().and_then(|e| e.downcast_ref::<String>().cloned()).unwrap_or_default()
    }

    #[test]
    fn a_good_run_is_good() {
        let ann = [entered("e1", 0), message(1, "a"), Event::Unsubscribed(2500), back("e1", 1, true), message(2, "b")];
        let bob = [entered("e1", 1), message(2, "b"), Event::Unsubscribed(2500), back("e2", 0, false), message(1, "c")];
        let oracle = oracle(&[&ann, &bob], &[sent("a", Outcome::Acked), sent("c", Outcome::Unknown)]);
        let story = oracle.judge();
        assert_eq!((story.recovered, story.not_recovered, story.unsubscribed), (1, 1, 2));
        assert_eq!(story.messages.len(), 3);
    }

    #[test]
    fn every_broken_promise_is_seen() {
        let refused = Outcome::Refused(Error { code: 100, message: "no".into(), temporary: true });
        let joined = Event::Joined(Member { user: "x".into(), client: "1".into() });
        let rows: [Row<'_>; 12] = [
            ("after offset 1", &[&[entered("e1", 0), message(1, "a"), message(3, "c")]], &[]),
            ("after offset 1", &[&[entered("e1", 0), message(1, "a"), message(1, "a")]], &[]),
            ("disagrees", &[&[entered("e1", 0), message(1, "a")], &[entered("e1", 0), message(1, "b")]], &[]),
            ("delivered twice", &[&[entered("e1", 0), message(1, "a"), message(2, "a")]], &[]),
            ("while it was out", &[&[entered("e1", 0), Event::Unsubscribed(2500), message(1, "a")]], &[]),
            ("while it was out", &[&[entered("e1", 0), Event::Gone, joined.clone()]], &[]),
            ("subscribed twice", &[&[entered("e1", 0), entered("e1", 0)]], &[]),
            (
                "recovered from another place",
                &[&[entered("e1", 0), message(1, "a"), Event::Unsubscribed(2500), back("e1", 2, true)]],
                &[],
            ),
            (
                "come back",
                &[&[
                    entered("e1", 0),
                    Event::Unsubscribed(2500),
                    back("e2", 0, false),
                    Event::Unsubscribed(2500),
                    back("e1", 0, false),
                ]],
                &[],
            ),
            ("join twice", &[&[entered("e1", 0), joined.clone(), joined]], &[]),
            ("acknowledged and never delivered", &[&[entered("e1", 0)]], &[sent("a", Outcome::Acked)]),
            ("refused and delivered", &[&[entered("e1", 0), message(1, "a")]], &[sent("a", refused)]),
        ];
        for (says, logs, sent) in rows {
            let verdict = verdict(logs, sent);
            assert!(verdict.contains(says), "{says:?} expected, got {verdict:?}");
        }
        let swapped = [sent("b", Outcome::Acked), sent("a", Outcome::Acked)];
        let verdict = verdict(&[&[entered("e1", 0), message(1, "a"), message(2, "b")]], &swapped);
        assert!(verdict.contains("before"), "{verdict}");
    }

    #[test]
    #[should_panic(expected = "lacks the end")]
    fn a_member_that_is_behind_is_seen() {
        let oracle = oracle(&[&[entered("e1", 0), message(1, "a")], &[entered("e1", 0)]], &[]);
        oracle.judge_quiet();
    }
}
