//! Judges what the members of a room were told against what publishers were told: the checker, for one room of a test.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::{self, End, History, Recording, Span};
use crate::traffic::Sent;

/// Everything known about one room after a run.
#[derive(Debug, Default)]
pub struct Oracle {
    room: String,
    recording: Recording,
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
    /// Of the room `room`, of which the recording is.
    pub fn new(room: &str, recording: Recording) -> Self {
        Self { room: room.to_owned(), recording }
    }

    /// Checks that the recording is whole: everything that publishers say they sent is in it.
    ///
    /// # Panics
    /// If it is not.
    pub fn expect_sent(&self, sent: &[Sent]) {
        let history = History::of(&self.recording);
        let recorded: BTreeSet<&str> = history.publishes.iter().map(|p| p.data).collect();
        for sent in sent.iter().filter(|s| s.room == self.room) {
            assert!(recorded.contains(sent.data.as_str()), "{}: {} is not in the recording", self.room, sent.data);
        }
    }

    /// Applies every rule of the checker.
    ///
    /// # Panics
    /// If one is broken.
    pub fn judge(&self) -> Story {
        let violations = checker::violations(&self.recording);
        assert!(violations.is_empty(), "{}: {violations:#?}", self.room);
        let history = History::of(&self.recording);
        let mut story = Story::default();
        for span in &history.spans {
            let heard = span.heard.iter().map(|h| ((span.epoch.to_owned(), h.offset), h.data.to_owned()));
            story.messages.extend(heard);
            story.epochs.insert(span.epoch.to_owned());
            story.unsubscribed += usize::from(matches!(span.end, End::Unsubscribed(_)));
            story.recovered += usize::from(span.was_recovering && span.recovered);
            story.not_recovered += usize::from(span.was_recovering && !span.recovered);
        }
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
        let history = History::of(&self.recording);
        let mut last: BTreeMap<&str, &Span<'_>> = BTreeMap::new();
        for span in &history.spans {
            last.insert(span.client, span);
        }
        let room = &self.room;
        for (name, span) in &last {
            let tops = story.messages.keys().filter(|(e, _)| e == span.epoch).map(|(_, o)| *o);
            let stands = span.heard.last().map_or(span.start, |h| h.offset);
            assert_eq!(span.end, End::Open, "{room}: {name} is out");
            assert_eq!(stands, tops.max().unwrap_or(stands), "{room}: {name} lacks the end of {}", span.epoch);
        }
        let epochs: BTreeSet<&str> = last.values().map(|s| s.epoch).collect();
        assert!(epochs.len() <= 1, "{room}: members stand in different epochs {epochs:?}");
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
