//! `roomctl move SLOT NODE`.

use roomring_control::intents::Edit;
use roomring_proto::SlotId;

use crate::cli::{MoveArgs, Outcome};
use crate::edit;
use crate::snapshot::Snapshot;

pub(crate) async fn run(args: MoveArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.change.common.target).await?;
    let slot = SlotId(args.slot);
    let change = match args.node {
        Some(node) => Edit::Move { slot, node },
        None => Edit::MoveBack(slot),
    };
    let made = edit::make(&args.change, &snapshot, &change).await?;
    let sentence = match (&change, made.changed) {
        (Edit::Move { node, .. }, true) => {
            format!(
                "slot {slot} moves to {node}; it stays there until it is moved elsewhere, `--back` gives it back",
                slot = slot.0
            )
        }
        (Edit::Move { node, .. }, false) => format!("slot {} was moved to {node} already; nothing was changed", slot.0),
        (_, true) => format!("slot {} goes back to where the ring wants it", slot.0),
        (_, false) => format!("slot {} was not moved; nothing was changed", slot.0),
    };
    edit::tell(&args.change, &made, &sentence)?;
    Ok(Outcome::Fine)
}
