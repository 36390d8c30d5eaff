//! A process's heartbeats: the detector of production, and the thread around it retold.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::detector::{Detector, Effect, Event, Evidence, LOOK, Timing};
use roomring_control::placement::Placement;
use roomring_proto::Incarnation;

/// What a process without contact says of its age.
const NEVER: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Ears {
    detector: Detector,
    began: bool,
    /// When the detector is to look around again.
    pub(super) look_at: Time,
    /// What it held after its last event.
    pub(super) held: Evidence,
    /// Of whom a second opinion is wanted.
    pub(super) asks: BTreeSet<Incarnation>,
}

impl Ears {
    pub(super) fn new(me: Incarnation, now: Time) -> Self {
        Self {
            detector: Detector::new(me, Timing::default()),
            began: false,
            look_at: now + LOOK,
            held: Evidence::default(),
            asks: BTreeSet::new(),
        }
    }

    /// Whom the view names. `registered`: also those that are no members.
    pub(super) fn members(
        &mut self,
        now: Time,
        placement: &Arc<Placement>,
        registered: impl Iterator<Item = Incarnation>,
    ) -> bool {
        let members = placement.members.iter().filter(|(_, m)| m.active);
        let active: BTreeSet<Incarnation> = members.map(|(i, _)| *i).collect();
        if !std::mem::replace(&mut self.began, true) {
            let evicted = placement.recent.evictions().filter(|(_, e)| e.cause.is_by_evidence()).count();
            self.detector.start_with(now, active.len() + evicted);
        }
        let others = registered.filter(|i| !active.contains(i)).collect();
        let fence_after = placement.settings.fence_after;
        self.feed(now, Event::Members { active, others, fence_after })
    }

    pub(super) fn heard(&mut self, now: Time, from: Incarnation, contact_age: Option<Duration>) -> bool {
        let contact_age = contact_age.unwrap_or(NEVER);
        self.feed(now, Event::Heard { from, worker_age: Duration::ZERO, contact_age })
    }

    /// Takes an event. True if what is held changed.
    pub(super) fn feed(&mut self, now: Time, event: Event) -> bool {
        let mut effects = Vec::new();
        self.detector.handle(now, event, &mut effects);
        self.asks.extend(effects.into_iter().map(|Effect::Ask(about)| about));
        let evidence = self.detector.evidence(now);
        let changed = self.held != evidence;
        self.held = evidence;
        changed
    }

    /// Looks around, if it is time to.
    pub(super) fn look(&mut self, now: Time, contact_age: Option<Duration>) -> bool {
        if self.look_at > now {
            return false;
        }
        self.look_at = now + LOOK;
        self.feed(now, Event::Tick { contact_age })
    }

    pub(super) fn silent_for(&self, now: Time, who: Incarnation) -> Option<Duration> {
        self.detector.silent_for(now, who)
    }
}
