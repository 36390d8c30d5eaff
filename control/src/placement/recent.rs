//! What the last writes of the placement changed: kept in it for operators, and for the planner to know flapping nodes.

use std::fmt;
use std::time::Duration;

use roomring_proto::{Incarnation, NodeId, SlotId, Version, v1};
use v1::eviction::Cause as WireCause;

/// Most records kept: with longer ones the placement would be read for what happened instead of for where slots are.
const MOST: usize = 64;

/// Of these, most that tell of no eviction: the many small writes of a move must not drive out why it came to it.
const MOST_ORDINARY: usize = 48;

/// Longest text of a record, in bytes.
const TEXT_BYTES: usize = 400;

/// Why a process was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its port refused connections.
    Refused,
    /// Silent for two processes.
    Silent,
    /// A worker of it hung, as two processes heard.
    Hung,
    /// Its registration ended.
    Lapsed,
    /// Another process holds the lock of its directory.
    Replaced,
    /// It held no seat and signed off.
    Left,
}

/// One eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// The node's name.
    pub node: NodeId,
    /// The process.
    pub incarnation: Incarnation,
    /// Why.
    pub cause: Cause,
    /// How long ago it had last been heard by the process that evicted it.
    pub silent_for: Option<Duration>,
}

/// What one write changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    /// The version that it made.
    pub version: Version,
    /// Unix time at the writer, ms.
    pub time_ms: u64,
    /// Who wrote it.
    pub by: NodeId,
    /// For people.
    pub text: String,
    /// Who was evicted.
    pub evictions: Vec<Eviction>,
    /// Nodes that gained or lost something by it, if they are few.
    pub nodes: Vec<NodeId>,
    /// Slots that it changed, if they are few.
    pub slots: Vec<SlotId>,
    /// How many slots it changed.
    pub slots_changed: u32,
    /// Of the copies that came to be in sync by it, the longest time that one took since it was begun, as far as known.
    pub copying: Option<Duration>,
}

/// The last writes, ascending by version. Bounded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recents(Vec<Recent>);

impl Cause {
    /// Evicted on the word of processes alone, while it was registered. Whoever is so again and again comes back later and later.
    pub fn is_by_evidence(self) -> bool {
        matches!(self, Self::Refused | Self::Silent | Self::Hung)
    }

    fn encode(self) -> WireCause {
        match self {
            Self::Refused => WireCause::Refused,
            Self::Silent => WireCause::Silent,
            Self::Hung => WireCause::Hung,
            Self::Lapsed => WireCause::Lapsed,
            Self::Replaced => WireCause::Replaced,
            Self::Left => WireCause::Left,
        }
    }

    fn decode(cause: WireCause) -> Option<Self> {
        Some(match cause {
            WireCause::Unspecified => return None,
            WireCause::Refused => Self::Refused,
            WireCause::Silent => Self::Silent,
            WireCause::Hung => Self::Hung,
            WireCause::Lapsed => Self::Lapsed,
            WireCause::Replaced => Self::Replaced,
            WireCause::Left => Self::Left,
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Silent => "silent",
            Self::Hung => "hung",
            Self::Lapsed => "registration lapsed",
            Self::Replaced => "another process has its directory",
            Self::Left => "left",
        })
    }
}

impl Recents {
    /// Adds the latest and drops what is too much.
    pub fn push(&mut self, mut recent: Recent) {
        let end = (0..=TEXT_BYTES.min(recent.text.len())).rev().find(|end| recent.text.is_char_boundary(*end));
        recent.text.truncate(end.unwrap_or(0));
        self.0.push(recent);
        let is_ordinary = |r: &Recent| r.evictions.is_empty();
        if self.0.iter().filter(|r| is_ordinary(r)).count() > MOST_ORDINARY
            && let Some(oldest) = self.0.iter().position(is_ordinary)
        {
            self.0.remove(oldest);
        }
        if self.0.len() > MOST {
            self.0.remove(0);
        }
    }

    /// Each, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Recent> {
        self.0.iter()
    }

    /// Every eviction, the oldest first, with the write that it was part of.
    pub fn evictions(&self) -> impl DoubleEndedIterator<Item = (&Recent, &Eviction)> {
        self.0.iter().flat_map(|r| r.evictions.iter().map(move |e| (r, e)))
    }

    pub(super) fn encode(&self) -> Vec<v1::Recent> {
        self.0.iter().map(encode).collect()
    }

    /// What can't be read is left out: slots are served without it.
    pub(super) fn decode(recent: Vec<v1::Recent>) -> Self {
        let skip = recent.len().saturating_sub(MOST);
        let mut recents = Self::default();
        recent.into_iter().skip(skip).filter_map(decode).for_each(|r| recents.push(r));
        recents
    }
}

fn encode(r: &Recent) -> v1::Recent {
    let eviction = |e: &Eviction| v1::Eviction {
        node_id: e.node.to_string(),
        incarnation: e.incarnation.0,
        cause: e.cause.encode().into(),
        silent_ms: e.silent_for.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
    };
    v1::Recent {
        version: r.version.0,
        time_ms: r.time_ms,
        by: r.by.to_string(),
        text: r.text.clone(),
        evictions: r.evictions.iter().map(eviction).collect(),
        nodes: r.nodes.iter().map(NodeId::to_string).collect(),
        slots: r.slots.iter().map(|s| s.0).collect(),
        slots_changed: r.slots_changed,
        copying_ms: r.copying.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn decode(r: v1::Recent) -> Option<Recent> {
    let eviction = |e: &v1::Eviction| {
        Some(Eviction {
            node: NodeId::new(&e.node_id).ok()?,
            incarnation: Incarnation(e.incarnation),
            cause: Cause::decode(e.cause())?,
            silent_for: e.silent_ms.map(Duration::from_millis),
        })
    };
    Some(Recent {
        version: Version(r.version),
        time_ms: r.time_ms,
        by: NodeId::new(&r.by).ok()?,
        evictions: r.evictions.iter().filter_map(eviction).collect(),
        nodes: r.nodes.iter().filter_map(|n| NodeId::new(n).ok()).collect(),
        slots: r.slots.into_iter().map(SlotId).collect(),
        slots_changed: r.slots_changed,
        copying: r.copying_ms.map(Duration::from_millis),
        text: r.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(version: u64, evictions: usize) -> Recent {
        let eviction = Eviction {
            node: NodeId::new("a").unwrap(),
            incarnation: Incarnation(3),
            cause: Cause::Silent,
            silent_for: Some(Duration::from_millis(812)),
        };
        Recent {
            version: Version(version),
            time_ms: 1_700_000_000_000,
            by: NodeId::new("b").unwrap(),
            text: "é".repeat(TEXT_BYTES),
            evictions: vec![eviction; evictions],
            nodes: vec![NodeId::new("a").unwrap()],
            slots: vec![SlotId(7)],
            slots_changed: 1,
            copying: Some(Duration::from_millis(3)),
        }
    }

    #[test]
    fn few_are_kept_and_evictions_longer_than_the_rest() {
        let mut recents = Recents::default();
        recents.push(recent(1, 1));
        (2..200).for_each(|v| recents.push(recent(v, 0)));
        assert_eq!(recents.0.len(), MOST_ORDINARY + 1);
        assert_eq!(recents.evictions().map(|(r, _)| r.version).collect::<Vec<_>>(), [Version(1)]);
        assert_eq!(recents.0.last().unwrap().version, Version(199));
        assert_eq!(recents.0[1].text.len(), TEXT_BYTES);
        (200..300).for_each(|v| recents.push(recent(v, 1)));
        assert_eq!(recents.0.len(), MOST);
        assert!(recents.0.is_sorted_by_key(|r| r.version));
    }

    #[test]
    fn reads_what_it_writes_and_leaves_out_what_it_can_not() {
        let mut recents = Recents::default();
        recents.push(recent(1, 2));
        recents.push(recent(2, 0));
        assert_eq!(Recents::decode(recents.encode()), recents);
        let mut bad = recents.encode();
        bad[0].evictions[1].cause = 99;
        bad[1].by = "a/b".into();
        let read = Recents::decode(bad);
        assert_eq!((read.0.len(), read.evictions().count()), (1, 1));
    }
}
