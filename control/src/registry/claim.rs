//! Who may hold a node's or router's key. Pure: given what is there, what may be done about it.

use prost::Message;
use roomring_proto::{Incarnation, NodeId, v1};

use crate::placement::FORMAT;

use super::registration::{NodeSpec, RouterSpec};

/// What a process writes under its key, but for the incarnation.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Node(v1::NodeInfo),
    Router(v1::RouterInfo),
}

/// What stands under the key now.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) value: Vec<u8>,
    pub(super) mod_revision: i64,
    pub(super) lease: i64,
}

/// How the process comes to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// It has no incarnation yet.
    Register,
    /// It is this incarnation, and its lease has run out.
    Renew(Incarnation),
    /// It gives up the incarnation it has for a new one.
    StartAnew,
}

/// What may be done about a key that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This process wrote it.
    Mine(Incarnation),
    /// Overwrite it, if it is still as it was.
    Replace,
    /// Another process holds it. It may be dead: its lease will tell.
    Wait { held_by: String },
    /// A later process has it: this one is to stop.
    Superseded { held_by: String },
}

impl Record {
    pub(super) fn node(spec: &NodeSpec, home: &str) -> Self {
        Self::Node(v1::NodeInfo {
            incarnation: 0,
            home: home.to_owned(),
            grpc_addr: spec.grpc_addr.clone(),
            zone: spec.zone.clone(),
            weight: spec.weight,
            draining: false,
            release: release(),
            max_format: FORMAT,
            watch_addr: spec.watch_addr.clone(),
        })
    }

    pub(super) fn router(spec: &RouterSpec) -> Self {
        Self::Router(v1::RouterInfo {
            incarnation: 0,
            grpc_addr: spec.grpc_addr.clone(),
            http_addr: spec.http_addr.clone(),
            release: release(),
            watch_addr: spec.watch_addr.clone(),
        })
    }

    /// Nodes only.
    pub(super) fn set_draining(&mut self, draining: bool) {
        if let Self::Node(info) = self {
            info.draining = draining;
        }
    }

    /// `None`: the incarnation is the revision of this very write.
    pub(super) fn encode(&self, incarnation: Option<Incarnation>) -> Vec<u8> {
        let incarnation = incarnation.map_or(0, |i| i.0);
        match self {
            Self::Node(info) => v1::NodeInfo { incarnation, ..info.clone() }.encode_to_vec(),
            Self::Router(info) => v1::RouterInfo { incarnation, ..info.clone() }.encode_to_vec(),
        }
    }

    /// What this process may do about `holder`. `lease` is the one it writes under.
    pub(super) fn judge(&self, goal: Goal, lease: i64, holder: &Holder) -> Verdict {
        let Some(found) = self.decode(holder) else {
            return Verdict::Wait { held_by: "a value that can't be read".into() };
        };
        // Leases are given to one process only: an earlier attempt whose answer got lost had landed.
        let mine = holder.lease == lease;
        let same_home = matches!(self, Self::Node(info) if !info.home.is_empty() && info.home == found.home);
        let replace_or_wait = || match mine || same_home {
            true => Verdict::Replace,
            false => Verdict::Wait { held_by: found.addr.clone() },
        };
        match goal {
            Goal::Register if mine => Verdict::Mine(found.incarnation),
            // The lock on the home is ours, so whoever wrote this is dead.
            Goal::Register | Goal::StartAnew => replace_or_wait(),
            Goal::Renew(own) if found.incarnation > own => Verdict::Superseded { held_by: found.addr },
            Goal::Renew(own) if found.incarnation == own && mine => Verdict::Mine(own),
            Goal::Renew(own) if found.incarnation == own => Verdict::Replace,
            Goal::Renew(_) => replace_or_wait(),
        }
    }

    fn decode(&self, holder: &Holder) -> Option<Found> {
        let (incarnation, home, addr) = match self {
            Self::Node(_) => {
                let info = v1::NodeInfo::decode(holder.value.as_slice()).ok()?;
                (info.incarnation, info.home, info.grpc_addr)
            }
            Self::Router(_) => {
                let info = v1::RouterInfo::decode(holder.value.as_slice()).ok()?;
                (info.incarnation, String::new(), info.grpc_addr)
            }
        };
        let incarnation = match incarnation {
            0 => incarnation_at(holder.mod_revision),
            explicit => Incarnation(explicit),
        };
        Some(Found { incarnation, home, addr })
    }
}

struct Found {
    incarnation: Incarnation,
    home: String,
    addr: String,
}

/// The incarnation of a process that registered at this revision.
pub(super) fn incarnation_at(revision: i64) -> Incarnation {
    Incarnation(revision.unsigned_abs())
}

/// How a key's owner is named to people.
pub(super) fn describe(record: &Record, id: &NodeId) -> String {
    match record {
        Record::Node(_) => format!("node id {id}"),
        Record::Router(_) => format!("router id {id}"),
    }
}

fn release() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(home: &str) -> Record {
        let id = NodeId::new("node-1").unwrap();
        let spec = NodeSpec {
            id,
            grpc_addr: "127.0.0.1:1".into(),
            zone: String::new(),
            weight: 100,
            watch_addr: String::new(),
        };
        Record::node(&spec, home)
    }

    fn holder(home: &str, incarnation: Option<Incarnation>, mod_revision: i64, lease: i64) -> Holder {
        Holder { value: record(home).encode(incarnation), mod_revision, lease }
    }

    #[test]
    fn a_newcomer_replaces_only_its_own_home() {
        let me = record("aa");
        let addr = || "127.0.0.1:1".to_owned();
        assert_eq!(me.judge(Goal::Register, 7, &holder("aa", None, 5, 6)), Verdict::Replace);
        assert_eq!(me.judge(Goal::Register, 7, &holder("bb", None, 5, 6)), Verdict::Wait { held_by: addr() });
        assert_eq!(me.judge(Goal::Register, 7, &holder("aa", None, 5, 7)), Verdict::Mine(Incarnation(5)));
        // Two empty homes are not the same one.
        let wait = Verdict::Wait { held_by: addr() };
        assert_eq!(record("").judge(Goal::Register, 7, &holder("", None, 5, 6)), wait);
        let garbage = Holder { value: vec![0xff; 9], mod_revision: 5, lease: 6 };
        assert!(matches!(me.judge(Goal::Register, 7, &garbage), Verdict::Wait { .. }));
    }

    #[test]
    fn a_lapsed_process_yields_to_later_ones_only() {
        let me = record("aa");
        let renew = Goal::Renew(Incarnation(5));
        assert_eq!(me.judge(renew, 7, &holder("aa", None, 5, 6)), Verdict::Replace);
        assert_eq!(me.judge(renew, 7, &holder("aa", Some(Incarnation(5)), 8, 7)), Verdict::Mine(Incarnation(5)));
        assert!(matches!(me.judge(renew, 7, &holder("aa", None, 6, 6)), Verdict::Superseded { .. }));
        assert!(matches!(me.judge(renew, 7, &holder("bb", None, 6, 6)), Verdict::Superseded { .. }));
        assert!(matches!(me.judge(renew, 7, &holder("bb", Some(Incarnation(4)), 9, 6)), Verdict::Wait { .. }));
        assert_eq!(me.judge(renew, 7, &holder("aa", Some(Incarnation(4)), 9, 6)), Verdict::Replace);
    }

    #[test]
    fn starting_anew_gives_up_the_own_incarnation() {
        assert_eq!(record("aa").judge(Goal::StartAnew, 7, &holder("aa", None, 5, 7)), Verdict::Replace);
        assert!(matches!(record("aa").judge(Goal::StartAnew, 7, &holder("bb", None, 9, 8)), Verdict::Wait { .. }));
    }
}
