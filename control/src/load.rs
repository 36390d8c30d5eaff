//! How much work each slot makes for the node that is its primary. Pure.
//!
//! Workers count in a [`Tally`] per slot; once a second the counts go into [`Rates`], and the busiest slots into a [`NodeLoad`],
//! which heartbeats carry to every node. The [rebalancer](crate::rebalance) reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use roomring_proto::{Incarnation, SlotId, v1};

use crate::clock::Time;

/// How often counts are taken: what heartbeats carry is this old at most.
pub const SAMPLE: Duration = Duration::from_secs(1);

/// How far rates look back: a sample counts 1/e of a new one after this. Long enough to see past bursts of chat, short enough
/// that a room that gets busy is known as such in a moment.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// Most slots of a node that are told one by one: they come to 4 KiB a second for each listener. All the others together are told
/// as a sum; each of them does less than any of these.
pub const TOLD: usize = 128;

/// Bytes that cost as much as one message: an estimate for copying them to the replicas and to the kernel.
const BYTES_A_MESSAGE: f64 = 4096.0;

/// What a slot did, as plain counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Publishes acknowledged.
    pub publishes: u64,
    /// Events sent, once for each router.
    pub frames: u64,
    /// Payload in those events.
    pub bytes: u64,
}

/// What a slot does in a second, and what it holds; or the sum over some slots.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Publishes acknowledged a second.
    pub publishes: f64,
    /// Events sent a second, once for each router.
    pub frames: f64,
    /// Payload in those events, bytes a second.
    pub bytes: f64,
    /// Rooms held.
    pub rooms: u64,
    /// Their members.
    pub members: u64,
}

/// The rates of one slot, smoothed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    publishes: f64,
    frames: f64,
    bytes: f64,
    /// How much of the average is made of samples, and not of the zeros that it began with.
    filled: f64,
}

/// What a node does as primary.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeLoad {
    /// Its busiest slots, at most [`TOLD`].
    pub slots: BTreeMap<SlotId, Load>,
    /// All its other slots together.
    pub rest: Load,
}

/// What is known of the loads of all nodes, and since when.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loads(pub BTreeMap<Incarnation, (NodeLoad, Time)>);

impl Rates {
    /// Takes in what was counted in the last `over`.
    pub fn observe(&mut self, tally: Tally, over: Duration) {
        let seconds = over.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let keep = (-seconds / LOOK_BACK.as_secs_f64()).exp();
        let mix = |average: f64, counted: u64| average * keep + counted as f64 / seconds * (1.0 - keep);
        *self = Self {
            publishes: mix(self.publishes, tally.publishes),
            frames: mix(self.frames, tally.frames),
            bytes: mix(self.bytes, tally.bytes),
            filled: self.filled * keep + (1.0 - keep),
        };
    }

    /// The rates as a load, with what the slot holds. Zero before the first sample; right from the first one on, if noisy.
    pub fn load(&self, rooms: u64, members: u64) -> Load {
        let whole = |average: f64| if self.filled > 0.0 { average / self.filled } else { 0.0 };
        let (publishes, frames, bytes) = (whole(self.publishes), whole(self.frames), whole(self.bytes));
        Load { publishes, frames, bytes, rooms, members }
    }
}

impl Load {
    /// Work, in messages a second: one taken in and one sent out cost about the same, and so does a stretch of payload.
    pub fn cost(&self) -> f64 {
        self.publishes + self.frames + self.bytes / BYTES_A_MESSAGE
    }

    fn add(&mut self, other: &Self) {
        self.publishes += other.publishes;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.rooms += other.rooms;
        self.members += other.members;
    }

    fn wire(&self, slot: SlotId) -> v1::SlotLoad {
        #[allow(clippy::cast_possible_truncation)] // For rates seven digits are plenty.
        let short = |rate: f64| rate as f32;
        v1::SlotLoad {
            slot: slot.0,
            publishes: short(self.publishes),
            frames: short(self.frames),
            bytes: short(self.bytes),
            rooms: self.rooms,
            members: self.members,
        }
    }

    /// What makes no sense counts as nothing.
    fn read(m: &v1::SlotLoad) -> Self {
        let rate = |r: f32| if r.is_finite() && r > 0.0 { f64::from(r) } else { 0.0 };
        Self {
            publishes: rate(m.publishes),
            frames: rate(m.frames),
            bytes: rate(m.bytes),
            rooms: m.rooms,
            members: m.members,
        }
    }
}

impl NodeLoad {
    /// The report on these slots.
    pub fn of(slots: impl IntoIterator<Item = (SlotId, Load)>) -> Self {
        let mut all: Vec<_> = slots.into_iter().filter(|(_, l)| l.cost() > 0.0 || l.rooms > 0).collect();
        all.sort_by(|(a, x), (b, y)| y.cost().total_cmp(&x.cost()).then(a.cmp(b)));
        let mut rest = Load::default();
        all.iter().skip(TOLD).for_each(|(_, load)| rest.add(load));
        all.truncate(TOLD);
        Self { slots: all.into_iter().collect(), rest }
    }

    /// All slots together.
    pub fn total(&self) -> Load {
        let mut total = self.rest;
        self.slots.values().for_each(|load| total.add(load));
        total
    }

    /// As [`v1::NodeLoad`].
    pub fn wire(&self) -> v1::NodeLoad {
        v1::NodeLoad {
            slots: self.slots.iter().map(|(slot, load)| load.wire(*slot)).collect(),
            rest: Some(self.rest.wire(SlotId(0))),
        }
    }

    /// Reads what another process told.
    pub fn read(m: &v1::NodeLoad) -> Self {
        let slots = m.slots.iter().take(TOLD).map(|s| (SlotId(s.slot), Load::read(s))).collect();
        Self { slots, rest: m.rest.as_ref().map(Load::read).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(publishes: u64) -> Tally {
        Tally { publishes, frames: 2 * publishes, bytes: 100 * publishes }
    }

    #[test]
    fn a_steady_rate_is_told_from_the_first_sample_on() {
        let mut rates = Rates::default();
        assert_eq!(rates.load(0, 0).cost(), 0.0);
        for _ in 0..100 {
            rates.observe(tally(50), Duration::from_millis(500));
            let load = rates.load(3, 4);
            assert!((load.publishes - 100.0).abs() < 1e-9 && (load.frames - 200.0).abs() < 1e-9, "{load:?}");
            assert_eq!((load.rooms, load.members), (3, 4));
        }
        rates.observe(tally(5), Duration::ZERO);
        assert!((rates.load(0, 0).publishes - 100.0).abs() < 1e-9, "no time, no sample");
    }

    #[test]
    fn a_burst_fades_and_a_change_is_followed() {
        let mut rates = Rates::default();
        (0..60).for_each(|_| rates.observe(tally(100), SAMPLE));
        rates.observe(tally(1100), SAMPLE);
        let burst = rates.load(0, 0).publishes;
        assert!((150.0..250.0).contains(&burst), "ten times as much for a second is not ten times the load: {burst}");
        (0..60).for_each(|_| rates.observe(Tally::default(), SAMPLE));
        assert!(rates.load(0, 0).publishes < 1.0);
    }

    #[test]
    fn reports_are_bounded_and_add_up() {
        let load = |n: u32| Load { publishes: f64::from(n), rooms: 1, ..Load::default() };
        let report = NodeLoad::of((0..1000).map(|n| (SlotId(n), load(n))));
        assert_eq!(report.slots.len(), TOLD);
        assert!(report.slots.keys().all(|s| s.0 >= 872), "the busiest are told");
        let total = report.total();
        assert_eq!((total.publishes, total.rooms), (499_500.0, 1000));
        assert_eq!(NodeLoad::read(&report.wire()), report);
        let idle = NodeLoad::of([(SlotId(1), Load::default())]);
        assert_eq!(idle, NodeLoad::default(), "a slot with nothing in it is not worth a word");
    }

    #[test]
    fn nonsense_counts_as_nothing() {
        let bad =
            v1::SlotLoad { slot: 3, publishes: f32::NAN, frames: -1.0, bytes: f32::INFINITY, ..Default::default() };
        let read = NodeLoad::read(&v1::NodeLoad { slots: vec![bad; 1000], rest: None });
        assert_eq!(read.total(), Load::default());
    }
}
