//! What etcd says, in the words of the pure half, and what comes of it.

use roomring_proto::PlacementRef;

use crate::clock::Time;

/// A key as etcd has it.
#[derive(Debug, Clone)]
pub(in crate::registry) struct KeyValue {
    pub(in crate::registry) key: String,
    pub(in crate::registry) value: Vec<u8>,
    pub(in crate::registry) mod_revision: i64,
}

/// One change of a key.
#[derive(Debug, Clone)]
pub(in crate::registry) enum Event {
    Put(KeyValue),
    Delete { key: String, mod_revision: i64 },
}

/// Everything under the cluster's prefix, by one linearizable read.
#[derive(Debug)]
pub(in crate::registry) struct Load {
    pub(in crate::registry) values: Vec<KeyValue>,
    pub(in crate::registry) revision: i64,
    /// What was known when the read was sent.
    pub(in crate::registry) before: Before,
    pub(in crate::registry) received: Time,
}

/// What was known when a read was sent: a later answer may not be older than this.
#[derive(Debug, Clone, Copy)]
pub(in crate::registry) struct Before {
    pub(in crate::registry) placement: Option<PlacementRef>,
    pub(in crate::registry) placement_revision: i64,
    pub(in crate::registry) revision: i64,
}

/// The revisions of everything under the cluster's prefix, by one linearizable read without the values.
#[derive(Debug)]
pub(in crate::registry) struct Check {
    pub(in crate::registry) keys: Vec<KeyRevision>,
    pub(in crate::registry) revision: i64,
    pub(in crate::registry) before: Before,
    pub(in crate::registry) sent: Time,
    pub(in crate::registry) received: Time,
}

#[derive(Debug, Clone)]
pub(in crate::registry) struct KeyRevision {
    pub(in crate::registry) key: String,
    pub(in crate::registry) mod_revision: i64,
    pub(in crate::registry) lease: i64,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum Finding {
    /// The view shows what etcd has.
    InSync,
    /// The watch has not delivered everything yet.
    Behind,
    /// What etcd has contradicts what was seen: load everything again.
    Contradiction,
}

/// A value that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct BadValue {
    pub(in crate::registry) key: String,
    pub(in crate::registry) reason: String,
}

/// The key this process registered, and the lease it hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct OwnKey {
    pub(in crate::registry) key: String,
    pub(in crate::registry) lease: i64,
}
