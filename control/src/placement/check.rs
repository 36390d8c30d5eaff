//! What holds of every placement.

use roomring_proto::{Malformed, limits};

use super::{Placement, SlotRecord};

/// Most points of a node on the ring. Bounds the work that a value from outside can ask for.
const VNODES: u32 = limits::SLOTS;

/// Highest weight, in percent of a whole share.
pub const WEIGHT: u32 = 10_000;

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
        for (a, b) in &self.apart {
            require(a != b && [a, b].into_iter().all(|i| self.members.get(i).is_some_and(|m| m.active)), || {
                format!("{a} and {b} are not two members that can be apart")
            })?;
        }
        for (number, slot) in self.slots.iter().enumerate() {
            self.check_slot(slot).map_err(|e| Malformed(format!("slot {number}: {}", e.0)))?;
        }
        Ok(())
    }

    fn check_slot(&self, slot: &SlotRecord) -> Result<(), Malformed> {
        require(slot.term.0 != 0, || "term is 0".into())?;
        require(slot.generation.0 != 0, || "generation is 0".into())?;
        require(slot.in_sync.contains(&slot.primary), || "the primary is not in sync".into())?;
        for (n, seat) in slot.seats().enumerate() {
            require(self.members.contains_key(&seat.incarnation), || format!("{} is no member", seat.incarnation))?;
            // There are few: a set of them would take memory, for each slot in each write.
            require(slot.seats().take(n).all(|s| s.incarnation != seat.incarnation), || {
                format!("two seats of {}", seat.incarnation)
            })?;
            require(seat.since.0 != 0 && seat.since <= self.version, || {
                format!("a seat since {} in {}", seat.since, self.version)
            })?;
        }
        Ok(())
    }
}

pub(super) fn require(holds: bool, text: impl FnOnce() -> String) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed(text())) }
}
