//! Streams between processes: in order in each direction, delayed, cut at any time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::placement::Placement;
use roomring_proto::v1;

use super::world::Who;

/// What travels on a stream.
#[derive(Debug, Clone)]
pub(super) enum Message {
    /// Between replicas.
    Peer(v1::Replication),
    /// Router to node.
    ToNode(v1::router_message::Kind),
    /// Node to router.
    FromNode(v1::node_message::Kind),
    /// A heartbeat, with the newest placement that the sender knows and, of a node, the age of its contact with etcd.
    Beat(Option<Arc<Placement>>, Option<Duration>),
}

/// One stream.
#[derive(Debug)]
pub(super) struct Conn {
    /// The ends, with the lives that they belong to: who opened it, who accepted.
    pub(super) ends: [(Who, u64); 2],
    /// When the last message to each end arrives.
    arrives: [Time; 2],
    /// After this nothing reaches that end but the news that the stream is down.
    pub(super) cut: [Option<Time>; 2],
}

#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) conns: BTreeMap<u64, Conn>,
    last: u64,
}

impl Net {
    pub(super) fn open(&mut self, ends: [(Who, u64); 2], now: Time) -> u64 {
        self.last += 1;
        self.conns.insert(self.last, Conn { ends, arrives: [now; 2], cut: [None; 2] });
        self.last
    }

    /// When something sent now to end `to` arrives, if it does.
    pub(super) fn send(&mut self, conn: u64, to: usize, at: Time) -> Option<Time> {
        let conn = self.conns.get_mut(&conn)?;
        let at = at.max(conn.arrives[to]);
        // What comes after something lost is lost too.
        conn.arrives[to] = at;
        conn.cut[to].is_none_or(|cut| at <= cut).then_some(at)
    }

    /// The end of `conn` that is `who`.
    pub(super) fn end_of(&self, conn: u64, who: Who) -> Option<usize> {
        self.conns.get(&conn)?.ends.iter().position(|(w, _)| *w == who)
    }
}
