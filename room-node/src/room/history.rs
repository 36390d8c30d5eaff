//! The publications that a room keeps for its clients.

use std::collections::VecDeque;

use bytes::Bytes;
use roomring_proto::{Seq, v1};

use roomring_control::placement::RoomLimits;

use super::keeps::Keeps;

/// What a kept publication counts beside its payload and names.
const OVERHEAD: usize = 160;

/// The newest publications of a room, without holes, ending at the room's top. Bounded by count, bytes and age.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct History {
    keeps: Keeps,
    kept: VecDeque<v1::Publication>,
    bytes: usize,
}

impl History {
    pub(super) fn new(keeps: Keeps) -> Self {
        Self { keeps, ..Self::default() }
    }

    /// What it keeps, as far as the room was made with something of its own.
    pub(super) fn keeps(&self) -> Keeps {
        self.keeps
    }

    /// Adds the next publication, and drops the oldest ones until the limits hold. That may be the new one itself.
    pub(super) fn push(&mut self, publication: v1::Publication, limits: &RoomLimits) {
        debug_assert!(self.kept.back().is_none_or(|last| last.seq + 1 == publication.seq));
        self.bytes += cost(&publication);
        if self.kept.len() == self.kept.capacity() {
            // By halves: most rooms are quiet, and one message must not take the place of four.
            self.kept.reserve_exact(1 + self.kept.len() / 2);
        }
        self.kept.push_back(publication);
        while self.kept.len() > self.keeps.size(limits) || self.bytes > limits.history_bytes {
            self.pop();
        }
    }

    /// Leaves of the publication at `seq`, if it is kept, its place and `data`.
    pub(super) fn retract(&mut self, seq: Seq, data: &Bytes) {
        if let Ok(index) = self.kept.binary_search_by_key(&seq.0, |p| p.seq) {
            let publication = &mut self.kept[index];
            self.bytes -= cost(publication);
            publication.blank(data);
            self.bytes += cost(publication);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.kept = VecDeque::new();
        self.bytes = 0;
    }

    /// The publication at `seq`, if it is kept.
    pub(super) fn get(&self, seq: Seq) -> Option<&v1::Publication> {
        self.kept.binary_search_by_key(&seq.0, |p| p.seq).ok().map(|index| &self.kept[index])
    }

    /// Drops what is too old at `now` (ms).
    pub(super) fn expire(&mut self, now: u64, limits: &RoomLimits) {
        while self.due(limits).is_some_and(|due| due <= now) {
            self.pop();
        }
    }

    /// When the oldest publication will be too old, in unix ms.
    pub(super) fn due(&self, limits: &RoomLimits) -> Option<u64> {
        self.kept.front().map(|p| p.time_ms.saturating_add(self.keeps.age_ms(limits)))
    }

    /// Oldest first after `since`, or newest first before `since`; without `since` from that end. At most `limit`.
    pub(super) fn page(&self, since: Option<Seq>, limit: Option<usize>, reverse: bool) -> Vec<v1::Publication> {
        let limit = limit.unwrap_or(usize::MAX);
        if reverse {
            let end = since.map_or(self.kept.len(), |s| self.kept.partition_point(|p| p.seq < s.0));
            self.kept.range(..end).rev().take(limit).cloned().collect()
        } else {
            let start = since.map_or(0, |s| self.kept.partition_point(|p| p.seq <= s.0));
            self.kept.range(start..).take(limit).cloned().collect()
        }
    }

    pub(super) fn first(&self) -> Option<&v1::Publication> {
        self.kept.front()
    }

    pub(super) fn last(&self) -> Option<&v1::Publication> {
        self.kept.back()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &v1::Publication> {
        self.kept.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.bytes -= cost(&oldest);
        }
        if self.kept.is_empty() {
            // A room that has gone quiet keeps no buffer.
            self.kept = VecDeque::new();
        }
    }
}

fn cost(p: &v1::Publication) -> usize {
    OVERHEAD + p.data.len() + p.id.len() + p.info.len()
}
