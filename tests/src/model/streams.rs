//! Streams between processes: in order, each way by itself, and what is under way is lost when one ends.

use std::collections::{BTreeMap, VecDeque};

use roomring_proto::{Incarnation, v1};

use super::shared::Shared;

/// What comes out at the end of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// A message.
    Message(Shared<v1::Replication>),
    /// The other end is dead: nothing follows.
    End,
}

/// A stream, as its opener sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Stream {
    pub(super) to: VecDeque<Item>,
    pub(super) back: VecDeque<Item>,
}

/// All streams, by opener and other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Streams {
    open: BTreeMap<(Incarnation, Incarnation), Stream>,
    /// Of streams that ended: what the other end may still read.
    late: BTreeMap<(Incarnation, Incarnation), VecDeque<Shared<v1::Replication>>>,
}

impl Streams {
    /// Opens a stream.
    pub(super) fn open(&mut self, opener: Incarnation, other: Incarnation) {
        self.open.insert((opener, other), Stream::default());
    }

    /// Puts a message on its way from `from` to `to`, if the stream it belongs on is there.
    pub(super) fn send(&mut self, from: Incarnation, to: Incarnation, message: v1::Replication) {
        let answer = is_answer(&message);
        let key = if answer { (to, from) } else { (from, to) };
        if let Some(stream) = self.open.get_mut(&key) {
            let queue = if answer { &mut stream.back } else { &mut stream.to };
            queue.push_back(Item::Message(Shared::new(message)));
        }
    }

    /// Takes the oldest item of one direction.
    pub(super) fn take(&mut self, opener: Incarnation, other: Incarnation, back: bool) -> Option<Item> {
        let stream = self.open.get_mut(&(opener, other))?;
        let item = if back { stream.back.pop_front() } else { stream.to.pop_front() };
        if item == Some(Item::End) {
            self.open.remove(&(opener, other));
        }
        item
    }

    /// What a process sent before it died still arrives; what is sent to it does not.
    pub(super) fn crash(&mut self, process: Incarnation) {
        self.open.retain(|(opener, _), stream| *opener != process || !stream.to.is_empty());
        for ((opener, other), stream) in &mut self.open {
            if *opener == process {
                stream.back.clear();
            }
            if *other == process {
                stream.to.clear();
                stream.back.push_back(Item::End);
            }
        }
    }

    /// Drops streams of which neither end cares: the opener is dead and everything has arrived.
    pub(super) fn forget(&mut self, alive: impl Fn(Incarnation) -> bool) {
        self.late.retain(|(_, other), _| alive(*other));
        self.open.retain(|(opener, other), stream| alive(*opener) || (alive(*other) && !stream.to.is_empty()));
    }

    /// Takes the oldest message that lingers.
    pub(super) fn late(&mut self, opener: Incarnation, other: Incarnation) -> Option<Shared<v1::Replication>> {
        let queue = self.late.get_mut(&(opener, other))?;
        let message = queue.pop_front();
        if queue.is_empty() {
            self.late.remove(&(opener, other));
        }
        message
    }

    /// Streams that ended, of which messages linger.
    pub(super) fn lingering(&self) -> impl Iterator<Item = (Incarnation, Incarnation)> + '_ {
        self.late.keys().copied()
    }

    /// Ends a stream: what is under way on it is lost, or lingers. False if nothing was.
    pub(super) fn lose(&mut self, opener: Incarnation, other: Incarnation, linger: bool) -> bool {
        let Some(stream) = self.open.get_mut(&(opener, other)) else { return false };
        let lost = !stream.to.is_empty() || !stream.back.is_empty();
        let ended = std::mem::take(stream);
        let messages = ended.to.into_iter().filter_map(|item| match item {
            Item::Message(message) => Some(message),
            Item::End => None,
        });
        let messages: VecDeque<_> = messages.filter(|_| linger).collect();
        if !messages.is_empty() {
            self.late.entry((opener, other)).or_default().extend(messages);
        }
        lost
    }

    /// Directions with something under way: opener, other end, towards the opener.
    pub(super) fn busy(&self) -> impl Iterator<Item = (Incarnation, Incarnation, bool)> + '_ {
        self.open.iter().flat_map(|((opener, other), stream)| {
            let to = (!stream.to.is_empty()).then_some((*opener, *other, false));
            to.into_iter().chain((!stream.back.is_empty()).then_some((*opener, *other, true)))
        })
    }

    /// Streams on which something is under way.
    pub(super) fn loaded(&self) -> impl Iterator<Item = (Incarnation, Incarnation)> + '_ {
        let loaded = |s: &Stream| !s.to.is_empty() || s.back.iter().any(|i| *i != Item::End);
        self.open.iter().filter(move |(_, s)| loaded(s)).map(|(key, _)| *key)
    }
}

/// Whether a message goes back on the stream of the process that it is for.
pub(super) fn is_answer(message: &v1::Replication) -> bool {
    use v1::replication::Kind;
    matches!(message.kind, Some(Kind::ProbeReply(_) | Kind::AppendAck(_) | Kind::SnapshotAck(_) | Kind::Refused(_)))
}
