//! A slot's log: the retained entries, in order, without holes.

use std::collections::VecDeque;

use roomring_control::placement::Retention;
use roomring_proto::{Lsn, Term, v1};

use crate::entry::Entry;

/// What members saw of an applied entry, kept so that it can be replayed to a router that attaches again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Shown {
    /// Nothing, or not applied yet.
    No,
    /// The publication that the entry holds.
    Publication,
    /// A join or leave. Boxed: most entries are publications, and every entry has room for this.
    Presence(Box<v1::Event>),
}

/// Room for entries that a log keeps, however few it has.
const KEEP: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Item {
    entry: Entry,
    shown: Shown,
}

/// Entries `base + 1 ..= last`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Log {
    base: Lsn,
    base_term: Term,
    items: VecDeque<Item>,
    bytes: usize,
}

impl Log {
    /// A log whose first entry will be the one after `base`, which was made in `base_term`.
    pub(super) fn starting_after(base: Lsn, base_term: Term) -> Self {
        Self { base, base_term, ..Self::default() }
    }

    /// The entry before the first one kept.
    pub(super) fn base(&self) -> Lsn {
        self.base
    }

    /// The newest entry; `base` if none is kept.
    pub(super) fn last(&self) -> Lsn {
        Lsn(self.base.0 + self.items.len() as u64)
    }

    /// Unix ms of the newest kept entry.
    pub(super) fn last_time_ms(&self) -> Option<u64> {
        self.items.back().map(|i| i.entry.time_ms)
    }

    /// Bytes kept, as counted by [`Entry::cost`].
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn index(&self, lsn: Lsn) -> Option<usize> {
        let offset = lsn.0.checked_sub(self.base.0 + 1)?;
        usize::try_from(offset).ok().filter(|i| *i < self.items.len())
    }

    /// The term of the entry at `lsn`; known for `base` too.
    pub(super) fn term_at(&self, lsn: Lsn) -> Option<Term> {
        if lsn == self.base {
            return Some(self.base_term);
        }
        self.index(lsn).map(|i| self.items[i].entry.term)
    }

    /// The entry at `lsn`, if kept.
    pub(super) fn get(&self, lsn: Lsn) -> Option<&Entry> {
        self.index(lsn).map(|i| &self.items[i].entry)
    }

    /// Kept entries after `lsn`, with what members saw of them.
    pub(super) fn after(&self, lsn: Lsn) -> impl Iterator<Item = (&Entry, &Shown)> {
        let skip = usize::try_from(lsn.0.saturating_sub(self.base.0)).unwrap_or(usize::MAX);
        self.items.iter().skip(skip).map(|i| (&i.entry, &i.shown))
    }

    /// Adds the next entry.
    ///
    /// # Panics
    /// If it isn't the next.
    pub(super) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.lsn, self.last().next(), "a log has no holes");
        self.bytes += entry.cost();
        self.items.push_back(Item { entry, shown: Shown::No });
    }

    /// Notes what members saw of the entry at `lsn`.
    pub(super) fn set_shown(&mut self, lsn: Lsn, shown: Shown) {
        if let Some(i) = self.index(lsn) {
            self.items[i].shown = shown;
        }
    }

    /// Drops every entry after `lsn`. Returns how many.
    pub(super) fn truncate_after(&mut self, lsn: Lsn) -> usize {
        let mut dropped = 0;
        while self.last() > lsn {
            let Some(item) = self.items.pop_back() else { break };
            self.bytes -= item.entry.cost();
            dropped += 1;
        }
        dropped
    }

    /// Drops old entries up to `applied` that retention does not ask for.
    pub(super) fn trim(&mut self, retention: Retention, applied: Lsn) {
        let newest = self.last_time_ms().unwrap_or(0);
        let age = u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX);
        while self.base < applied
            && let Some(first) = self.items.front()
            && (self.bytes > retention.bytes || newest.saturating_sub(first.entry.time_ms) > age)
        {
            self.base = first.entry.lsn;
            self.base_term = first.entry.term;
            self.bytes -= first.entry.cost();
            self.items.pop_front();
        }
        if self.items.capacity() > KEEP.max(self.items.len().saturating_mul(4)) {
            // A busier time has left it. By half at least, so that a log that rises and falls is seldom moved.
            self.items.shrink_to(self.items.len() * 2);
        }
    }

    /// Where each run of equal terms begins, from `from` (kept, or the base) on.
    pub(super) fn runs(&self, from: Lsn) -> Vec<v1::TermStart> {
        let from = from.max(self.base);
        let mut runs = Vec::new();
        let mut last = None;
        if let Some(term) = self.term_at(from) {
            runs.push(v1::TermStart { term: term.0, lsn: from.0 });
            last = Some(term);
        }
        for (entry, _) in self.after(from) {
            if last != Some(entry.term) {
                runs.push(v1::TermStart { term: entry.term.0, lsn: entry.lsn.0 });
                last = Some(entry.term);
            }
        }
        runs
    }

    /// The highest entry that this log shares with one whose runs of terms are `runs`, ending at `last`. Two logs that agree
    /// on the term of an entry agree on everything before it. `None` if it is not among the entries kept here.
    pub(super) fn common_with(&self, runs: &[v1::TermStart], last: Lsn) -> Option<Lsn> {
        let mut end = last.min(self.last());
        for run in runs.iter().rev() {
            let start = Lsn(run.lsn);
            // From the end of the run down: own terms only fall on the way.
            while end >= start {
                match self.term_at(end) {
                    None => return None,
                    Some(t) if t.0 == run.term => return Some(end),
                    Some(t) if t.0 < run.term => break,
                    Some(_) => {
                        end = Lsn(end.0.checked_sub(1)?);
                    }
                }
            }
            let Some(below) = start.0.checked_sub(1) else { break };
            end = end.min(Lsn(below));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roomring_proto::Generation;

    use super::*;
    use crate::entry::Body;

    fn entry(lsn: u64, term: u64, time_ms: u64) -> Entry {
        Entry { generation: Generation(1), term: Term(term), lsn: Lsn(lsn), time_ms, body: Body::Expire }
    }

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::default();
        for (i, t) in terms.iter().enumerate() {
            log.push(entry(i as u64 + 1, *t, 0));
        }
        log
    }

    #[test]
    fn the_common_prefix_is_found() {
        let common = |a: &[u64], b: &[u64]| {
            let b = log(b);
            log(a).common_with(&b.runs(Lsn(0)), b.last())
        };
        assert_eq!(common(&[1, 1, 2], &[1, 1, 2]), Some(Lsn(3)));
        assert_eq!(common(&[1, 1, 2, 2], &[1, 1, 2]), Some(Lsn(3)));
        assert_eq!(common(&[1, 1], &[1, 1, 1, 1]), Some(Lsn(2)));
        assert_eq!(common(&[1, 1, 3, 3], &[1, 1, 2, 2, 2]), Some(Lsn(2)));
        assert_eq!(common(&[1, 2, 2, 4], &[1, 1, 1, 3]), Some(Lsn(1)));
        assert_eq!(common(&[2], &[1]), Some(Lsn(0)));
        assert_eq!(common(&[], &[1, 1]), Some(Lsn(0)));
    }

    #[test]
    fn a_log_that_ends_before_the_kept_entries_shares_nothing_kept() {
        let mut ours = log(&[1, 1, 1, 1]);
        ours.trim(Retention { bytes: 0, age: Duration::ZERO }, Lsn(3));
        assert_eq!(ours.base(), Lsn(3));
        let theirs = log(&[1, 1]);
        assert_eq!(ours.common_with(&theirs.runs(Lsn(0)), theirs.last()), None);
        let theirs = log(&[1, 1, 1]);
        assert_eq!(ours.common_with(&theirs.runs(Lsn(0)), theirs.last()), Some(Lsn(3)));
    }

    #[test]
    fn trimming_keeps_what_is_young_and_what_is_not_applied() {
        let mut log = Log::default();
        for i in 1..=10 {
            log.push(entry(i, 1, i * 1000));
        }
        let retention = Retention { bytes: usize::MAX, age: Duration::from_secs(3) };
        log.trim(retention, Lsn(10));
        assert_eq!((log.base(), log.last()), (Lsn(6), Lsn(10)));
        log.trim(Retention { bytes: 0, ..retention }, Lsn(8));
        assert_eq!(log.base(), Lsn(8));
        assert_eq!(log.bytes(), 2 * entry(1, 1, 1).cost());
        assert_eq!(log.term_at(Lsn(8)), Some(Term(1)));
        assert_eq!(log.term_at(Lsn(7)), None);
        assert_eq!(log.truncate_after(Lsn(9)), 1);
        assert_eq!(log.last(), Lsn(9));
    }
}
