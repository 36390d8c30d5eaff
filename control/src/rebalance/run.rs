//! The task of a node that rebalances while it is the one to act.

use std::convert::Infallible;
use std::time::Duration;

use roomring_proto::{Incarnation, NodeId};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{Plan, Rebalancer};
use crate::clock::{Time, unix_ms};
use crate::detector::Evidence;
use crate::load::Loads;
use crate::planner;
use crate::registry::Registry;
use crate::view::ClusterView;

/// Between two looks at the loads, which change slowly.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at the loads until dropped, and writes what [`Rebalancer`] decides while the process `me`, of the node `name`, is the
/// first of the members that are there. Two that both think so write one after the other: the second sees what the first wrote.
pub async fn run(
    registry: Registry,
    name: NodeId,
    me: Incarnation,
    loads: watch::Receiver<Loads>,
    evidence: watch::Receiver<Evidence>,
) {
    let mut rebalancer = Rebalancer::default();
    let view = registry.view();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let view = view.borrow().clone();
        let member = view.placement.as_ref().is_some_and(|p| p.members.get(&me).is_some_and(|m| m.active));
        let acts = member && planner::rank(&view, &evidence.borrow().suspects, me) == 0;
        let loads = loads.borrow().clone();
        let now_ms = unix_ms();
        if let Some(plan) = rebalancer.look(&view, &loads, acts, Time::now(), now_ms) {
            write(&registry, &view, &plan, &name, now_ms).await;
        }
    }
}

async fn write(registry: &Registry, view: &ClusterView, plan: &Plan, name: &NodeId, now_ms: u64) {
    let change = |intents: &mut crate::intents::Intents| {
        // Planned on other intents it may do harm: the next look plans anew.
        let as_planned = *intents == *view.intents;
        if as_planned {
            plan.apply(intents, name.as_str(), now_ms);
        }
        Ok::<_, Infallible>(as_planned)
    };
    let (before, after) = (plan.before.highest(), plan.after.highest());
    match registry.update_intents(change).await {
        Ok(Ok(true)) => {
            tracing::info!("rebalancing: {plan}; the hottest node goes from {before:.2} to {after:.2} x its share")
        }
        Ok(Ok(false)) => tracing::debug!("rebalancing waits: the intents have changed meanwhile"),
        Err(error) => tracing::warn!(%error, "rebalancing: the intents could not be changed"),
    }
}
