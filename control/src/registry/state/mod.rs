//! How what etcd says becomes a [`ClusterView`]. Pure: the shell asks etcd, reads the clock, and publishes the view.
//!
//! [`State::load`] takes everything at once, [`State::apply`] what changed afterwards, in order, and [`State::check`] what
//! a linearizable read says of the keys' revisions, so that a watch that has quietly stopped is noticed.

mod input;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roomring_proto::keys::Keys;
use roomring_proto::{Malformed, NodeId, PlacementRef};

use crate::clock::Time;
use crate::placement::Placement;
use crate::view::{ClusterView, Intents, NodeEntry, RouterEntry};

pub(super) use input::{BadValue, Before, Check, Event, Finding, KeyRevision, KeyValue, Load, OwnKey};

/// A read that returned the own key; it counts as contact once the view has reached the placement it saw.
#[derive(Debug)]
struct Pending {
    sent: Time,
    placement_revision: i64,
}

#[derive(Debug)]
pub(super) struct State {
    keys: Keys,
    view: ClusterView,
    /// Revision of every key under the prefix, as far as the view shows it.
    known: BTreeMap<String, i64>,
    /// Events up to here are in the view.
    applied: i64,
    /// Highest revision that etcd was ever seen at.
    highest: i64,
    /// What etcd last had under the placement's key.
    in_etcd: Option<PlacementRef>,
    own: Option<OwnKey>,
    pending: Option<Pending>,
    synced: Option<Time>,
    /// When etcd answered last.
    answered: Option<Time>,
    /// Without a check that found the view in sync for this long, it may have gaps.
    lapse: Duration,
    /// Bad values already reported.
    reported: BTreeMap<String, i64>,
}

impl State {
    pub(super) fn new(keys: Keys, lapse: Duration) -> Self {
        Self {
            keys,
            view: ClusterView::default(),
            known: BTreeMap::new(),
            applied: 0,
            highest: 0,
            in_etcd: None,
            own: None,
            pending: None,
            synced: None,
            answered: None,
            lapse,
            reported: BTreeMap::new(),
        }
    }

    pub(super) fn view(&self) -> &ClusterView {
        &self.view
    }

    /// The revision that a watch goes on from.
    pub(super) fn next_revision(&self) -> i64 {
        self.applied + 1
    }

    /// To be taken when a read is sent.
    pub(super) fn before(&self) -> Before {
        Before {
            placement: self.view.placement.as_ref().map(|p| p.reference()),
            placement_revision: self.view.placement_revision,
            revision: self.highest,
        }
    }

    /// The key that makes a read count as contact; `None` once it is given up.
    pub(super) fn set_own(&mut self, own: Option<OwnKey>) {
        self.own = own;
        self.pending = None;
    }

    /// Replaces the view. `None` if a write of our own came between: the read has to be repeated.
    pub(super) fn load(&mut self, load: Load) -> Option<Vec<BadValue>> {
        if self.view.placement_revision != load.before.placement_revision {
            return None;
        }
        self.known.clear();
        self.view.nodes = Arc::default();
        self.view.routers = Arc::default();
        self.view.intents = Arc::default();
        self.view.node_revisions = Arc::default();
        self.applied = load.revision;
        // A wiped etcd counts from one again.
        if load.revision < self.highest {
            self.forget_answers();
        }
        self.highest = load.revision;
        self.pending = None;
        let placement_key = self.keys.placement();
        if !load.values.iter().any(|v| v.key == placement_key) {
            self.placement_gone();
        }
        let mut bad = Vec::new();
        for value in load.values {
            if value.key == placement_key {
                // What a peer offered while the read was under way may well be newer than what the read returned.
                self.in_etcd = load.before.placement;
            }
            bad.extend(self.put(value));
        }
        self.synced = Some(load.received);
        self.answers(load.received);
        // Not when it was sent: a key may have vanished, and its owner had contact, while the read was under way.
        self.view.unbroken_since = Some(load.received);
        Some(bad)
    }

    /// Changes that the watch delivered, in order.
    pub(super) fn apply(&mut self, events: Vec<Event>) -> Vec<BadValue> {
        let mut bad = Vec::new();
        for event in events {
            match event {
                Event::Put(value) => {
                    self.advance(value.mod_revision);
                    if self.is_news(&value.key, value.mod_revision) {
                        bad.extend(self.put(value));
                    }
                }
                Event::Delete { key, mod_revision } => {
                    self.advance(mod_revision);
                    if self.is_news(&key, mod_revision) {
                        self.delete(&key);
                    }
                }
            }
        }
        self.settle_contact();
        bad
    }

    /// Takes over a placement that this process has just written.
    pub(super) fn written(&mut self, placement: Arc<Placement>, mod_revision: i64) {
        if mod_revision <= self.view.placement_revision {
            return;
        }
        self.highest = self.highest.max(mod_revision);
        self.known.insert(self.keys.placement(), mod_revision);
        self.adopt(placement, mod_revision);
        self.settle_contact();
    }

    /// Takes over a newer version of the known placement that a peer sent. Says whether it was newer.
    pub(super) fn offer(&mut self, placement: Placement) -> bool {
        let newer = self
            .view
            .placement
            .as_ref()
            .is_some_and(|known| known.uid == placement.uid && known.version < placement.version);
        if newer {
            self.view.placement = Some(Arc::new(placement));
        }
        newer
    }

    /// Compares the view with the keys' revisions.
    pub(super) fn check(&mut self, check: &Check) -> Finding {
        let placement_key = self.keys.placement();
        let placement_revision = check.keys.iter().find(|k| k.key == placement_key).map_or(0, |k| k.mod_revision);
        // A linearizable read never returns anything older than what was known when it was sent, unless etcd lost data.
        if check.revision < check.before.revision || placement_revision < check.before.placement_revision {
            self.forget_answers();
            return Finding::Contradiction;
        }
        self.highest = self.highest.max(check.revision);
        self.answers(check.received);
        let finding = self.compare(check);
        if finding != Finding::Contradiction && self.owns(check) && self.pending.is_none() {
            self.pending = Some(Pending { sent: check.sent, placement_revision });
        }
        // First: a process that was stopped for a while comes here before anybody looks at the clock.
        self.tick(check.received);
        if finding == Finding::InSync {
            self.synced = Some(check.received);
            self.view.unbroken_since = self.view.unbroken_since.or(Some(check.received));
        }
        self.settle_contact();
        finding
    }

    /// Whether the read returned the key that this process registered, on the lease it keeps alive. True if it has none.
    pub(super) fn holds_own_key(&self, check: &Check) -> bool {
        self.own.is_none() || self.owns(check)
    }

    /// Time passed. Says whether the view changed.
    pub(super) fn tick(&mut self, now: Time) -> bool {
        let over = |at: Option<Time>| at.is_none_or(|at| now.since(at) > self.lapse);
        let broke = over(self.synced) && self.view.unbroken_since.take().is_some();
        let fell_silent = over(self.answered) && self.view.answers_since.take().is_some();
        broke || fell_silent
    }

    /// It is not the etcd that it was.
    fn forget_answers(&mut self) {
        (self.answered, self.view.answers_since) = (None, None);
    }

    /// etcd answered.
    fn answers(&mut self, at: Time) {
        if self.answered.is_none_or(|before| at.since(before) > self.lapse) {
            self.view.answers_since = None;
        }
        self.answered = Some(at);
        self.view.answers_since.get_or_insert(at);
    }

    fn owns(&self, check: &Check) -> bool {
        self.own.as_ref().is_some_and(|own| check.keys.iter().any(|k| k.key == own.key && k.lease == own.lease))
    }

    fn compare(&self, check: &Check) -> Finding {
        let read: BTreeMap<&str, i64> = check.keys.iter().map(|k| (k.key.as_str(), k.mod_revision)).collect();
        // What is newer than the read can't be compared: the watch overtook it.
        let comparable = |revision: i64| revision <= check.revision;
        let missing_here = read.iter().any(|(key, &revision)| match self.known.get(*key) {
            Some(&known) => comparable(known) && known != revision,
            // Deleted after the read, if events later than it are in the view.
            None => self.applied <= check.revision,
        });
        let missing_there =
            self.known.iter().any(|(key, &known)| comparable(known) && !read.contains_key(key.as_str()));
        match (missing_here || missing_there, self.applied >= check.revision) {
            (false, _) => Finding::InSync,
            (true, false) => Finding::Behind,
            (true, true) => Finding::Contradiction,
        }
    }

    fn settle_contact(&mut self) {
        let reached = self
            .pending
            .as_ref()
            .is_some_and(|p| p.placement_revision <= self.view.placement_revision && !self.view.etcd_regressed);
        if reached {
            let sent = self.pending.take().map(|p| p.sent);
            self.view.contact = self.view.contact.max(sent);
        }
    }

    fn advance(&mut self, revision: i64) {
        self.applied = self.applied.max(revision);
        self.highest = self.highest.max(revision);
    }

    fn is_news(&self, key: &str, mod_revision: i64) -> bool {
        self.known.get(key).is_none_or(|&known| known < mod_revision)
    }

    fn put(&mut self, value: KeyValue) -> Option<BadValue> {
        self.known.insert(value.key.clone(), value.mod_revision);
        let result = self.decode_into_view(&value);
        let reason = match result {
            Ok(()) => {
                self.reported.remove(&value.key);
                return None;
            }
            Err(Unreadable(reason)) => reason,
        };
        let news = self.reported.insert(value.key.clone(), value.mod_revision) != Some(value.mod_revision);
        news.then_some(BadValue { key: value.key, reason })
    }

    fn decode_into_view(&mut self, value: &KeyValue) -> Result<(), Unreadable> {
        match self.kind(&value.key) {
            Kind::Node(id) => {
                let id = id?;
                Arc::make_mut(&mut self.view.node_revisions).insert(id.clone(), value.mod_revision);
                let entry = NodeEntry::decode(&value.value, value.mod_revision);
                let nodes = Arc::make_mut(&mut self.view.nodes);
                // An unreadable registration is as good as none.
                nodes.remove(&id);
                nodes.insert(id, entry?);
            }
            Kind::Router(id) => {
                let id = id?;
                let entry = RouterEntry::decode(&value.value, value.mod_revision);
                let routers = Arc::make_mut(&mut self.view.routers);
                routers.remove(&id);
                routers.insert(id, entry?);
            }
            Kind::Intents => self.view.intents = Arc::new(Intents::decode(&value.value)?),
            // The revision stays behind if it can't be read: no contact, so no acknowledgement on what we don't know.
            Kind::Placement => {
                let placement = Placement::decode(&value.value)?;
                self.adopt(Arc::new(placement), value.mod_revision);
            }
            Kind::Unknown => return Err(Unreadable("this release knows no such key".into())),
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        self.known.remove(key);
        match self.kind(key) {
            Kind::Node(Ok(id)) => {
                Arc::make_mut(&mut self.view.node_revisions).remove(&id);
                Arc::make_mut(&mut self.view.nodes).remove(&id);
            }
            Kind::Router(Ok(id)) => {
                Arc::make_mut(&mut self.view.routers).remove(&id);
            }
            Kind::Intents => self.view.intents = Arc::default(),
            Kind::Placement => self.placement_gone(),
            Kind::Node(Err(_)) | Kind::Router(Err(_)) | Kind::Unknown => {}
        }
    }

    /// etcd has this placement now.
    fn adopt(&mut self, placement: Arc<Placement>, mod_revision: i64) {
        let new = placement.reference();
        let went_back = self.in_etcd.is_some_and(|old| old.uid == new.uid && new.version < old.version);
        self.in_etcd = Some(new);
        self.view.placement_revision = mod_revision;
        match self.view.placement.as_ref().map(|p| p.reference()) {
            Some(known) if known.uid == new.uid && new.version < known.version => {
                // Behind what a peer sent is no news; behind what etcd itself had is.
                self.view.etcd_regressed |= went_back;
            }
            Some(known) if known == new && self.view.placement.as_ref() != Some(&placement) => {
                // Restored, and written anew from there: another history under the same numbers.
                self.view.etcd_regressed = true;
            }
            _ => {
                self.view.placement = Some(placement);
                self.view.etcd_regressed = false;
            }
        }
    }

    fn placement_gone(&mut self) {
        self.in_etcd = None;
        self.view.placement_revision = 0;
        self.view.etcd_regressed = self.view.placement.is_some();
    }

    fn kind(&self, key: &str) -> Kind {
        if let Some(id) = key.strip_prefix(&self.keys.nodes()) {
            Kind::Node(NodeId::new(id).map_err(Malformed::from))
        } else if let Some(id) = key.strip_prefix(&self.keys.routers()) {
            Kind::Router(NodeId::new(id).map_err(Malformed::from))
        } else if key == self.keys.intents() {
            Kind::Intents
        } else if key == self.keys.placement() {
            Kind::Placement
        } else {
            Kind::Unknown
        }
    }
}

/// Why a value was skipped.
struct Unreadable(String);

impl<E: std::error::Error> From<E> for Unreadable {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

enum Kind {
    Node(Result<NodeId, Malformed>),
    Router(Result<NodeId, Malformed>),
    Intents,
    Placement,
    Unknown,
}
