//! What was committed, ever: known to nobody in the world, kept to compare with.

use std::collections::BTreeMap;

use roomring_node::entry::{Body, Entry};
use roomring_node::slot::inspect::Held;
use roomring_proto::{Generation, Lsn};

use super::shared::Shared;

/// Committed entries by generation; the entry at lsn 1 is the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ghost {
    committed: BTreeMap<Generation, Vec<Shared<Entry>>>,
    /// An entry was committed in a place that had another.
    pub(super) contradicted: bool,
}

impl Ghost {
    /// The entry committed at `lsn`.
    pub fn entry(&self, generation: Generation, lsn: Lsn) -> Option<&Entry> {
        let index = usize::try_from(lsn.0.checked_sub(1)?).ok()?;
        self.committed.get(&generation)?.get(index).map(|e| &**e)
    }

    /// The newest entry committed in a generation.
    pub fn last(&self, generation: Generation) -> Lsn {
        Lsn(self.committed.get(&generation).map_or(0, |entries| entries.len() as u64))
    }

    /// Everything committed in a generation.
    pub fn entries(&self, generation: Generation) -> impl Iterator<Item = &Entry> {
        self.committed.get(&generation).into_iter().flatten().map(|e| &**e)
    }

    /// Every publish committed, with its generation: number, lsn, seq and data.
    pub fn publishes(&self) -> impl Iterator<Item = (Generation, Lsn, &roomring_node::entry::Publish)> {
        self.committed.iter().flat_map(|(generation, entries)| {
            entries.iter().filter_map(|entry| match &entry.body {
                Body::Publish { publish, .. } => Some((*generation, entry.lsn, publish)),
                _ => None,
            })
        })
    }

    /// Two entries were committed in one place.
    pub fn is_contradicted(&self) -> bool {
        self.contradicted
    }

    /// Takes what a seat believes to be committed, after `from`.
    pub(super) fn learn(&mut self, held: Held<'_>, from: Lsn) {
        let mut lsn = from.next();
        while lsn <= held.commit() {
            if let Some(entry) = held.entry(lsn) {
                match self.entry(held.generation(), lsn) {
                    Some(known) => self.contradicted |= known != entry,
                    None if lsn == self.last(held.generation()).next() => {
                        self.committed.entry(held.generation()).or_default().push(Shared::new(entry.clone()));
                    }
                    None => self.contradicted = true,
                }
            }
            lsn = lsn.next();
        }
        // What came in a snapshot was committed before.
        self.contradicted |= held.commit() > self.last(held.generation());
    }
}
