//! `roomctl weight NODE PERCENT`.

use roomring_control::intents::Edit;

use crate::cli::{Outcome, WeightArgs};
use crate::edit;
use crate::snapshot::Snapshot;

pub(crate) async fn run(args: WeightArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.change.common.target).await?;
    let (node, percent) = (args.node, if args.registered { None } else { args.percent });
    let made = edit::make(&args.change, &snapshot, &Edit::Weight { node: node.clone(), percent }).await?;
    let weighs = match percent {
        Some(percent) => format!("{node} has weight {percent}"),
        None => format!("{node} has the weight that it registered with"),
    };
    let sentence = match made.changed {
        true => format!("{weighs} from now on; `roomctl nodes` shows its share"),
        false => format!("{weighs} already; nothing was changed"),
    };
    edit::tell(&args.change, &made, &sentence)?;
    Ok(Outcome::Fine)
}
