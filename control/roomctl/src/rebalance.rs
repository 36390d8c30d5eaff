//! `roomctl rebalance`.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use roomring_control::intents::Edit;
use roomring_control::load::NodeLoad;
use roomring_control::rebalance::{Act, NotNow, Plan, Policy, plan};
use roomring_control::view::Intents;
use roomring_proto::Incarnation;
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::{Conflict, Outcome, RebalanceArgs, Refused};
use crate::edit;
use crate::output::{self, Format, Tone, word};
use crate::probe;
use crate::snapshot::Snapshot;

/// Between two looks at how far the moves are.
const LOOK: Duration = Duration::from_millis(200);

/// A plan, as shown.
#[derive(Debug, Serialize)]
struct Shown {
    /// Automatic rebalancing is switched on.
    automatic: bool,
    /// It was written.
    applied: bool,
    /// Why there are no moves; absent if there are.
    nothing: Option<String>,
    nodes: Vec<NodeRow>,
    moves: Vec<MoveRow>,
    /// Other slots that the ring moves because of these.
    followers: usize,
    /// How long it was waited for the moves; absent without `--wait`.
    waited_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    node: String,
    /// Messages a second.
    load: f64,
    /// Times its share, as it is.
    ratio: f64,
    /// Times its share, as it would be.
    ratio_after: f64,
}

#[derive(Debug, Serialize)]
struct MoveRow {
    slot: u32,
    load: f64,
    from: String,
    to: String,
    /// `move`, or `give-back`: an override is dropped.
    act: &'static str,
    reason: String,
}

pub(crate) async fn run(args: RebalanceArgs) -> anyhow::Result<Outcome> {
    let target = &args.change.common.target;
    let snapshot = Snapshot::read(target).await?;
    snapshot.formed(target)?;
    if args.on || args.off {
        let made = edit::make(&args.change, &snapshot, &Edit::Rebalancing(args.on)).await?;
        let (now, already) = (if args.on { "on" } else { "off" }, if made.changed { "" } else { " already" });
        edit::tell(&args.change, &made, &format!("automatic rebalancing is {now}{already}"))?;
        return Ok(Outcome::Fine);
    }
    let loads = loads(&snapshot).await;
    let author = edit::author(&args.change.reason);
    let planned = plan(&snapshot.view(), &loads, &Policy::default(), author.time_ms);
    let automatic = !snapshot.intents.rebalancing_off;
    let plan = match planned {
        Ok(plan) => plan,
        Err(NotNow::Idle) => {
            let nothing = Some(NotNow::Idle.to_string());
            let (nodes, moves) = (Vec::new(), Vec::new());
            show(&args, &Shown { automatic, applied: false, nothing, nodes, moves, followers: 0, waited_ms: None })?;
            return Ok(Outcome::Fine);
        }
        Err(NotNow::Unheard(_)) => {
            let unheard = planned.err().map(|e| e.to_string()).unwrap_or_default();
            return Err(Refused(format!("{unheard}; see `roomctl nodes`; nothing was changed")).into());
        }
        Err(e) => return Err(Refused(format!("{e}; nothing was changed")).into()),
    };
    let mut shown = Shown::new(&plan, automatic);
    if args.dry_run || plan.steps.is_empty() {
        show(&args, &shown)?;
        return Ok(Outcome::Fine);
    }
    if !args.change.yes {
        if args.change.common.output == Format::Table {
            show(&args, &shown)?;
        }
        edit::ask(&args.change, &format!("{} slot(s) would move", plan.steps.len()))?;
    }
    let change = |intents: &mut Intents| {
        let as_planned = *intents == snapshot.intents;
        if as_planned {
            plan.apply(intents, &author.name, author.time_ms);
        }
        as_planned.then_some(()).ok_or(())
    };
    if edit::update(&args.change, change).await?.is_err() {
        let text = "others changed what is wanted meanwhile; nothing was changed: order it again".to_owned();
        return Err(Conflict(text).into());
    }
    shown.applied = true;
    let done = if args.wait { wait(&args, &plan, &mut shown).await? } else { true };
    show(&args, &shown)?;
    if !done {
        eprintln!("roomctl: the moves are not done in time and go on; see `roomctl status`");
    }
    Ok(if done { Outcome::Fine } else { Outcome::Unfinished })
}

/// What every registered node says that it does.
pub(crate) async fn loads(snapshot: &Snapshot) -> BTreeMap<Incarnation, NodeLoad> {
    let addrs: Vec<&str> = snapshot.nodes.values().map(|n| n.grpc_addr.as_str()).collect();
    let answers = probe::nodes(&snapshot.wire, &addrs, false).await.into_iter().flatten();
    let load = |a: roomring_proto::v1::NodeStatusReply| Some((Incarnation(a.incarnation), NodeLoad::read(&a.load?)));
    answers.filter_map(load).collect()
}

/// Until every slot of the plan is where it should be. Says whether that was in time.
async fn wait(args: &RebalanceArgs, plan: &Plan, shown: &mut Shown) -> anyhow::Result<bool> {
    let target = &args.change.common.target;
    let started = Instant::now();
    let bar = ProgressBar::new(plan.steps.len() as u64).with_style(edit::bar_style("moving slots"));
    loop {
        let snapshot = Snapshot::read(target).await?;
        let placement = snapshot.formed(target)?;
        let is_there = |s: &&roomring_control::rebalance::Step| {
            placement.primary_of(s.slot).is_some_and(|(_, member)| member.node == s.to)
        };
        let there = plan.steps.iter().filter(is_there).count();
        bar.set_position(there as u64);
        let done = there == plan.steps.len();
        if done || started.elapsed() >= args.timeout.0 {
            bar.finish_and_clear();
            shown.waited_ms = Some(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
            return Ok(done);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Shown {
    fn new(plan: &Plan, automatic: bool) -> Self {
        let nodes = plan.before.0.iter().map(|(node, share)| NodeRow {
            node: node.to_string(),
            load: share.load,
            ratio: share.ratio(),
            ratio_after: plan.after.0.get(node).map_or(1.0, roomring_control::rebalance::Share::ratio),
        });
        let moves = plan.steps.iter().map(|s| MoveRow {
            slot: s.slot.0,
            load: s.load,
            from: s.from.to_string(),
            to: s.to.to_string(),
            act: match s.act {
                Act::Move => "move",
                Act::Drop => "give-back",
            },
            reason: s.reason.clone(),
        });
        let nothing = plan.steps.is_empty().then(|| match plan.before.highest() {
            high if high > Policy::default().over => "no move would help".to_owned(),
            _ => format!("no node carries more than {:.2} x its share", Policy::default().over),
        });
        Self {
            automatic,
            applied: false,
            nothing,
            nodes: nodes.collect(),
            moves: moves.collect(),
            followers: plan.followers,
            waited_ms: None,
        }
    }
}

fn show(args: &RebalanceArgs, shown: &Shown) -> anyhow::Result<()> {
    match args.change.common.output {
        Format::Json => output::print_json(shown),
        Format::Table => output::print_text(&table(shown)),
    }
}

fn table(shown: &Shown) -> String {
    let plain = |text: String| word(text, Tone::Plain);
    let mut text = String::new();
    if !shown.nodes.is_empty() {
        let mut table = output::table(&["NODE", "MESSAGES/S", "OF ITS SHARE", "AFTERWARDS"]);
        for n in &shown.nodes {
            let tone = if n.ratio > Policy::default().over { Tone::Attention } else { Tone::Plain };
            table.add_row([
                plain(n.node.clone()),
                plain(format!("{:.0}", n.load)),
                word(format!("{:.2} x", n.ratio), tone),
                plain(format!("{:.2} x", n.ratio_after)),
            ]);
        }
        text += &(output::finish(table, &[1, 2, 3]) + "\n");
    }
    if !shown.moves.is_empty() {
        let mut table = output::table(&["SLOT", "MESSAGES/S", "FROM", "TO", "WHY"]);
        for m in &shown.moves {
            table.add_row(
                [m.slot.to_string(), format!("{:.0}", m.load), m.from.clone(), m.to.clone(), m.reason.clone()]
                    .map(plain),
            );
        }
        text += &(output::finish(table, &[0, 1]) + "\n");
    }
    if shown.followers > 0 {
        text += &format!("{} more slot(s) follow, by the ring's bound on slots.\n", shown.followers);
    }
    if let Some(nothing) = &shown.nothing {
        text += &format!("Nothing to do: {nothing}.\n");
    }
    if shown.applied {
        text += &match shown.waited_ms {
            Some(ms) => format!("Ordered {} move(s), waited {}.\n", shown.moves.len(), output::age(ms)),
            None => format!("Ordered {} move(s); `roomctl events` shows how they go.\n", shown.moves.len()),
        };
    }
    let (is, to) = if shown.automatic { ("on", "off") } else { ("off", "on") };
    text + &format!("Automatic rebalancing is {is} (`roomctl rebalance --{to}`).\n")
}
