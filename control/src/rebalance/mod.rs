//! Automatic rebalancing: moving hot slots off nodes that carry much more than their share.
//!
//! The ring makes the *number* of slots even; how much work a slot is only shows once it runs. [`plan()`] is pure: loads in, moves
//! out, as overrides in the [`Intents`](crate::intents::Intents), which the ring takes into account like a pin. So there is one
//! wish, and ring and rebalancer can't pull a slot to and fro. [`Rebalancer`] says when a plan is to be carried out: only after
//! the imbalance has lasted, one plan at a time, and by one member. [`run()`] is the task around it.

mod balance;
mod pace;
mod plan;
mod run;
#[cfg(test)]
mod tests;

pub use balance::{Balance, Share};
pub use pace::Rebalancer;
pub use plan::{Act, NotNow, Plan, Step, plan};
pub use run::run;

/// When a node carries too much, and how far that is mended.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// A node that carries more than this many times its share is relieved.
    pub over: f64,
    /// Until it carries no more than this: short of `over`, or the next breeze would start it anew.
    pub target: f64,
    /// An override that is not needed for this any more is dropped. Short of `target`, so that none is dropped only to be made again.
    pub give_back: f64,
    /// Messages a second that nodes must carry on average for it to matter.
    pub least: f64,
    /// Most slots moved by one plan; the next one waits until they are there.
    pub moves: usize,
    /// Most overrides, as one in so many slots.
    pub overrides: usize,
    /// Youngest override that is dropped, ms.
    pub keep_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        // A node that does a hundred messages a second is all but idle: there is nothing to gain.
        Self { over: 1.25, target: 1.15, give_back: 1.10, least: 100.0, moves: 16, overrides: 8, keep_ms: 300_000 }
    }
}
