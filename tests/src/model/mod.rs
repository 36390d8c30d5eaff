//! The protocol of one slot as an explicit-state model: up to three processes, the placement in etcd, a router.
//!
//! Every transition of a slot is [`roomring_node::slot::Slot::handle`], and every change of the placement is
//! [`roomring_control::placement::Change`]: the code that runs in production. The model adds what is around them: streams
//! that break, views that lag, processes that die and come back, proposals that land late or never, and a client of the
//! router, which is [`roomring_router::hub::core::Slot`].
//! What must hold in every state is in [`crate::invariants`].

mod action;
mod calm;
mod ghost;
mod mutant;
pub mod reached;
mod register;
mod router;
mod shared;
mod step;
mod streams;
mod world;

pub use action::{Action, Ready};
pub use ghost::Ghost;
pub use mutant::Mutant;
pub use register::Register;
pub use router::{Outcome, ROOM, ROUTER, Router};
pub use shared::Shared;
pub use world::{Process, Said, World};

use roomring_node::slot::Rules;
use roomring_router::hub::core::{Rule as RouterRule, Rules as RouterRules};
use stateright::{Model, Property};

use crate::invariants;

/// How much may happen. Within these bounds everything that can happen is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Nodes, up to 9.
    pub nodes: u64,
    /// So many of them are in sync at the beginning.
    pub in_sync: u64,
    /// Writes of the placement.
    pub writes: u8,
    /// Publishes.
    pub publishes: u8,
    /// Deaths.
    pub crashes: u8,
    /// Successors of dead processes.
    pub restarts: u8,
    /// Evictions of processes that live.
    pub wrong_evictions: u8,
    /// Streams that end.
    pub breaks: u8,
    /// Times that a process loses contact with etcd.
    pub expiries: u8,
    /// Times that the router attaches.
    pub attaches: u8,
    /// Times that the router waits for as long as a publish may take.
    pub waits: u8,
    /// Words to the router that are lost on a link that goes on, as no link of production loses any.
    pub lost_words: u8,
    /// What was said on an earlier link may still reach the router.
    pub late_words: bool,
    /// Learners may be added.
    pub admit: bool,
    /// The primary may be switched.
    pub switch: bool,
    /// Seats may be removed.
    pub remove: bool,
    /// The slot may be recreated.
    pub recreate: bool,
    /// What is under way on a stream that ends may still arrive, out of turn.
    pub linger: bool,
    /// The router may attach by a placement before the newest that it has seen, as another router would that a client
    /// comes to.
    pub attach_behind: bool,
    /// In-sync seats without which publishes wait.
    pub min_in_sync: u32,
    /// Bytes of log that are kept once applied.
    pub kept_bytes: usize,
    /// One state in so many is run on without further trouble, to see that it comes to serve.
    pub calm_one_in: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            nodes: 3,
            in_sync: 2,
            writes: 0,
            publishes: 1,
            crashes: 0,
            restarts: 0,
            wrong_evictions: 0,
            breaks: 0,
            expiries: 0,
            attaches: 1,
            waits: 0,
            lost_words: 0,
            late_words: false,
            admit: false,
            switch: false,
            remove: false,
            recreate: false,
            linger: false,
            attach_behind: false,
            min_in_sync: 1,
            kept_bytes: 1 << 20,
            calm_one_in: 0,
        }
    }
}

/// What is checked: how much may happen, and which rule is off.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotModel {
    /// How much may happen.
    pub bounds: Bounds,
    /// The rule that is off.
    pub mutant: Option<Mutant>,
    /// Rules of the router that are off besides: others stand in for each, so that one alone is not missed.
    pub beside: &'static [RouterRule],
    /// What has happened before, not counted in the bounds.
    pub prefix: &'static [Action],
}

impl SlotModel {
    /// The slot formed, the router attached, its room made, and the prefix done: where everything begins.
    ///
    /// # Panics
    /// If a step of the prefix cannot happen.
    pub fn first(&self) -> World {
        let mut world = World::first(self);
        for action in self.prefix {
            world = world.step(self, *action).unwrap_or_else(|| panic!("{action:?} cannot happen"));
        }
        world.unbounded()
    }

    /// The slot's rules.
    pub(super) fn rules(&self) -> Rules {
        match self.mutant {
            Some(Mutant::Slot(rule)) => Rules::without(rule),
            _ => Rules::default(),
        }
    }

    /// The router's rules.
    pub(super) fn router_rules(&self) -> RouterRules {
        let off = match self.mutant {
            Some(Mutant::Router(rule)) => Some(rule),
            _ => None,
        };
        RouterRules::without(self.beside.iter().copied().chain(off))
    }

    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Model for SlotModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken().is_none() {
            world.actions(self, actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.step(self, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = invariants::properties();
        properties.extend(reached::ALL.iter().map(|(name, is)| Property::<Self>::sometimes(name, *is)));
        properties
    }
}
