//! `roomctl pin ROOM NODE` and `roomctl unpin ROOM`.

use roomring_control::intents::Edit;
use roomring_proto::SlotId;
use serde::Serialize;

use crate::cli::{Outcome, PinArgs, UnpinArgs};
use crate::edit::{self, Made};
use crate::probe;
use crate::snapshot::Snapshot;

/// What became of a pin.
#[derive(Debug, Serialize)]
struct Pinned {
    #[serde(flatten)]
    made: Made,
    room: Option<String>,
    slot: u32,
    /// Rooms of the slot at the moment, which all move together; absent if its primary did not tell.
    rooms_in_slot: Option<u64>,
}

pub(crate) async fn pin(args: PinArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.change.common.target).await?;
    let slot = args.room.slot(snapshot.formed(&args.change.common.target)?.settings.slots);
    let change = Edit::Pin { slot, node: args.node.clone() };
    let made = edit::make(&args.change, &snapshot, &change).await?;
    let rooms_in_slot = rooms_in(&snapshot, slot).await;
    let riders = match rooms_in_slot {
        Some(0) => "which holds no room yet".to_owned(),
        Some(1) => "which holds 1 room now".to_owned(),
        Some(n) => format!("which holds {n} rooms now; they stay together"),
        None => "and other rooms of that slot go with it".to_owned(),
    };
    let sentence = match made.changed {
        true => format!("{} is in slot {}, {riders}: the slot is pinned to {}", args.room, slot.0, args.node),
        false => format!("slot {} of {} is pinned to {} already; nothing was changed", slot.0, args.room, args.node),
    };
    let pinned = Pinned { made, room: Some(args.room.to_string()), slot: slot.0, rooms_in_slot };
    edit::tell(&args.change, &pinned, &sentence)?;
    Ok(Outcome::Fine)
}

pub(crate) async fn unpin(args: UnpinArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.change.common.target).await?;
    let slots = snapshot.formed(&args.change.common.target)?.settings.slots;
    let slot = match (&args.room, args.slot) {
        (Some(room), _) => room.slot(slots),
        // The command line has one of the two.
        (None, slot) => SlotId(slot.unwrap_or(u32::MAX)),
    };
    let made = edit::make(&args.change, &snapshot, &Edit::Unpin(slot)).await?;
    let sentence = match made.changed {
        true => format!("slot {} is not pinned any more", slot.0),
        false => format!("slot {} was not pinned; nothing was changed", slot.0),
    };
    let rooms_in_slot = rooms_in(&snapshot, slot).await;
    let room = args.room.map(|room| room.to_string());
    edit::tell(&args.change, &Pinned { made, room, slot: slot.0, rooms_in_slot }, &sentence)?;
    Ok(Outcome::Fine)
}

/// How many rooms the slot has, as its primary tells.
async fn rooms_in(snapshot: &Snapshot, slot: SlotId) -> Option<u64> {
    let (incarnation, _) = snapshot.placement.as_ref()?.primary_of(slot)?;
    let (_, node) = snapshot.registered(incarnation)?;
    let answer = probe::nodes(&snapshot.wire, &[&node.grpc_addr], true).await.pop()?.ok()?;
    let status = answer.slots.iter().find(|s| s.slot == slot.0).filter(|_| answer.incarnation == incarnation.0)?;
    Some(status.rooms)
}
