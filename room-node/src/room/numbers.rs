//! What became of the numbered publishes of a router.

use std::collections::BTreeMap;

use roomring_proto::{Epoch, Seq};

/// Most unsettled numbers kept for one router process in one slot: far above what a link has in flight, so that only a
/// router that never settles meets it. Past it the oldest count as settled: their repeats are answered, never logged again.
const NUMBERS_PER_ROUTER: usize = 65_536;

/// What a number counts in memory.
const OVERHEAD: usize = 64;

/// What became of a numbered publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// No committed entry carries it.
    Unknown,
    /// Its publisher was answered long ago; where it went is forgotten. It must not be logged.
    Settled,
    /// It was published.
    Done {
        /// The room's history.
        epoch: Epoch,
        /// Its place.
        seq: Seq,
        /// Its id was seen before: the place is that of the first.
        duplicate: bool,
    },
}

/// Where a number's publication went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) duplicate: bool,
}

/// The numbers of one router process that it may still send again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct RouterNumbers {
    pub(super) settled_below: u64,
    pub(super) places: BTreeMap<u64, Place>,
    /// Time of its last publish, unix ms.
    pub(super) time_ms: u64,
}

impl RouterNumbers {
    pub(super) fn record(&mut self, number: u64, settled_below: u64, place: Place, time_ms: u64) {
        self.time_ms = time_ms;
        self.places.insert(number, place);
        self.settle(settled_below);
        while self.places.len() > NUMBERS_PER_ROUTER
            && let Some((oldest, _)) = self.places.pop_first()
        {
            self.settled_below = oldest;
        }
    }

    pub(super) fn get(&self, number: u64) -> Number {
        if number <= self.settled_below {
            return Number::Settled;
        }
        self.places.get(&number).map_or(Number::Unknown, |p| Number::Done {
            epoch: p.epoch,
            seq: p.seq,
            duplicate: p.duplicate,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        OVERHEAD * (1 + self.places.len())
    }

    fn settle(&mut self, settled_below: u64) {
        self.settled_below = self.settled_below.max(settled_below);
        while let Some(first) = self.places.first_entry()
            && *first.key() <= self.settled_below
        {
            first.remove();
        }
    }
}
