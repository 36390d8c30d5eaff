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
    use crate::checker::tests::script;

    const TALK: &str = "ann enters r e1/0
        bob enters r e1/0
        ann sends r 1 x
        ann hears r 1 x
        bob hears r 1 x";

    #[test]
    fn a_quiet_run_has_one_story() {
        let story = Oracle::new("r", script(TALK)).judge_quiet();
        assert_eq!(story.messages, BTreeMap::from([(("e1".to_owned(), 1), "x".to_owned())]));
        assert_eq!((story.epochs.len(), story.unsubscribed, story.recovered, story.not_recovered), (1, 0, 0, 0));
    }

    #[test]
    #[should_panic(expected = "bob lacks the end")]
    fn a_member_that_is_behind_is_seen() {
        let behind = TALK.trim_end_matches("bob hears r 1 x");
        Oracle::new("r", script(behind)).judge_quiet();
    }

    #[test]
    #[should_panic(expected = "is out")]
    fn a_member_that_is_out_is_seen() {
        let oracle = Oracle::new("r", script(&format!("{TALK}\nbob goes r")));
        let story = oracle.judge();
        oracle.all_at_top(&story);
    }

    #[test]
    #[should_panic(expected = "TotalOrderAgreement")]
    fn a_broken_rule_is_seen() {
        Oracle::new("r", script(&TALK.replace("bob hears r 1 x", "bob hears r 1 y"))).judge();
    }

    #[test]
    #[should_panic(expected = "is not in the recording")]
    fn a_recording_that_lacks_a_publish_is_seen() {
        let outcome = crate::traffic::Outcome::Acked;
        let sent = Sent { room: "r".into(), publisher: "ann".into(), data: "y".into(), outcome };
        Oracle::new("r", script(TALK)).expect_sent(&[sent]);
    }
}
