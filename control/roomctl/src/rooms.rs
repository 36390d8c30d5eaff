//! `roomctl rooms`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use roomring_proto::{NodeId, v1};
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::{Outcome, RoomsArgs, RoomsBy};
use crate::output::{self, Format, Tone, word};
use crate::probe;
use crate::snapshot::Snapshot;

/// Over so long messages are counted: two looks at the rooms' sequence numbers cost the nodes nothing while they work.
const COUNTED: Duration = Duration::from_secs(1);

/// One room.
#[derive(Debug, Clone, Serialize)]
struct RoomRow {
    room: String,
    slot: u32,
    node: String,
    members: u64,
    /// Publications so far.
    seq: u64,
    /// Publications a second, counted over a second.
    rate: f64,
}

pub(crate) async fn run(args: RoomsArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.common.target).await?;
    snapshot.formed(&args.common.target)?;
    let nodes = snapshot.nodes.iter().filter(|(id, _)| args.node.as_ref().is_none_or(|wanted| wanted == *id));
    let nodes: Vec<(&NodeId, &str)> = nodes.map(|(id, n)| (id, n.grpc_addr.as_str())).collect();
    if nodes.is_empty() {
        let known: Vec<_> = snapshot.nodes.keys().map(NodeId::as_str).collect();
        let node = args.node.map(|n| n.to_string()).unwrap_or_default();
        bail!(crate::cli::Refused(format!("no node {node} is registered; there are {}", known.join(", "))));
    }
    let addrs: Vec<&str> = nodes.iter().map(|(_, addr)| *addr).collect();
    let started = Instant::now();
    let first = probe::rooms(&snapshot.wire, &addrs).await;
    tokio::time::sleep(COUNTED).await;
    let over = started.elapsed().as_secs_f64();
    let second = probe::rooms(&snapshot.wire, &addrs).await;

    let mut before = BTreeMap::new();
    for room in first.into_iter().flatten().flat_map(|reply| reply.rooms) {
        before.insert((room.room, room.created), room.seq);
    }
    let (mut rows, mut silent, mut left_out) = (Vec::new(), Vec::new(), 0);
    for ((id, addr), answer) in nodes.iter().zip(second) {
        match answer {
            Ok(reply) => {
                left_out += reply.left_out;
                rows.extend(reply.rooms.into_iter().map(|room| row(id, room, &before, over)));
            }
            Err(why) => silent.push(format!("{id} at {addr}: {why}")),
        }
    }
    let key = |r: &RoomRow| match args.sort {
        RoomsBy::Members => (r.members as f64, r.rate),
        RoomsBy::Rate => (r.rate, r.members as f64),
    };
    rows.sort_by(|a, b| {
        let (a1, a2) = key(a);
        let (b1, b2) = key(b);
        b1.total_cmp(&a1).then(b2.total_cmp(&a2)).then_with(|| a.room.cmp(&b.room))
    });
    let all = rows.len();
    rows.truncate(args.last);
    match args.common.output {
        Format::Json => output::print_json(&rows)?,
        Format::Table => output::print_text(&table(&rows, all as u64 + left_out))?,
    }
    for why in &silent {
        eprintln!("roomctl: {why}; its rooms are missing here: see its log, or start it again");
    }
    Ok(if silent.is_empty() { Outcome::Fine } else { Outcome::Trouble })
}

fn row(node: &NodeId, room: v1::RoomStatus, before: &BTreeMap<(String, u64), u64>, over: f64) -> RoomRow {
    let key = (room.room, room.created);
    // One that is new, or moved here from a node that was not asked, has no rate yet.
    let since = before.get(&key).map_or(0, |seq| room.seq.saturating_sub(*seq));
    let rate = if over > 0.0 { since as f64 / over } else { 0.0 };
    RoomRow { room: key.0, slot: room.slot, node: node.to_string(), members: room.members, seq: room.seq, rate }
}

fn table(rows: &[RoomRow], all: u64) -> String {
    if all == 0 {
        return "There are no rooms.\n".to_owned();
    }
    let mut table = output::table(&["ROOM", "SLOT", "NODE", "MEMBERS", "MESSAGES", "MESSAGES/S"]);
    for r in rows {
        let cells = [
            r.room.clone(),
            r.slot.to_string(),
            r.node.clone(),
            r.members.to_string(),
            r.seq.to_string(),
            format!("{:.1}", r.rate),
        ];
        table.add_row(cells.map(|text| word(text, Tone::Plain)));
    }
    let mut text = output::finish(table, &[1, 3, 4, 5]);
    if (rows.len() as u64) < all {
        text += &format!("\n{} of {all} rooms; `--last N` shows more.\n", rows.len());
    }
    text
}
