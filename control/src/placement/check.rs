//! What holds of every placement.

use std::collections::BTreeSet;
use std::time::Duration;

use roomring_proto::{Malformed, limits};

use super::{Placement, SlotRecord};

/// Most points of a node on the ring. Bounds the work that a value from outside can ask for.
const VNODES: u32 = limits::SLOTS;

/// Highest weight, in percent of a whole share.
pub const WEIGHT: u32 = 10_000;

/// Shortest `fence_after`: the contact loop needs a few round trips to etcd within it.
const FENCE_AFTER: Duration = Duration::from_millis(100);

impl super::Settings {
    /// Checks every field against its limits.
    ///
    /// # Errors
    /// The first field that breaks its rule, by name.
    pub fn check(&self) -> Result<(), Malformed> {
        require((1..=limits::SLOTS).contains(&self.slots), || {
            format!("slots is {}, not 1 to {}", self.slots, limits::SLOTS)
        })?;
        require((1..=3).contains(&self.replication), || format!("replication is {}, not 1 to 3", self.replication))?;
        require((1..=self.replication).contains(&self.min_in_sync), || {
            format!("min_in_sync is {}, not 1 to replication ({})", self.min_in_sync, self.replication)
        })?;
        let fence_after = self.fence_after;
        require(fence_after >= FENCE_AFTER && fence_after.as_millis() <= u32::MAX.into(), || {
            format!("fence_after is {fence_after:?}, not {FENCE_AFTER:?} to {} ms", u32::MAX)
        })
    }
}

impl Placement {
    /// Checks everything that holds of every placement: settings, members, then slots in their order.
    ///
    /// # Errors
    /// The first rule broken, naming the slot and field.
    pub fn check(&self) -> Result<(), Malformed> {
        require(self.uid.0 != 0, || "uid is 0".into())?;
        require(self.format != 0, || "format is 0".into())?;
        require(self.version.0 != 0, || "version is 0".into())?;
        self.settings.check()?;
        require((1..=VNODES).contains(&self.ring.vnodes), || {
            format!("vnodes is {}, not 1 to {VNODES}", self.ring.vnodes)
        })?;
        require((100..=1000).contains(&self.ring.bound_percent), || {
            format!("bound_percent is {}, not 100 to 1000", self.ring.bound_percent)
        })?;
        for (incarnation, m) in &self.members {
            require(incarnation.0 != 0, || format!("member {} has incarnation 0", m.node))?;
            require(m.weight <= WEIGHT, || format!("weight of {} is {}, over {WEIGHT}", m.node, m.weight))?;
        }
        require(self.slots.len() == self.settings.slots as usize, || {
            format!("{} slots are listed, settings say {}", self.slots.len(), self.settings.slots)
        })?;
        for (number, slot) in self.slots.iter().enumerate() {
            self.check_slot(slot).map_err(|e| Malformed(format!("slot {number}: {}", e.0)))?;
        }
        Ok(())
    }

    fn check_slot(&self, slot: &SlotRecord) -> Result<(), Malformed> {
        require(slot.term.0 != 0, || "term is 0".into())?;
        require(slot.generation.0 != 0, || "generation is 0".into())?;
        require(slot.in_sync.contains(&slot.primary), || "the primary is not in sync".into())?;
        let mut seen = BTreeSet::new();
        for seat in slot.seats() {
            require(self.members.contains_key(&seat.incarnation), || format!("{} is no member", seat.incarnation))?;
            require(seen.insert(seat.incarnation), || format!("two seats of {}", seat.incarnation))?;
            require(seat.since.0 != 0 && seat.since <= self.version, || {
                format!("a seat since {} in {}", seat.since, self.version)
            })?;
        }
        Ok(())
    }
}

fn require(holds: bool, text: impl FnOnce() -> String) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed(text())) }
}
