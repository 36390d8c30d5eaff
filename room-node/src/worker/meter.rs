//! What the slots of a worker do, counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::load::{Load, NodeLoad, Rates, SAMPLE, Tally};
use roomring_proto::{SlotId, v1};
use v1::slot_status::Role;

use super::Part;
use crate::metrics::{self, Holds};
use crate::slot::LinkId;

/// Counts in the worker's own memory; once a second they become rates that others can read.
#[derive(Debug)]
pub(super) struct Meter {
    part: Part,
    /// By slot, of those of this worker.
    tallies: Vec<Tally>,
    /// By slot: a publish whose commit is timed.
    timed: Vec<Option<Timed>>,
    rates: BTreeMap<SlotId, Rates>,
    sampled: Time,
    report: Report,
}

/// A publish that came in. One of each slot is timed, until it is answered: that costs no look-up.
#[derive(Debug, Clone, Copy)]
struct Timed {
    link: LinkId,
    number: u64,
    at: Time,
}

/// One that is not answered by then never will be: its link is gone.
const TIMED: Duration = Duration::from_secs(10);

/// What one worker's slots do and hold, as it last said. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    loads: Vec<(SlotId, Load)>,
    holds: Holds,
}

impl Report {
    fn set(&self, loads: Vec<(SlotId, Load)>, holds: Holds) {
        *self.said() = Said { loads, holds };
    }

    fn get(&self) -> Vec<(SlotId, Load)> {
        self.said().loads.clone()
    }

    pub(crate) fn holds(&self) -> Holds {
        self.said().holds
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the node does as primary, from the reports of its workers.
pub(crate) fn load_of(reports: &[Report]) -> NodeLoad {
    NodeLoad::of(reports.iter().flat_map(Report::get))
}

impl Meter {
    pub(super) fn new(part: Part, now: Time, report: Report) -> Self {
        Self { part, tallies: Vec::new(), timed: Vec::new(), rates: BTreeMap::new(), sampled: now, report }
    }

    /// Takes note of what came from a router.
    pub(super) fn came(&mut self, link: LinkId, messages: &[(SlotId, v1::router_message::Kind)]) {
        let (mut bytes, now) = (0, Time::now());
        for (slot, message) in messages {
            let v1::router_message::Kind::Publish(publish) = message else { continue };
            bytes += publish.data.len() as u64;
            let timed = self.timed(slot.0);
            if timed.is_none_or(|t| now.since(t.at) > TIMED) {
                *timed = Some(Timed { link, number: publish.number, at: now });
            }
        }
        if bytes > 0 {
            metrics::PUBLISHED_BYTES.add(bytes);
        }
    }

    /// A publish is answered.
    fn answered(&mut self, link: LinkId, answer: &v1::Published) {
        let timed = self.timed(answer.slot);
        if let Some(t) = timed.take_if(|t| t.link == link && t.number == answer.number)
            && answer.refused.is_none()
        {
            metrics::COMMITS.observe(Time::now().since(t.at), 1);
        }
    }

    /// Takes note of what goes to a router.
    pub(super) fn count(&mut self, link: LinkId, message: &v1::node_message::Kind) {
        match message {
            v1::node_message::Kind::Published(p) => {
                self.answered(link, p);
                match &p.refused {
                    None => self.tally(p.slot).publishes += 1,
                    Some(refusal) => metrics::refused(refusal.reason()),
                }
            }
            v1::node_message::Kind::Deliver(d) => {
                let payload = |e: &v1::Event| match &e.kind {
                    Some(v1::event::Kind::Publication(p)) => p.data.len() as u64,
                    _ => 0,
                };
                let bytes = d.events.iter().map(payload).sum::<u64>();
                metrics::DELIVERED_BYTES.add(bytes);
                let tally = self.tally(d.slot);
                tally.frames += d.events.len() as u64;
                tally.bytes += bytes;
            }
            _ => {}
        }
    }

    /// Makes rates of the counts, if it is time to. `status`: of the slots held.
    pub(super) fn sample(&mut self, now: Time, status: impl FnOnce() -> Vec<v1::SlotStatus>) {
        let over = now.since(self.sampled);
        if over < SAMPLE {
            return;
        }
        self.sampled = now;
        let mut rates = std::mem::take(&mut self.rates);
        let mut loads = Vec::new();
        let status = status();
        let holds = Holds::of(&status);
        for status in status.iter().filter(|s| s.role() == Role::Primary) {
            let slot = SlotId(status.slot);
            // One that was not primary a moment ago begins anew.
            let mut rate = rates.remove(&slot).unwrap_or_default();
            rate.observe(*self.tally(slot.0), over);
            loads.push((slot, rate.load(status.rooms, status.members)));
            self.rates.insert(slot, rate);
        }
        self.tallies.fill(Tally::default());
        self.report.set(loads, holds);
    }

    fn timed(&mut self, slot: u32) -> &mut Option<Timed> {
        let index = slot as usize / self.part.of.max(1);
        if index >= self.timed.len() {
            self.timed.resize(index + 1, None);
        }
        &mut self.timed[index]
    }

    fn tally(&mut self, slot: u32) -> &mut Tally {
        let index = slot as usize / self.part.of.max(1);
        if index >= self.tallies.len() {
            self.tallies.resize(index + 1, Tally::default());
        }
        &mut self.tallies[index]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn published(slot: u32, refused: bool) -> v1::node_message::Kind {
        let refused = refused.then(v1::Refusal::default);
        v1::node_message::Kind::Published(v1::Published { slot, refused, ..Default::default() })
    }

    fn delivered(slot: u32, payloads: &[usize]) -> v1::node_message::Kind {
        let event = |bytes: &usize| v1::Event {
            kind: Some(v1::event::Kind::Publication(v1::Publication {
                data: vec![0; *bytes].into(),
                ..Default::default()
            })),
        };
        let events = payloads.iter().map(event).collect();
        v1::node_message::Kind::Deliver(v1::Deliver { slot, events, ..Default::default() })
    }

    fn primary(slot: u32) -> v1::SlotStatus {
        v1::SlotStatus { slot, role: Role::Primary.into(), rooms: 2, members: 5, ..Default::default() }
    }

    #[test]
    fn one_publish_of_a_slot_is_timed_until_it_is_answered() {
        let at = |ms| Time(Duration::from_millis(ms));
        let mut meter = Meter::new(Part { index: 0, of: 1 }, at(0), Report::default());
        let publish = |number| {
            let publish = v1::Publish { slot: 3, number, data: vec![0; 10].into(), ..Default::default() };
            [(SlotId(3), v1::router_message::Kind::Publish(publish))]
        };
        let timed = |meter: &mut Meter| meter.timed(3).map(|t| t.number);
        meter.came(LinkId(1), &publish(7));
        meter.came(LinkId(1), &publish(8));
        assert_eq!(timed(&mut meter), Some(7));
        let answer =
            |number| v1::node_message::Kind::Published(v1::Published { slot: 3, number, ..Default::default() });
        let before: u64 = metrics::COMMITS.buckets().iter().map(|(_, n)| n).sum();
        meter.count(LinkId(2), &answer(7));
        meter.count(LinkId(1), &answer(8));
        assert_eq!(timed(&mut meter), Some(7), "neither is the one");
        meter.count(LinkId(1), &answer(7));
        assert_eq!(timed(&mut meter), None);
        let after: u64 = metrics::COMMITS.buckets().iter().map(|(_, n)| n).sum();
        assert_eq!(after - before, 1);
    }

    #[test]
    fn slots_are_counted_apart_and_only_while_they_are_primary_here() {
        let report = Report::default();
        let at = |ms| Time(Duration::from_millis(ms));
        // The second of two workers has the odd slots.
        let mut meter = Meter::new(Part { index: 1, of: 2 }, at(0), report.clone());
        for _ in 0..20 {
            meter.count(LinkId(1), &published(3, false));
            meter.count(LinkId(1), &published(5, true));
            meter.count(LinkId(1), &delivered(3, &[100, 50]));
        }
        meter.sample(at(500), || panic!("it is not time yet"));
        let replica = v1::SlotStatus { role: Role::Replica.into(), ..primary(7) };
        meter.sample(at(2000), || vec![primary(3), primary(5), replica]);
        let expected = Load { publishes: 10.0, frames: 20.0, bytes: 1500.0, rooms: 2, members: 5 };
        let load = load_of(std::slice::from_ref(&report));
        let of_three = load.slots[&SlotId(3)];
        assert!((of_three.publishes - expected.publishes).abs() < 1e-9, "{of_three:?}");
        assert!((of_three.frames - 20.0).abs() < 1e-9 && (of_three.bytes - 1500.0).abs() < 1e-6, "{of_three:?}");
        assert_eq!((of_three.rooms, of_three.members), (2, 5));
        assert_eq!(load.slots[&SlotId(5)].cost(), 0.0);
        assert!(!load.slots.contains_key(&SlotId(7)));

        meter.sample(at(3000), || vec![v1::SlotStatus { role: Role::Replica.into(), ..primary(3) }]);
        assert_eq!(load_of(std::slice::from_ref(&report)), NodeLoad::default());
        meter.sample(at(4000), || vec![primary(3)]);
        assert_eq!(
            load_of(std::slice::from_ref(&report)).slots[&SlotId(3)].cost(),
            0.0,
            "what it did before is forgotten"
        );
    }
}
