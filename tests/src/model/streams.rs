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
pub(super) struct Streams(BTreeMap<(Incarnation, Incarnation), Stream>);

impl Streams {
    /// Opens a stream.
    pub(super) fn open(&mut self, opener: Incarnation, other: Incarnation) {
        self.0.insert((opener, other), Stream::default());
    }

    /// Puts a message on its way from `from` to `to`, if the stream it belongs on is there.
    pub(super) fn send(&mut self, from: Incarnation, to: Incarnation, message: v1::Replication) {
        let answer = is_answer(&message);
        let key = if answer { (to, from) } else { (from, to) };
        if let Some(stream) = self.0.get_mut(&key) {
            let queue = if answer { &mut stream.back } else { &mut stream.to };
            queue.push_back(Item::Message(Shared::new(message)));
        }
    }

    /// Takes the oldest item of one direction.
    pub(super) fn take(&mut self, opener: Incarnation, other: Incarnation, back: bool) -> Option<Item> {
        let stream = self.0.get_mut(&(opener, other))?;
        let item = if back { stream.back.pop_front() } else { stream.to.pop_front() };
        if item == Some(Item::End) {
            self.0.remove(&(opener, other));
        }
        item
    }

    /// What a process sent before it died still arrives; what is sent to it does not.
    pub(super) fn crash(&mut self, process: Incarnation) {
        self.0.retain(|(opener, _), stream| *opener != process || !stream.to.is_empty());
        for ((opener, other), stream) in &mut self.0 {
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
        self.0.retain(|(opener, other), stream| alive(*opener) || (alive(*other) && !stream.to.is_empty()));
    }

    /// Loses what is under way on a stream. False if nothing was.
    pub(super) fn lose(&mut self, opener: Incarnation, other: Incarnation) -> bool {
        let Some(stream) = self.0.get_mut(&(opener, other)) else { return false };
        let lost = !stream.to.is_empty() || !stream.back.is_empty();
        *stream = Stream::default();
        lost
    }

    /// Directions with something under way: opener, other end, towards the opener.
    pub(super) fn busy(&self) -> impl Iterator<Item = (Incarnation, Incarnation, bool)> + '_ {
        self.0.iter().flat_map(|((opener, other), stream)| {
            let to = (!stream.to.is_empty()).then_some((*opener, *other, false));
            to.into_iter().chain((!stream.back.is_empty()).then_some((*opener, *other, true)))
        })
    }

    /// Streams on which something is under way.
    pub(super) fn loaded(&self) -> impl Iterator<Item = (Incarnation, Incarnation)> + '_ {
        let loaded = |s: &Stream| !s.to.is_empty() || s.back.iter().any(|i| *i != Item::End);
        self.0.iter().filter(move |(_, s)| loaded(s)).map(|(key, _)| *key)
    }
}

/// Whether a message goes back on the stream of the process that it is for.
pub(super) fn is_answer(message: &v1::Replication) -> bool {
    use v1::replication::Kind;
    matches!(message.kind, Some(Kind::ProbeReply(_) | Kind::AppendAck(_) | Kind::SnapshotAck(_) | Kind::Refused(_)))
}
