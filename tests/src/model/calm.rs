//! The end of all trouble: everything arrives, what is dead is evicted, what is lost is recreated. The slot must come to
//! serve, and every publish must be answered.

use roomring_proto::Incarnation;

use super::SlotModel;
use super::action::Action;
use super::world::World;

/// Rounds in which all must be well.
const ROUNDS: usize = 12;

impl World {
    /// The state in which it ends.
    pub fn calm(&self, model: &SlotModel) -> Self {
        let mut world = self.clone();
        for _ in 0..ROUNDS {
            world.mend(model);
            let latest = world.register.latest().version;
            for process in world.processes.keys().copied().collect::<Vec<_>>() {
                if world.processes[&process].view() < latest {
                    world.perform(model, Action::View(process, latest));
                } else {
                    world.perform(model, Action::Renew(process));
                }
            }
            world.settle_streams(model);
            if !world.router.is_at_rest() || world.router.seen.view < latest {
                world.perform(model, Action::Attach(latest));
            }
            world.settle_streams(model);
            world.clean(model);
        }
        world
    }

    /// What the planner does for a slot: evict the dead, and recreate what none of them left.
    fn mend(&mut self, model: &SlotModel) {
        let record = self.register.record().clone();
        let dead = |i: &Incarnation| !self.processes.contains_key(i);
        let seats = record.seats().map(|s| s.incarnation);
        let evict: Vec<Incarnation> = seats.filter(|i| dead(i) && self.register.is_active(*i)).collect();
        if let Some(process) = evict.first() {
            self.perform(model, Action::Evict(*process));
        } else if record.in_sync.iter().all(|s| dead(&s.incarnation)) {
            for process in self.processes.values_mut() {
                process.contact = None;
            }
            let Some(on) = self.processes.keys().copied().next() else { return };
            if self.register.is_active(on) {
                self.perform(model, Action::Recreate(on));
            } else {
                self.perform(model, Action::Admit(on));
            }
        } else if let Some(gone) = record.seats().find(|s| dead(&s.incarnation) && *s != record.primary) {
            self.perform(model, Action::Remove(gone));
        }
    }
}
