//! `roomctl explain ROOM`.

use std::collections::BTreeSet;

use anyhow::Context;
use roomring_control::intents::Origin;
use roomring_control::placement::{Placement, Recent, SlotRecord};
use roomring_control::planner;
use roomring_proto::{Incarnation, Seat, SlotId};
use serde::Serialize;

use crate::cli::{Outcome, WhereArgs};
use crate::health::{self, SlotState};
use crate::output::{self, Format, Tone, word};
use crate::snapshot::Snapshot;
use crate::whereis::{names, state_cell};

/// Most changes shown.
const CHANGES: usize = 10;

/// Why a room is where it is.
#[derive(Debug, Serialize)]
struct Explanation {
    room: String,
    slot: u32,
    state: SlotState,
    term: u64,
    generation: u64,
    primary: String,
    in_sync: Vec<String>,
    learners: Vec<String>,
    /// Where the ring wants it, the primary first.
    wish: Vec<String>,
    /// Why it is there, or not yet where it is wanted; empty if the ring alone wants it where it is.
    why: Vec<String>,
    /// The latest first.
    changes: Vec<ChangeRow>,
}

/// A write that touched the slot or its nodes.
#[derive(Debug, Serialize)]
struct ChangeRow {
    placement_version: u64,
    at: String,
    time_ms: u64,
    by: String,
    text: String,
}

pub(crate) async fn run(args: WhereArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.common.target).await?;
    let placement = snapshot.formed(&args.common.target)?;
    let number = args.room.slot(placement.settings.slots);
    let slot = placement.slot(number).context("the placement lacks the room's slot")?;
    let wish = planner::wishes(&snapshot.view()).into_iter().nth(number.0 as usize).unwrap_or_default();
    let state = health::slot_state(&snapshot, placement, slot);
    let explanation = Explanation {
        room: args.room.to_string(),
        slot: number.0,
        state,
        term: slot.term.0,
        generation: slot.generation.0,
        primary: name(placement, slot.primary.incarnation),
        in_sync: names(placement, &slot.in_sync),
        learners: names(placement, &slot.learners),
        wish: wish.iter().map(|i| name(placement, *i)).collect(),
        why: why(&snapshot, placement, number, slot, &wish),
        changes: changes(placement, number, slot, &wish),
    };
    match args.common.output {
        Format::Json => output::print_json(&explanation)?,
        Format::Table => output::print_text(&table(&explanation))?,
    }
    Ok(if state == SlotState::Offline { Outcome::Trouble } else { Outcome::Fine })
}

fn name(placement: &Placement, incarnation: Incarnation) -> String {
    placement.members.get(&incarnation).map_or_else(|| incarnation.to_string(), |m| m.node.to_string())
}

/// Why the slot is not where the ring wants it, one sentence for each reason.
fn why(
    snapshot: &Snapshot,
    placement: &Placement,
    number: SlotId,
    slot: &SlotRecord,
    wish: &[Incarnation],
) -> Vec<String> {
    let mut why = Vec::new();
    let takers = planner::takers(&snapshot.view(), &snapshot.intents);
    let name = |i: Incarnation| name(placement, i);
    let in_sync = |i: Incarnation| slot.in_sync.iter().any(|s| s.incarnation == i);
    let primary = slot.primary.incarnation;
    if let Some(pinned) = snapshot.intents.pins.get(&number) {
        let void = if takers.contains_key(pinned) { "" } else { ", which takes no slots now" };
        why.push(format!("The slot is pinned to {pinned}{void}."));
    }
    if let Some(o) = snapshot.intents.overrides.get(&number) {
        let who = match o.origin {
            Origin::Operator => "an operator",
            Origin::Rebalancer => "the rebalancer",
        };
        let reason = if o.reason.is_empty() { String::new() } else { format!(": {}", o.reason) };
        let void = match () {
            () if snapshot.intents.pins.contains_key(&number) => " (a pin wins)",
            () if !takers.contains_key(&o.node) => " (which takes no slots now)",
            () => "",
        };
        why.push(format!("It was moved to {}{void} by {who}, {}{reason}.", o.node, output::ago(o.time_ms)));
    }
    let seats = slot.seats().filter_map(|s| placement.members.get(&s.incarnation)).map(|m| &m.node);
    let drained: BTreeSet<_> = seats.filter(|node| snapshot.intents.drained.contains(*node)).collect();
    why.extend(drained.into_iter().map(|node| format!("{node} is being drained.")));
    let copies = placement.settings.replication as usize;
    if wish.len() < copies {
        why.push(format!("{copies} copies are wanted, and the ring has {} node(s) for them.", wish.len()));
    }
    if snapshot.registered(primary).is_none() {
        let fence = humantime::format_duration(placement.settings.fence_after);
        let others = if slot.in_sync.len() > 1 { "another in-sync copy takes over" } else { "it is the last copy" };
        why.push(format!(
            "{} has no key in etcd: {others}; without any the slot is made anew after {fence}.",
            name(primary)
        ));
    } else if !placement.members.get(&primary).is_some_and(|m| m.active) {
        why.push(format!("{} was evicted and holds the last copy.", name(primary)));
    }
    for wanted in wish.iter().copied() {
        if slot.learners.iter().any(|s| s.incarnation == wanted) {
            why.push(format!("{} catches up.", name(wanted)));
        } else if !in_sync(wanted) {
            why.push(format!("{} waits for its turn to catch up, or for a primary to catch up from.", name(wanted)));
        }
    }
    if let Some(first) = wish.first().copied().filter(|first| *first != primary && in_sync(*first)) {
        why.push(format!(
            "{} is in sync and becomes primary with the next write, unless it is silent or has lost etcd.",
            name(first)
        ));
    }
    for seat in slot.in_sync.iter().filter(|s| !wish.contains(&s.incarnation) && **s != slot.primary) {
        why.push(format!("{} goes once all wanted copies are in sync.", name(seat.incarnation)));
    }
    why
}

/// The last writes that touched the slot or a node of it.
fn changes(placement: &Placement, number: SlotId, slot: &SlotRecord, wish: &[Incarnation]) -> Vec<ChangeRow> {
    let seats = slot.seats().map(|s: Seat| s.incarnation).chain(wish.iter().copied());
    let nodes: Vec<_> = seats.filter_map(|i| placement.members.get(&i)).map(|m| &m.node).collect();
    let touches = |r: &&Recent| {
        // Of writes that changed many slots it is not recorded which.
        let many = r.slots.is_empty() && r.slots_changed > 0;
        r.slots.contains(&number) || many || r.nodes.iter().any(|n| nodes.contains(&n) && r.slots.is_empty())
    };
    let row = |r: &Recent| ChangeRow {
        placement_version: r.version.0,
        at: output::utc(r.time_ms),
        time_ms: r.time_ms,
        by: r.by.to_string(),
        text: r.text.clone(),
    };
    placement.recent.iter().rev().filter(touches).take(CHANGES).map(row).collect()
}

fn table(e: &Explanation) -> String {
    let mut table = output::table(&[]);
    let plain = |text: String| word(text, Tone::Plain);
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    table.add_row([plain("room".into()), plain(e.room.clone())]);
    table.add_row([plain("slot".into()), plain(e.slot.to_string())]);
    table.add_row([plain("state".into()), state_cell(e.state)]);
    table.add_row([plain("primary".into()), plain(e.primary.clone())]);
    table.add_row([plain("term".into()), plain(format!("{}, generation {}", e.term, e.generation))]);
    table.add_row([plain("in sync".into()), plain(list(&e.in_sync))]);
    table.add_row([plain("learners".into()), plain(list(&e.learners))]);
    table.add_row([plain("ring wants".into()), plain(list(&e.wish))]);
    let why = if e.why.is_empty() { "It is where the ring wants it.".to_owned() } else { e.why.join(" ") };
    table.add_row([plain("why".into()), plain(why)]);
    let mut text = output::finish(table, &[]);
    if !e.changes.is_empty() {
        let mut table = output::table(&["VERSION", "WHEN", "BY", "WHAT"]);
        for c in &e.changes {
            let cells = [c.placement_version.to_string(), output::ago(c.time_ms), c.by.clone(), c.text.clone()];
            table.add_row(cells.map(|text| word(text, Tone::Plain)));
        }
        text += &format!("\n{}", output::finish(table, &[0]));
    }
    text
}
