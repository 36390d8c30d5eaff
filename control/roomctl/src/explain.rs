//! `roomctl explain ROOM`.

use anyhow::Context;
use roomring_control::explain::{self, name};
use roomring_control::placement::Recent;
use roomring_control::planner;
use serde::Serialize;

use crate::cli::{Outcome, WhereArgs};
use crate::health::{self, SlotState};
use crate::output::{self, Format, Tone, word};
use crate::room_limits::RoomLimitsRow;
use crate::snapshot::Snapshot;
use crate::whereis::{names, state_cell};

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
    room_limits: RoomLimitsRow,
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

impl ChangeRow {
    fn of(r: &Recent) -> Self {
        Self {
            placement_version: r.version.0,
            at: output::utc(r.time_ms),
            time_ms: r.time_ms,
            by: r.by.to_string(),
            text: r.text.clone(),
        }
    }
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
        why: explain::why(&snapshot.view(), number, &wish, output::ago),
        room_limits: (&placement.settings.rooms).into(),
        changes: explain::changes(placement, number, &wish).into_iter().map(ChangeRow::of).collect(),
    };
    match args.common.output {
        Format::Json => output::print_json(&explanation)?,
        Format::Table => output::print_text(&table(&explanation))?,
    }
    Ok(if state == SlotState::Offline { Outcome::Trouble } else { Outcome::Fine })
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
    table.add_row([plain("a room keeps".into()), plain(e.room_limits.keeps())]);
    table.add_row([plain("a room holds".into()), plain(e.room_limits.holds())]);
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
