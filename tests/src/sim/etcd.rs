//! etcd as one register: linearizable, with leases and compare-and-swap, and sometimes away.

use std::collections::BTreeMap;
use std::sync::Arc;

use roomring_control::clock::Time;
use roomring_control::placement::{FORMAT, Placement};
use roomring_control::view::{Intents, NodeEntry};
use roomring_proto::{Incarnation, NodeId};

use super::TTL;

/// Everything in it at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) revision: i64,
    pub(super) nodes: Arc<BTreeMap<NodeId, NodeEntry>>,
    pub(super) node_revisions: Arc<BTreeMap<NodeId, i64>>,
    pub(super) intents: Arc<Intents>,
    pub(super) placement: Option<Arc<Placement>>,
    pub(super) placement_revision: i64,
}

/// What a process asks.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Register,
    KeepAlive { incarnation: Incarnation, draining: bool },
    Read { sent: Time },
    Propose { base_revision: i64, placement: Arc<Placement>, counts_on: BTreeMap<NodeId, i64>, attempt: u64 },
}

/// What it is told.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Registered(Incarnation, Snapshot),
    /// A later process has the name.
    Superseded,
    Read {
        sent: Time,
        revision: i64,
        placement_revision: i64,
        own: Option<Incarnation>,
    },
    Proposed {
        attempt: u64,
        won: bool,
    },
}

#[derive(Debug, Default)]
pub(super) struct Etcd {
    pub(super) now: Snapshot,
    pub(super) away: bool,
    leases: BTreeMap<NodeId, Time>,
    /// Every placement ever written, for checks.
    pub(super) written: Vec<Arc<Placement>>,
}

impl Etcd {
    /// Gives a new revision.
    pub(super) fn rise(&mut self) -> i64 {
        self.now.revision += 1;
        self.now.revision
    }

    fn put_node(&mut self, at: Time, name: &NodeId, incarnation: Option<Incarnation>, draining: bool) -> Incarnation {
        let revision = self.rise();
        let incarnation = incarnation.unwrap_or(Incarnation(revision.unsigned_abs()));
        let entry = NodeEntry {
            incarnation,
            home: format!("home of {name}"),
            grpc_addr: format!("{name}:7400"),
            zone: String::new(),
            weight: 100,
            draining,
            release: String::new(),
            max_format: FORMAT,
            watch_addr: String::new(),
        };
        Arc::make_mut(&mut self.now.nodes).insert(name.clone(), entry);
        Arc::make_mut(&mut self.now.node_revisions).insert(name.clone(), revision);
        self.leases.insert(name.clone(), at + TTL);
        incarnation
    }

    /// Answers a request of the process `name`. `again` makes a registration take that incarnation.
    pub(super) fn answer(&mut self, at: Time, name: &NodeId, request: &Request, again: Option<Incarnation>) -> Reply {
        match request {
            Request::Register => {
                let incarnation = self.put_node(at, name, again, false);
                Reply::Registered(incarnation, self.now.clone())
            }
            Request::KeepAlive { incarnation, draining } => {
                match self.now.nodes.get(name).map(|n| (n.incarnation, n.draining)) {
                    Some((present, _)) if present != *incarnation => return Reply::Superseded,
                    Some((_, known)) if known == *draining => {
                        self.leases.insert(name.clone(), at + TTL);
                    }
                    // A key that lapsed is put again, under the same incarnation.
                    _ => _ = self.put_node(at, name, Some(*incarnation), *draining),
                }
                self.read(name, at)
            }
            Request::Read { sent } => self.read(name, *sent),
            Request::Propose { base_revision, placement, counts_on, attempt } => {
                let as_seen = |(node, revision): (&NodeId, &i64)| {
                    self.now.node_revisions.get(node).copied().unwrap_or(0) == *revision
                };
                let won = self.now.placement_revision == *base_revision && counts_on.iter().all(as_seen);
                if won {
                    self.now.placement_revision = self.rise();
                    self.now.placement = Some(placement.clone());
                    self.written.push(placement.clone());
                }
                Reply::Proposed { attempt: *attempt, won }
            }
        }
    }

    fn read(&self, name: &NodeId, sent: Time) -> Reply {
        Reply::Read {
            sent,
            revision: self.now.revision,
            placement_revision: self.now.placement_revision,
            own: self.now.nodes.get(name).map(|n| n.incarnation),
        }
    }

    /// Drops keys whose lease ran out.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let over: Vec<NodeId> = self.leases.iter().filter(|(_, at)| **at < now).map(|(n, _)| n.clone()).collect();
        if self.away || over.is_empty() {
            return false;
        }
        for name in over {
            self.leases.remove(&name);
            Arc::make_mut(&mut self.now.nodes).remove(&name);
            Arc::make_mut(&mut self.now.node_revisions).remove(&name);
            self.rise();
        }
        true
    }

    /// It is back, with leases as it left them, extended.
    pub(super) fn come_back(&mut self, now: Time) {
        self.away = false;
        self.leases.values_mut().for_each(|at| *at = now + TTL);
    }
}
