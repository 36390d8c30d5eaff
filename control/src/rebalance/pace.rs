//! When a plan is carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use roomring_proto::Incarnation;

use super::{NotNow, Plan, Policy, plan};
use crate::clock::Time;
use crate::load::{Loads, NodeLoad};
use crate::view::ClusterView;

/// How long something must have been worth doing: longer than a burst lasts in the smoothed rates.
const LASTING: Duration = Duration::from_secs(10);

/// After slots moved, until loads are believed again: rates of slots at their new primaries are noisy at first.
const SETTLING: Duration = Duration::from_secs(10);

/// Loads older than this are not known: several heartbeats were missed.
const FRESH: Duration = Duration::from_secs(5);

/// One member's judgement of when to rebalance. Pure: [`Rebalancer::look`] is called every few seconds.
#[derive(Debug, Clone, Default)]
pub struct Rebalancer {
    policy: Policy,
    /// Since when there has been something to do.
    since: Option<Time>,
    /// Nothing is decided before.
    not_before: Time,
    /// The last plan was as large as one may be and left a node above the target: the next goes on from there, or a node that
    /// stays just below `over` would start it anew with the next breeze.
    unfinished: bool,
}

impl Rebalancer {
    /// With another policy than the default one.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// What to write now, if anything. `acts`: this member is the one that acts; `now_ms` is Unix time.
    pub fn look(&mut self, view: &ClusterView, loads: &Loads, acts: bool, now: Time, now_ms: u64) -> Option<Plan> {
        if !acts || view.intents.rebalancing_off {
            self.since = None;
            return None;
        }
        let fresh = loads.0.iter().filter(|(_, (_, heard))| now.since(*heard) <= FRESH);
        let fresh: BTreeMap<Incarnation, NodeLoad> = fresh.map(|(i, (load, _))| (*i, load.clone())).collect();
        let mut policy = self.policy.clone();
        if self.unfinished {
            policy.over = policy.target;
        }
        match plan(view, &fresh, &policy, now_ms) {
            Err(NotNow::Unsettled(_)) => {
                self.since = None;
                self.not_before = now + SETTLING;
                None
            }
            Ok(plan) if !plan.steps.is_empty() => {
                let since = *self.since.get_or_insert(now);
                if now.since(since) < LASTING || now < self.not_before {
                    return None;
                }
                self.since = None;
                self.not_before = now + SETTLING;
                self.unfinished = plan.steps.len() >= policy.moves && plan.after.highest() > policy.target;
                Some(plan)
            }
            Ok(_) => {
                self.since = None;
                self.unfinished = false;
                None
            }
            Err(_) => {
                self.since = None;
                None
            }
        }
    }
}
