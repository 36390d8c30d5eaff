//! `roomctl drain NODE` and `roomctl undrain NODE`.

use std::time::Duration;

use indicatif::ProgressBar;
use roomring_control::intents::Edit;
use roomring_control::placement::Placement;
use roomring_proto::NodeId;
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::{DrainArgs, NodeArgs, Outcome};
use crate::edit::{self, Made};
use crate::snapshot::Snapshot;

/// Between two looks at how far a drain is.
const LOOK: Duration = Duration::from_millis(200);

/// How far a drain is.
#[derive(Debug, Serialize)]
struct Drained {
    #[serde(flatten)]
    made: Made,
    node: String,
    /// What the node holds.
    left: Held,
    /// What it held when this began.
    before: Held,
    /// How long was waited; absent without `--wait`.
    waited_ms: Option<u64>,
}

/// Seats of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Held {
    /// Slots that it is primary of.
    primaries: u64,
    /// Seats in all, learners too.
    seats: u64,
}

pub(crate) async fn drain(args: DrainArgs) -> anyhow::Result<Outcome> {
    let target = &args.change.common.target;
    let snapshot = Snapshot::read(target).await?;
    let before = snapshot.placement.as_ref().map_or(Held { primaries: 0, seats: 0 }, |p| held(p, &args.node));
    let made = edit::make(&args.change, &snapshot, &Edit::Drain(args.node.clone())).await?;
    let mut drained = Drained { made, node: args.node.to_string(), left: before, before, waited_ms: None };
    if !args.wait {
        let so = if drained.made.changed { "is drained from now on" } else { "is being drained already" };
        let sentence =
            format!("{} {so}, {}; `roomctl drain {} --wait` shows how it goes", args.node, has(before), args.node);
        edit::tell(&args.change, &drained, &sentence)?;
        return Ok(Outcome::Fine);
    }
    let started = Instant::now();
    let bar = ProgressBar::new(before.seats).with_style(edit::bar_style(&format!("draining {}", args.node)));
    while drained.left.seats > 0 && started.elapsed() < args.timeout.0 {
        tokio::time::sleep(LOOK.min(args.timeout.0.saturating_sub(started.elapsed()))).await;
        drained.left = held(Snapshot::read(target).await?.formed(target)?, &args.node);
        // Its share may grow first: a drain that follows a join.
        bar.set_length(before.seats.max(drained.left.seats));
        bar.set_position(bar.length().unwrap_or(0).saturating_sub(drained.left.seats));
        bar.set_message(format!("seats moved, {} primaries left", drained.left.primaries));
    }
    bar.finish_and_clear();
    let waited = started.elapsed();
    drained.waited_ms = Some(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
    if drained.left.seats > 0 {
        let sentence = format!("{} still {} after {:.1?}; the drain goes on", args.node, has(drained.left), waited);
        edit::tell(&args.change, &drained, &sentence)?;
        eprintln!(
            "roomctl: not drained in time; see `roomctl status` for nodes that could take its slots, or `roomctl undrain {}`",
            args.node
        );
        return Ok(Outcome::Unfinished);
    }
    let sentence = format!(
        "{} holds nothing any more: {} seats moved in {waited:.1?}; it can be stopped",
        args.node, before.seats
    );
    edit::tell(&args.change, &drained, &sentence)?;
    Ok(Outcome::Fine)
}

pub(crate) async fn undrain(args: NodeArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.change.common.target).await?;
    let made = edit::make(&args.change, &snapshot, &Edit::Undrain(args.node.clone())).await?;
    let sentence = match made.changed {
        true => format!("{} takes slots again", args.node),
        false => format!("{} was not drained; nothing was changed", args.node),
    };
    edit::tell(&args.change, &made, &sentence)?;
    Ok(Outcome::Fine)
}

/// Seats of every process of this name.
fn held(placement: &Placement, node: &NodeId) -> Held {
    let is_its = |i| placement.members.get(&i).is_some_and(|m| m.node == *node);
    let primaries = placement.slots.iter().filter(|s| is_its(s.primary.incarnation)).count();
    let seats = placement.slots.iter().flat_map(|s| s.seats()).filter(|s| is_its(s.incarnation)).count();
    Held { primaries: primaries as u64, seats: seats as u64 }
}

fn has(held: Held) -> String {
    format!("holds {} seats, {} of them primaries", held.seats, held.primaries)
}
