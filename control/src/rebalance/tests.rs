//! Clusters under all kinds of load, driven as their acting member drives them; moves take no time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use roomring_proto::{Incarnation, NodeId, RoomId, Seat, SlotId, Version};

use super::{Act, NotNow, Plan, Policy, Rebalancer, Step, plan};
use crate::clock::Time;
use crate::intents::{Author, Edit, Intents, Origin};
use crate::load::{Load, Loads, NodeLoad};
use crate::placement::fixtures::{placement, process};
use crate::placement::{Placement, SlotRecord};
use crate::planner;
use crate::ring::Ring;
use crate::view::ClusterView;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(6);

struct World {
    view: ClusterView,
    /// Messages a second of each slot.
    costs: Vec<f64>,
    rebalancer: Rebalancer,
    now: Duration,
    rng: SmallRng,
    /// How far a measured load is off, at most.
    noise: f64,
    /// Slots moved or given back, in order.
    moved: Vec<Step>,
}

impl World {
    /// A settled cluster of nodes of these weights.
    fn new(slots: u32, weights: &[u32], costs: Vec<f64>) -> Self {
        let nodes: Vec<u64> = (1..=weights.len() as u64).collect();
        let mut placement = placement(slots, 2.min(weights.len() as u32), &nodes);
        for (n, weight) in nodes.iter().zip(weights) {
            placement.members.get_mut(&Incarnation(*n)).unwrap().weight = *weight;
        }
        let view = ClusterView { placement: Some(Arc::new(placement)), ..ClusterView::default() };
        let mut world = Self {
            view,
            costs,
            rebalancer: Rebalancer::default(),
            now: Duration::from_secs(1000),
            rng: SmallRng::seed_from_u64(5),
            noise: 0.0,
            moved: Vec::new(),
        };
        world.settle();
        world
    }

    fn placement(&self) -> &Placement {
        self.view.placement.as_ref().unwrap()
    }

    fn intents(&mut self) -> &mut Intents {
        Arc::make_mut(&mut self.view.intents)
    }

    fn make(&mut self, edit: &Edit) {
        let view = self.view.clone();
        edit.make(self.intents(), &view, &[], &Author::default()).unwrap();
    }

    /// Every slot goes where the ring wants it.
    fn settle(&mut self) {
        let nodes = planner::ring_nodes(&self.view, &self.view.intents);
        let base = self.placement();
        let (slots, copies) = (base.settings.slots, base.settings.replication);
        let intents = &self.view.intents;
        let wish = Ring::new(base.ring, &nodes).wish(slots, &intents.pins, &intents.overridden(), copies);
        let of = |name: &NodeId| *base.members.iter().find(|(_, m)| m.node == *name).unwrap().0;
        let seat = |name| Seat { incarnation: of(name), since: Version(1) };
        let slots = wish.iter().map(|names| SlotRecord::fresh(names.iter().map(seat).collect()).unwrap()).collect();
        let next = Placement { slots, ..base.clone() };
        self.view.placement = Some(Arc::new(next));
    }

    /// What every node tells.
    fn loads(&mut self) -> BTreeMap<Incarnation, NodeLoad> {
        let mut by_node: BTreeMap<_, Vec<_>> =
            self.placement().members.keys().map(|incarnation| (*incarnation, Vec::new())).collect();
        let primaries: Vec<_> = self.placement().slots.iter().map(|s| s.primary.incarnation).collect();
        for (slot, (primary, cost)) in (0..).map(SlotId).zip(primaries.into_iter().zip(&self.costs)) {
            let off = if self.noise > 0.0 { self.rng.random_range(-self.noise..self.noise) } else { 0.0 };
            let load = Load { publishes: cost * (1.0 + off), ..Load::default() };
            by_node.get_mut(&primary).unwrap().push((slot, load));
        }
        by_node.into_iter().map(|(i, slots)| (i, NodeLoad::of(slots))).collect()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.now.as_millis()).unwrap()
    }

    /// The plan for the true loads of the moment.
    fn plan(&mut self) -> Result<Plan, NotNow> {
        let noise = std::mem::take(&mut self.noise);
        let loads = self.loads();
        self.noise = noise;
        plan(&self.view, &loads, &Policy::default(), self.now_ms())
    }

    /// How hot the hottest node is, in shares.
    fn highest(&mut self) -> f64 {
        self.plan().unwrap().before.highest()
    }

    /// One look of the acting member; gives how many slots it moved.
    fn look(&mut self) -> usize {
        self.now += LOOK;
        let now = Time(self.now);
        let loads = Loads(self.loads().into_iter().map(|(i, load)| (i, (load, now))).collect());
        let Some(plan) = self.rebalancer.look(&self.view, &loads, true, now, self.now_ms()) else { return 0 };
        assert!(plan.steps.len() <= Policy::default().moves);
        let now_ms = self.now_ms();
        plan.apply(self.intents(), "node-1", now_ms);
        let before = self.placement().slots.clone();
        self.settle();
        let changed = before.iter().zip(&self.placement().slots).filter(|(a, b)| a.primary != b.primary).count();
        assert!(changed <= plan.steps.len() + plan.followers, "{changed} moved for {plan:?}");
        self.moved.extend(plan.steps.iter().cloned());
        plan.steps.len()
    }

    /// Looks for so long.
    fn run(&mut self, time: Duration) -> usize {
        let until = self.now + time;
        let mut steps = 0;
        while self.now < until {
            steps += self.look();
        }
        steps
    }

    fn overrides(&self) -> usize {
        self.view.intents.overrides.len()
    }
}

/// Messages a second of each slot, of `total`: rooms by Zipf's law.
fn zipf(slots: u32, rooms: u32, exponent: f64, total: f64, seed: u32) -> Vec<f64> {
    let weight = |rank: u32| f64::from(rank).powf(-exponent);
    let sum: f64 = (1..=rooms).map(weight).sum();
    let mut costs = vec![0.0; slots as usize];
    for rank in 1..=rooms {
        let room = RoomId::new(&format!("room-{seed}-{rank}")).unwrap();
        costs[room.slot(slots).0 as usize] += total * weight(rank) / sum;
    }
    costs
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// What one case of the target is asked.
fn even_and_at_rest(nodes: usize, seed: u32, mixed: bool) -> Result<(), TestCaseError> {
    let weights: Vec<u32> = (0..nodes).map(|n| if mixed { [100, 200, 50][n % 3] } else { 100 }).collect();
    let costs = zipf(1024, 10_000, 1.1, 20_000.0, seed);
    let hottest_slot = costs.iter().copied().fold(0.0, f64::max);
    let mut world = World::new(1024, &weights, costs);
    world.noise = 0.05;
    let shares: Vec<f64> = world.plan().unwrap().before.0.values().map(|s| s.fair).collect();
    let before = world.highest();
    let least = fewest(&mut world);
    let moves = world.run(minutes(8));
    let after = world.highest();
    let fits = shares.iter().all(|fair| hottest_slot < fair * 1.1);
    println!("{nodes} nodes, mixed {mixed}: {before:.2} -> {after:.2} x, {moves} moves, at least {least}, fits {fits}");
    prop_assert!(!fits || after < 1.25, "{after}");
    prop_assert!(after <= before.max(1.25));
    prop_assert!(world.overrides() <= 1024 / 8);
    prop_assert!(moves <= 2 * least + 4, "{} moves where {} are the least", moves, least);
    // Overrides are old by now. What noise may still do is give back one that has just become dispensable, or begin with a node that
    // was just below the limit all the time; nothing goes to and fro.
    let relieved = moves > 0;
    let seen = world.moved.len();
    world.run(minutes(6));
    let later = &world.moved[seen..];
    prop_assert!(!relieved || later.iter().all(|s| s.act == Act::Drop), "the load is steady: {:?}", later);
    let distinct: BTreeSet<_> = world.moved.iter().map(|s| (s.slot, &s.to)).collect();
    prop_assert_eq!(distinct.len(), world.moved.len(), "no slot goes twice to one node");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// The target: below 1.25 where no single slot is above that, with few moves, and then at rest.
    #[test]
    fn zipf_loads_become_even_and_stay_so(nodes in 2usize..8, seed in 0u32..1000, mixed in any::<bool>()) {
        even_and_at_rest(nodes, seed, mixed)?;
    }
}

#[test]
#[ignore = "hundreds of cases: `make sweep`"]
fn zipf_loads_of_hundreds_of_clusters() {
    let mut failed = Vec::new();
    for seed in 0..200 {
        let (nodes, mixed) = (2 + seed as usize % 6, seed % 4 > 1);
        failed.extend(
            even_and_at_rest(nodes, seed, mixed)
                .err()
                .map(|e| format!("{nodes} nodes, seed {seed}, mixed {mixed}: {e}")),
        );
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn relief_that_takes_more_than_one_plan_goes_on_to_the_target() {
    even_and_at_rest(7, 775, false).unwrap();
}

/// Moves without which no node could come down to the target, if every slot that fits anywhere fitted wherever there is room.
fn fewest(world: &mut World) -> usize {
    let balance = world.plan().unwrap().before;
    let loads = world.loads();
    let room = |s: &super::Share| s.fair * Policy::default().target - s.load;
    let room = balance.0.values().map(room).fold(0.0, f64::max);
    let mut fewest = 0;
    for (incarnation, load) in &loads {
        let share = balance.0[&process(incarnation.0).1.node];
        let mut excess = share.load - share.fair * Policy::default().target;
        let mut costs: Vec<f64> = load.slots.values().map(Load::cost).filter(|cost| *cost <= room).collect();
        costs.sort_by(|a, b| b.total_cmp(a));
        for cost in costs {
            if excess > 0.0 {
                excess -= cost;
                fewest += 1;
            }
        }
    }
    fewest
}

/// Four nodes with even loads but for one slot of node-1, which is as hot as a third of a node.
fn one_hot() -> World {
    let mut world = World::new(64, &[100; 4], vec![10.0; 64]);
    let slots = world.placement().slots.iter().enumerate();
    let of_first: Vec<usize> = slots.filter(|(_, s)| s.primary.incarnation == Incarnation(1)).map(|(n, _)| n).collect();
    for slot in of_first.iter().take(3) {
        world.costs[*slot] = 70.0;
    }
    world
}

#[test]
fn a_hot_slot_moves_with_its_reason_and_comes_back_when_it_has_cooled() {
    let mut world = one_hot();
    assert!(world.highest() > 1.25, "{}", world.highest());
    let moves = world.run(minutes(2));
    assert!((1..=2).contains(&moves), "{moves}");
    assert!(world.highest() <= 1.15 + 1e-9, "{}", world.highest());
    let intents = world.intents().clone();
    let (slot, o) = intents.overrides.iter().next().unwrap();
    assert_eq!(world.costs[slot.0 as usize], 70.0, "hot slots first");
    assert_eq!(o.origin, Origin::Rebalancer);
    assert!(o.reason.starts_with("node-1 carries 1."), "{}", o.reason);
    let noted = intents.decisions.iter().next_back().unwrap();
    assert!(noted.text.contains(&format!("move {slot} to {}", o.node)) && noted.by == "node-1", "{noted:?}");

    world.costs.fill(10.0);
    world.run(minutes(10));
    assert_eq!(world.overrides(), 0, "nothing is hot any more");
    assert_eq!(world.moved.last().unwrap().act, Act::Drop);
    assert_eq!(world.run(minutes(3)), 0);
}

#[test]
fn a_burst_and_a_little_traffic_move_nothing() {
    let mut world = one_hot();
    world.look();
    world.look();
    world.costs.fill(10.0);
    assert_eq!(world.run(minutes(1)), 0, "it did not last");
    let mut world = one_hot();
    world.costs.iter_mut().for_each(|cost| *cost /= 10.0);
    assert_eq!(world.plan(), Err(NotNow::Idle));
    assert_eq!(world.run(minutes(1)), 0, "there is nothing to gain");
}

#[test]
fn pins_and_moves_of_operators_are_left_alone() {
    let mut world = one_hot();
    let hot: Vec<SlotId> = (0..64).filter(|s| world.costs[*s as usize] > 10.0).map(SlotId).collect();
    let node = process(1).1.node;
    world.make(&Edit::Pin { slot: hot[0], node: node.clone() });
    world.make(&Edit::Move { slot: hot[1], node });
    world.make(&Edit::Pin { slot: hot[2], node: process(2).1.node });
    world.settle();
    world.run(minutes(8));
    assert!(world.moved.iter().all(|s| !hot.contains(&s.slot)), "{:?}", world.moved);
    assert_eq!(world.view.intents.overrides[&hot[1]].origin, Origin::Operator);
    // A pin on a slot that the rebalancer moved makes its override void.
    let mut world = one_hot();
    world.run(minutes(2));
    let (slot, o) = world.view.intents.overrides.iter().next().map(|(s, o)| (*s, o.clone())).unwrap();
    world.make(&Edit::Pin { slot, node: o.node });
    world.run(minutes(7));
    assert!(!world.view.intents.overrides.contains_key(&slot));
}

#[test]
fn a_slot_that_is_hotter_than_a_share_is_not_thrown_about() {
    let mut world = one_hot();
    world.costs.fill(10.0);
    world.costs[11] = 2000.0;
    let before = world.highest();
    let steps = world.run(minutes(8));
    assert!(world.moved.iter().all(|s| s.slot != SlotId(11)), "it would be as hot anywhere");
    assert!(steps <= 64 / 8, "{steps}");
    assert!(world.highest() <= before);
    assert_eq!(world.run(minutes(3)), 0);
}

#[test]
fn while_it_is_not_the_time_nothing_is_planned() {
    let mut world = one_hot();
    let mut loads = world.loads();
    loads.remove(&Incarnation(3));
    let policy = Policy::default();
    let unheard = plan(&world.view, &loads, &policy, 0).unwrap_err();
    assert_eq!(unheard.to_string(), "the load of node-3 is not known");
    let moving = world.view.clone();
    world.make(&Edit::Drain(process(2).1.node));
    let loads = world.loads();
    assert!(matches!(plan(&world.view, &loads, &policy, 0), Err(NotNow::Unsettled(n)) if n > 5));
    assert_eq!(plan(&ClusterView::default(), &loads, &policy, 0), Err(NotNow::NotFormed));
    world.view = moving;

    for acts in [true, false] {
        let mut rebalancer = Rebalancer::default();
        let mut off = world.view.clone();
        Arc::make_mut(&mut off.intents).rebalancing_off = acts;
        for seconds in 0..60 {
            let now = Time(Duration::from_secs(2000 + seconds));
            let loads = Loads(world.loads().into_iter().map(|(i, l)| (i, (l, now))).collect());
            assert_eq!(rebalancer.look(&off, &loads, acts, now, 0), None, "switched off, or not its turn");
            let old = Loads(loads.0.into_iter().map(|(i, (l, _))| (i, (l, Time(Duration::from_secs(1900))))).collect());
            assert_eq!(rebalancer.look(&world.view, &old, true, now, 0), None, "what is known is old");
        }
    }
}

#[test]
fn overrides_of_nodes_that_are_gone_are_dropped_after_a_while() {
    let mut world = one_hot();
    world.run(minutes(2));
    let o = world.view.intents.overrides.values().next().unwrap().clone();
    world.make(&Edit::Drain(o.node.clone()));
    world.settle();
    world.costs.fill(10.0);
    world.run(minutes(1));
    assert!(world.overrides() > 0, "it may be back in a moment, as after a restart");
    world.run(minutes(6));
    assert!(world.view.intents.overrides.values().all(|kept| kept.node != o.node));
}
