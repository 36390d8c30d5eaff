//! Keys with their revisions, and the events between two revisions. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use etcd_client::EventType;
use etcd_client::proto::{PbEvent, PbKeyValue};

use super::error::Error;
use super::leases::Leases;
use super::range::KeyRange;
use crate::clock::Time;

/// Past revisions kept for watches that resume and reads of the past. Older ones are compacted, so that a cluster that
/// runs for weeks has a bounded memory; a watcher further behind is told so and reads again.
pub(super) const KEEP_REVISIONS: i64 = 1000;

/// Events are handed to a watcher in parts of about this many bytes: under the 4 MiB that clients decode by default.
const EVENT_BYTES: usize = 1 << 20;

/// One change of a key.
#[derive(Debug)]
struct Change {
    key: Arc<[u8]>,
    /// `None`: deleted.
    kv: Option<Arc<PbKeyValue>>,
    before: Option<Arc<PbKeyValue>>,
}

/// Everything that happened in one revision.
#[derive(Debug)]
struct Revision {
    number: i64,
    changes: Vec<Change>,
}

/// Keys, their past since the last compaction, and leases.
#[derive(Debug)]
pub(super) struct Store {
    /// Of the last write; 1 in an empty store, as in etcd.
    revision: i64,
    /// Reads of the past before this are refused.
    compacted: i64,
    keys: BTreeMap<Vec<u8>, Arc<PbKeyValue>>,
    /// What happened from `compacted` on, oldest first.
    past: VecDeque<Revision>,
    pub(super) leases: Leases,
}

/// A write under way: everything in it gets one revision.
#[derive(Debug)]
pub(super) struct Write<'a> {
    pub(super) store: &'a mut Store,
    changes: Vec<Change>,
}

/// What a watcher is handed.
#[derive(Debug, PartialEq)]
pub(super) struct Events {
    pub(super) events: Vec<PbEvent>,
    /// Where to go on.
    pub(super) next: i64,
    /// There is more already.
    pub(super) more: bool,
}

impl Store {
    pub(super) fn new() -> Self {
        Self { revision: 1, compacted: 0, keys: BTreeMap::new(), past: VecDeque::new(), leases: Leases::default() }
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The current value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<PbKeyValue>> {
        self.keys.get(key)
    }

    /// What was in `range` at `revision` (0: now), by key.
    pub(super) fn at(&self, range: &KeyRange, revision: i64) -> Result<Vec<Arc<PbKeyValue>>, Error> {
        self.readable(revision)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.keys.range::<[u8], _>(range.bounds()).map(|(k, kv)| (k.as_slice(), kv));
        if revision <= 0 || revision == self.revision {
            return Ok(now.map(|(_, kv)| Arc::clone(kv)).collect());
        }
        // Backwards from now: what a key was before its first change after `revision` is what it was then.
        let mut then: BTreeMap<&[u8], Option<&Arc<PbKeyValue>>> = now.map(|(k, kv)| (k, Some(kv))).collect();
        for past in self.past.iter().rev().take_while(|past| past.number > revision) {
            for change in past.changes.iter().rev().filter(|change| range.contains(&change.key)) {
                then.insert(&change.key, change.before.as_ref());
            }
        }
        Ok(then.into_values().flatten().cloned().collect())
    }

    /// Whether `revision` can be read: 0 is now.
    pub(super) fn readable(&self, revision: i64) -> Result<(), Error> {
        match revision {
            r if r > self.revision => Err(Error::FutureRevision),
            r if r > 0 && r < self.compacted => Err(Error::Compacted),
            _ => Ok(()),
        }
    }

    /// Starts a write; nothing gets a revision until [`Write::commit`].
    pub(super) fn write(&mut self) -> Write<'_> {
        Write { store: self, changes: Vec::new() }
    }

    /// Events in `range` from revision `start` on, at least one revision of them if there is any.
    pub(super) fn events(&self, range: &KeyRange, start: i64) -> Result<Events, Error> {
        if start < self.compacted {
            return Err(Error::Compacted);
        }
        let mut found = Events { events: Vec::new(), next: start.max(self.revision + 1), more: false };
        let mut bytes = 0;
        let first = self.past.partition_point(|past| past.number < start);
        for past in self.past.range(first..) {
            if bytes >= EVENT_BYTES {
                found.next = past.number;
                found.more = true;
                break;
            }
            for change in past.changes.iter().filter(|change| range.contains(&change.key)) {
                let event = change.event(past.number);
                bytes += prost::Message::encoded_len(&event);
                found.events.push(event);
            }
        }
        Ok(found)
    }

    /// Forgets what happened before `revision`, which stays readable itself.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        self.compacted = revision;
        while self.past.front().is_some_and(|past| past.number < revision) {
            self.past.pop_front();
        }
        Ok(())
    }

    /// Deletes the keys of every lease that has ended by `now`.
    pub(super) fn expire(&mut self, now: Time) {
        for id in self.leases.ended(now) {
            // It was listed a moment ago.
            let _ = self.revoke(id);
        }
    }

    /// Ends a lease: its keys are deleted, all in one revision.
    pub(super) fn revoke(&mut self, id: i64) -> Result<(), Error> {
        let keys = self.leases.remove(id)?;
        let mut write = self.write();
        for key in keys {
            write.delete(&KeyRange::One(key));
        }
        write.commit();
        Ok(())
    }
}

impl Write<'_> {
    /// Sets `key`, kept alive by `lease` (0: none), which must exist. Returns what was there.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64) -> Option<Arc<PbKeyValue>> {
        let revision = self.store.revision + 1;
        let before = self.store.keys.get(&key).cloned();
        let kv = Arc::new(PbKeyValue {
            key: key.clone(),
            create_revision: before.as_ref().map_or(revision, |b| b.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(0, |b| b.version) + 1,
            value,
            lease,
        });
        if let Some(before) = &before {
            self.store.leases.detach(before.lease, &key);
        }
        self.store.leases.attach(lease, &key);
        self.changes.push(Change { key: key.as_slice().into(), kv: Some(Arc::clone(&kv)), before: before.clone() });
        self.store.keys.insert(key, kv);
        before
    }

    /// Deletes `range`. Returns what was there, by key.
    pub(super) fn delete(&mut self, range: &KeyRange) -> Vec<Arc<PbKeyValue>> {
        if range.is_empty() {
            return Vec::new();
        }
        let gone: Vec<_> = self.store.keys.range::<[u8], _>(range.bounds()).map(|(_, kv)| Arc::clone(kv)).collect();
        for kv in &gone {
            self.store.keys.remove(&kv.key);
            self.store.leases.detach(kv.lease, &kv.key);
            self.changes.push(Change { key: kv.key.as_slice().into(), kv: None, before: Some(Arc::clone(kv)) });
        }
        gone
    }

    /// The revision that readers see: the new one once something was written.
    pub(super) fn revision(&self) -> i64 {
        self.store.revision + i64::from(!self.changes.is_empty())
    }

    /// Gives the write its revision; none if nothing changed.
    pub(super) fn commit(self) {
        if self.changes.is_empty() {
            return;
        }
        let store = self.store;
        store.revision += 1;
        store.past.push_back(Revision { number: store.revision, changes: self.changes });
        if store.revision - store.compacted > KEEP_REVISIONS {
            // Between the last compaction and now, by the line above.
            let _ = store.compact(store.revision - KEEP_REVISIONS);
        }
    }
}

impl Change {
    fn event(&self, revision: i64) -> PbEvent {
        let (kind, kv) = match &self.kv {
            Some(kv) => (EventType::Put, PbKeyValue::clone(kv)),
            None => {
                let gone = PbKeyValue { key: self.key.to_vec(), mod_revision: revision, ..PbKeyValue::default() };
                (EventType::Delete, gone)
            }
        };
        PbEvent { r#type: kind as i32, kv: Some(kv), prev_kv: self.before.as_deref().cloned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &mut Store, key: &str, value: &str) {
        let mut write = store.write();
        write.put(key.into(), value.into(), 0);
        write.commit();
    }

    fn all(store: &Store, revision: i64) -> Vec<(String, String)> {
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        let found = store.at(&KeyRange::From(vec![0]), revision).unwrap();
        found.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
    }

    #[test]
    fn the_past_reads_back() {
        let mut store = Store::new();
        let mut states = vec![(1, all(&store, 0))];
        for i in 0..20 {
            put(&mut store, ["a", "b", "c"][i % 3], &i.to_string());
            states.push((store.revision(), all(&store, 0)));
            if i % 5 == 4 {
                let mut write = store.write();
                write.delete(&KeyRange::One(b"b".to_vec()));
                write.commit();
                states.push((store.revision(), all(&store, 0)));
            }
        }
        assert_eq!(store.compact(7), Ok(()));
        for (revision, state) in states {
            if revision < 7 {
                assert_eq!(store.at(&KeyRange::From(vec![0]), revision), Err(Error::Compacted));
            } else {
                assert_eq!(all(&store, revision), state, "at {revision}");
            }
        }
        assert_eq!(store.at(&KeyRange::From(vec![0]), store.revision() + 1), Err(Error::FutureRevision));
    }

    #[test]
    fn events_come_in_parts_and_lose_nothing() {
        let mut store = Store::new();
        let big = "x".repeat(EVENT_BYTES / 3);
        for i in 0..10 {
            put(&mut store, &format!("k{i}"), &big);
        }
        let (mut next, mut seen) = (2, Vec::new());
        loop {
            let part = store.events(&KeyRange::From(b"k".to_vec()), next).unwrap();
            assert!(part.events.len() <= 4, "a part is bounded");
            seen.extend(part.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision));
            next = part.next;
            if !part.more {
                break;
            }
        }
        assert_eq!(seen, (2..12).collect::<Vec<_>>());
        assert_eq!(next, 12);
    }

    #[test]
    fn memory_is_bounded_by_compacting_itself() {
        let mut store = Store::new();
        for i in 0..3 * KEEP_REVISIONS {
            put(&mut store, "k", &i.to_string());
        }
        assert_eq!(store.past.len() as i64, KEEP_REVISIONS + 1);
        assert_eq!(store.events(&KeyRange::One(b"k".to_vec()), 5), Err(Error::Compacted));
        assert!(store.events(&KeyRange::One(b"k".to_vec()), store.compacted()).is_ok());
    }

    #[test]
    fn ended_leases_take_their_keys_along_in_one_revision() {
        let now = Time::default();
        let mut store = Store::new();
        let (id, ttl) = store.leases.grant(7, 5, now).unwrap();
        let mut write = store.write();
        write.put(b"a".to_vec(), vec![], id);
        write.put(b"b".to_vec(), vec![], id);
        write.commit();
        put(&mut store, "b", "no lease any more");
        store.expire(now + (ttl - std::time::Duration::from_millis(1)));
        assert_eq!(all(&store, 0).len(), 2);
        let before = store.revision();
        store.expire(now + ttl);
        assert_eq!(all(&store, 0), [("b".to_owned(), "no lease any more".to_owned())]);
        assert_eq!(store.revision(), before + 1);
        assert_eq!(store.revoke(id), Err(Error::LeaseNotFound));
    }
}
