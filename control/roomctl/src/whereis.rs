//! `roomctl where ROOM`.

use anyhow::Context;
use roomring_control::placement::Placement;
use roomring_proto::Seat;
use serde::Serialize;

use crate::cli::{Outcome, WhereArgs};
use crate::health::{self, SlotState};
use crate::output::{self, Format, Tone, word};
use crate::snapshot::Snapshot;

/// Where a room is.
#[derive(Debug, Serialize)]
struct Place {
    room: String,
    slot: u32,
    state: SlotState,
    /// Of the primary.
    node: String,
    address: String,
    incarnation: u64,
    term: u64,
    generation: u64,
    in_sync: Vec<String>,
    learners: Vec<String>,
}

pub(crate) async fn run(args: WhereArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.common.target).await?;
    let placement = snapshot.formed(&args.common.target)?;
    let number = args.room.slot(placement.settings.slots);
    let slot = placement.slot(number).context("the placement lacks the room's slot")?;
    let (incarnation, primary) = placement.primary_of(number).context("the placement does not name the primary")?;
    let place = Place {
        room: args.room.to_string(),
        slot: number.0,
        state: health::slot_state(&snapshot, placement, slot),
        node: primary.node.to_string(),
        address: snapshot.registered(incarnation).map_or(&primary.grpc_addr, |(_, node)| &node.grpc_addr).clone(),
        incarnation: incarnation.0,
        term: slot.term.0,
        generation: slot.generation.0,
        in_sync: names(placement, &slot.in_sync),
        learners: names(placement, &slot.learners),
    };
    match args.common.output {
        Format::Json => output::print_json(&place)?,
        Format::Table => output::print_text(&table(&place))?,
    }
    if place.state == SlotState::Offline {
        eprintln!(
            "roomctl: {} is gone from etcd; start it again on its own --home, or wait: its slots are made anew after {}",
            place.node,
            humantime::format_duration(placement.settings.fence_after)
        );
        return Ok(Outcome::Trouble);
    }
    Ok(Outcome::Fine)
}

pub(crate) fn names(placement: &Placement, seats: &[Seat]) -> Vec<String> {
    let name = |s: &Seat| {
        placement.members.get(&s.incarnation).map_or_else(|| s.incarnation.to_string(), |m| m.node.to_string())
    };
    seats.iter().map(name).collect()
}

pub(crate) fn state_cell(state: SlotState) -> comfy_table::Cell {
    match state {
        SlotState::Ok => word("ok", Tone::Good),
        SlotState::Moving => word("moving", Tone::Attention),
        SlotState::UnderReplicated => word("under-replicated", Tone::Attention),
        SlotState::Offline => word("offline", Tone::Bad),
    }
}

fn table(place: &Place) -> String {
    let mut table = output::table(&[]);
    let state = state_cell(place.state);
    let plain = |text: String| word(text, Tone::Plain);
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    table.add_row([plain("room".into()), plain(place.room.clone())]);
    table.add_row([plain("slot".into()), plain(place.slot.to_string())]);
    table.add_row([plain("state".into()), state]);
    table.add_row([plain("node".into()), plain(format!("{} at {}", place.node, place.address))]);
    table.add_row([plain("term".into()), plain(format!("{}, generation {}", place.term, place.generation))]);
    table.add_row([plain("in sync".into()), plain(list(&place.in_sync))]);
    table.add_row([plain("learners".into()), plain(list(&place.learners))]);
    output::finish(table, &[])
}
