//! Who is owed a write. The queue of a client gathers what comes until its turn, so the longer the list, the more goes into
//! one write.

use std::collections::VecDeque;

/// Those who are owed a write, first come first served.
#[derive(Debug)]
pub(super) struct Debts<T, M> {
    owed: VecDeque<T>,
    batches: VecDeque<Batch<M>>,
    /// Bytes taken in for clients, since ever.
    taken: u64,
}

/// What was taken in together.
#[derive(Debug)]
struct Batch<M> {
    /// Who came with it and is still owed.
    left: usize,
    /// Bytes taken in before it.
    before: u64,
    mark: M,
}

impl<T, M> Default for Debts<T, M> {
    fn default() -> Self {
        Self { owed: VecDeque::new(), batches: VecDeque::new(), taken: 0 }
    }
}

impl<T, M> Debts<T, M> {
    /// Adds a batch of so many bytes, with those who are owed a write because of it. `mark` comes back with the last of them.
    pub(super) fn add(&mut self, bytes: u64, owed: &mut Vec<T>, mark: M) {
        if !owed.is_empty() {
            self.batches.push_back(Batch { left: owed.len(), before: self.taken, mark });
            self.owed.extend(owed.drain(..));
        }
        self.taken += bytes;
    }

    /// The next to be written to, and the mark of a batch that has got all its writes with this one.
    pub(super) fn next(&mut self) -> Option<(T, Option<M>)> {
        let next = self.owed.pop_front()?;
        let done = match self.batches.front_mut() {
            Some(batch) if batch.left > 1 => {
                batch.left -= 1;
                None
            }
            _ => self.batches.pop_front().map(|batch| batch.mark),
        };
        Some((next, done))
    }

    /// Takes so many of the last away, for somebody else to write to. The marks of batches that go as a whole are lost.
    pub(super) fn give(&mut self, count: usize) -> Vec<T> {
        let kept = self.owed.len().saturating_sub(count);
        let given: Vec<T> = self.owed.drain(kept..).collect();
        let mut left = given.len();
        while let Some(batch) = self.batches.back_mut()
            && left > 0
        {
            if batch.left > left {
                batch.left -= left;
                break;
            }
            left -= batch.left;
            self.batches.pop_back();
        }
        given
    }

    /// How many are owed.
    pub(super) fn len(&self) -> usize {
        self.owed.len()
    }

    /// At most so many bytes have come for somebody since he was put on the list.
    pub(super) fn behind(&self) -> u64 {
        self.batches.front().map_or(0, |batch| self.taken - batch.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debts(batches: &[(u64, usize)]) -> Debts<usize, usize> {
        let (mut debts, mut next) = (Debts::default(), 0);
        for (mark, (bytes, count)) in batches.iter().enumerate() {
            let mut owed: Vec<_> = (next..next + count).collect();
            next += count;
            debts.add(*bytes, &mut owed, mark);
        }
        debts
    }

    fn rest(mut debts: Debts<usize, usize>) -> (Vec<usize>, Vec<usize>) {
        let all: Vec<_> = std::iter::from_fn(|| debts.next()).collect();
        assert_eq!((debts.len(), debts.behind()), (0, 0));
        (all.iter().map(|(who, _)| *who).collect(), all.iter().filter_map(|(_, mark)| *mark).collect())
    }

    #[test]
    fn first_come_first_served_and_each_batch_ends_once() {
        assert_eq!(rest(debts(&[(1, 2), (1, 0), (1, 1), (1, 3)])), (vec![0, 1, 2, 3, 4, 5], vec![0, 2, 3]));
        assert_eq!(rest(Debts::default()), (vec![], vec![]));
    }

    #[test]
    fn whoever_waits_longest_says_how_far_behind_it_is() {
        let mut debts = debts(&[(10, 2), (20, 1), (40, 0), (80, 1)]);
        assert_eq!(debts.behind(), 150);
        assert_eq!(debts.next(), Some((0, None)));
        assert_eq!(debts.behind(), 150, "the first batch has one more");
        assert_eq!(debts.next(), Some((1, Some(0))));
        assert_eq!(debts.behind(), 140);
        assert_eq!(debts.next(), Some((2, Some(1))));
        assert_eq!(debts.behind(), 80, "nobody is owed what came between");
        debts.add(5, &mut Vec::new(), 9);
        assert_eq!(debts.behind(), 85);
        assert_eq!(debts.next(), Some((3, Some(3))));
        assert_eq!((debts.next(), debts.behind()), (None, 0));
    }

    #[test]
    fn the_last_are_given_away() {
        for (count, given, left) in [
            (0, vec![], (vec![0, 1, 2, 3, 4], vec![0, 1, 2])),
            (1, vec![4], (vec![0, 1, 2, 3], vec![0, 1, 2])),
            (2, vec![3, 4], (vec![0, 1, 2], vec![0, 1])),
            (4, vec![1, 2, 3, 4], (vec![0], vec![0])),
            (9, vec![0, 1, 2, 3, 4], (vec![], vec![])),
        ] {
            let mut debts = debts(&[(1, 2), (1, 1), (1, 2)]);
            assert_eq!(debts.give(count), given);
            assert_eq!(rest(debts), left, "{count} given away");
        }
    }
}
