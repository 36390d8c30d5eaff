//! `roomctl nodes`.

use roomring_control::load::NodeLoad;
use serde::Serialize;

use crate::cli::{Common, Outcome};
use crate::health::{self, NodeState};
use crate::output::{self, Format, Tone, word};
use crate::probe;
use crate::snapshot::Snapshot;

/// One node, as shown.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) zone: String,
    pub(crate) weight: u32,
    pub(crate) address: String,
    pub(crate) incarnation: u64,
    pub(crate) state: NodeState,
    pub(crate) primaries: usize,
    pub(crate) wanted: usize,
    /// From the process itself, like the rest; absent if it did not answer.
    pub(crate) rooms: Option<u64>,
    pub(crate) members: Option<u64>,
    pub(crate) contact_age_ms: Option<u64>,
    pub(crate) placement_version: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    /// Messages a second, in and out, as primary.
    pub(crate) load: Option<f64>,
    /// Times the share of the whole load that its weight makes it carry; absent while there is next to none.
    pub(crate) of_share: Option<f64>,
    /// Why it did not answer.
    pub(crate) unreachable: Option<String>,
}

impl Row {
    /// A process that is expected to answer does not.
    pub(crate) fn in_trouble(&self) -> bool {
        match self.state {
            NodeState::Lost => true,
            NodeState::Left | NodeState::Evicted => false,
            NodeState::Member | NodeState::Draining | NodeState::Joining => self.unreachable.is_some(),
        }
    }

    pub(crate) fn state_cell(&self) -> comfy_table::Cell {
        match self.state {
            _ if self.in_trouble() && self.state != NodeState::Lost => word("unreachable", Tone::Bad),
            NodeState::Member => word("member", Tone::Good),
            NodeState::Draining => word("draining", Tone::Attention),
            NodeState::Joining => word("joining", Tone::Attention),
            NodeState::Lost => word("lost", Tone::Bad),
            NodeState::Left => word("left", Tone::Plain),
            NodeState::Evicted => word("evicted", Tone::Attention),
        }
    }
}

pub(crate) async fn run(args: Common) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.target).await?;
    if snapshot.placement.is_none() && snapshot.nodes.is_empty() {
        snapshot.formed(&args.target)?;
    }
    let rows = rows(&snapshot).await;
    match args.output {
        Format::Json => output::print_json(&rows)?,
        Format::Table => output::print_text(&table(&rows))?,
    }
    let troubled: Vec<&Row> = rows.iter().filter(|r| r.in_trouble()).collect();
    for row in &troubled {
        let why = row.unreachable.as_deref().unwrap_or("its key in etcd is gone");
        eprintln!("roomctl: {} at {}: {why}; see its log, or start it again", row.id, row.address);
    }
    Ok(if troubled.is_empty() { Outcome::Fine } else { Outcome::Trouble })
}

/// Every node, asked how it is.
pub(crate) async fn rows(snapshot: &Snapshot) -> Vec<Row> {
    let nodes = health::nodes(snapshot);
    let addrs: Vec<&str> = nodes.iter().map(|n| n.addr.as_str()).collect();
    let answers = probe::nodes(&snapshot.wire, &addrs, false).await;
    let row = |(node, answer): (health::Node, probe::Answer<_>)| {
        // Another process may answer at the address of one that is gone.
        let answer = answer.and_then(|a: roomring_proto::v1::NodeStatusReply| {
            if a.incarnation == node.incarnation.0 { Ok(a) } else { Err("another process answers there".to_owned()) }
        });
        let told = answer.as_ref().ok();
        Row {
            id: node.id.to_string(),
            zone: node.zone,
            weight: node.weight,
            address: node.addr,
            incarnation: node.incarnation.0,
            state: node.state,
            primaries: node.primaries,
            wanted: node.wanted,
            rooms: told.map(|a| a.rooms),
            members: told.map(|a| a.members),
            contact_age_ms: told.map(|a| a.contact_age_ms),
            placement_version: told.and_then(|a| a.placement).map(|p| p.version),
            rss_bytes: told.map(|a| a.rss_bytes),
            load: told.and_then(|a| a.load.as_ref()).map(|load| NodeLoad::read(load).total().cost()),
            of_share: None,
            unreachable: answer.err(),
        }
    };
    let mut rows: Vec<Row> = nodes.into_iter().zip(answers).map(row).collect();
    let takes = |r: &Row| r.state == NodeState::Member;
    let total: f64 = rows.iter().filter(|r| takes(r)).filter_map(|r| r.load).sum();
    let weights: f64 = rows.iter().filter(|r| takes(r)).map(|r| f64::from(r.weight)).sum();
    for row in rows.iter_mut().filter(|r| takes(r) && r.weight > 0 && total >= 1.0) {
        row.of_share = row.load.map(|load| load * weights / (total * f64::from(row.weight)));
    }
    rows
}

fn table(rows: &[Row]) -> String {
    // 80 columns are few: zones are left out where nobody has one, incarnations are in the JSON only.
    let zones = rows.iter().any(|r| !r.zone.is_empty());
    let mut headers = vec!["NODE", "STATE", "ADDRESS"];
    headers.extend(zones.then_some("ZONE"));
    headers.extend(["WGT", "SLOTS", "WANTED", "ROOMS", "MEMBERS", "MSG/S"]);
    let mut table = output::table(&headers);
    for row in rows {
        let number = |n: Option<u64>| word(n.map_or("-".to_owned(), |n| n.to_string()), Tone::Plain);
        let plain = |text: &dyn std::fmt::Display| word(text, Tone::Plain);
        let mut cells = vec![plain(&row.id), row.state_cell(), plain(&row.address)];
        cells.extend(zones.then(|| plain(&row.zone)));
        cells.extend([plain(&row.weight), plain(&row.primaries), plain(&row.wanted)]);
        cells.extend([number(row.rooms), number(row.members)]);
        cells.push(word(row.load.map_or("-".to_owned(), |l| format!("{l:.0}")), Tone::Plain));
        table.add_row(cells);
    }
    let first = 3 + usize::from(zones);
    output::finish(table, &[first, first + 1, first + 2, first + 3, first + 4, first + 5])
}
