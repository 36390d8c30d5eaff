//! `roomctl status`.

use std::collections::BTreeMap;
use std::time::Duration;

use roomring_control::intents::{Intents, Origin, Override};
use roomring_control::placement::{Cause, Eviction, Placement, Recent};
use serde::Serialize;

use crate::cli::{Common, Outcome};
use crate::health::{self, NodeState, SlotCounts};
use crate::nodes::{self, Row};
use crate::output::{self, Format, Tone, word};
use crate::probe;
use crate::room_limits::RoomLimitsRow;
use crate::snapshot::Snapshot;

/// A cluster, as shown.
#[derive(Debug, Serialize)]
struct Status {
    cluster: String,
    formed: bool,
    healthy: bool,
    /// What is wrong, and what to do about it.
    trouble: Vec<String>,
    placement: Option<PlacementRow>,
    slots: SlotCounts,
    wishes: Wishes,
    #[serde(skip)]
    in_words: Vec<String>,
    nodes: Vec<Row>,
    routers: Vec<RouterRow>,
    /// The latest first.
    evictions: Vec<EvictionRow>,
}

#[derive(Debug, Serialize)]
struct PlacementRow {
    uid: String,
    version: u64,
    slots: u32,
    replication: u32,
    min_in_sync: u32,
    fence_after_ms: u64,
    room_limits: RoomLimitsRow,
    members: usize,
    evicted: usize,
}

/// What operators and the rebalancer want.
#[derive(Debug, Serialize)]
struct Wishes {
    drained: Vec<String>,
    /// Slot to node.
    pins: BTreeMap<u32, String>,
    /// Slot to node, with who moved it.
    overrides: BTreeMap<u32, OverrideRow>,
    /// Node to percent.
    weights: BTreeMap<String, u32>,
    rebalancing: bool,
}

#[derive(Debug, Serialize)]
struct OverrideRow {
    node: String,
    /// `operator` or `rebalancer`.
    by: &'static str,
    since: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct RouterRow {
    id: String,
    incarnation: u64,
    http: String,
    grpc: String,
    connections: Option<u64>,
    rooms: Option<u64>,
    slow_clients_total: Option<u64>,
    placement_version: Option<u64>,
    links: Option<Vec<String>>,
    unreachable: Option<String>,
}

/// A node that was found dead.
#[derive(Debug, Serialize)]
struct EvictionRow {
    node: String,
    incarnation: u64,
    cause: String,
    /// When it was written, and by whom.
    at: String,
    time_ms: u64,
    by: String,
    placement_version: u64,
    /// How long ago it had last been heard then.
    silent_ms: Option<u64>,
}

/// Most pins named; more are counted.
const NAMED: usize = 3;

/// Most evictions shown.
const EVICTIONS: usize = 5;

pub(crate) async fn run(args: Common) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.target).await?;
    let (nodes, routers) = tokio::join!(nodes::rows(&snapshot), routers(&snapshot));
    let placement = snapshot.placement.as_ref();
    let slots = placement.map(|p| health::slot_counts(&snapshot, p)).unwrap_or_default();
    let mut trouble = trouble(&snapshot, slots, &nodes, &routers);
    if let Err(e) = snapshot.formed(&args.target) {
        trouble.insert(0, e.to_string());
    }
    let status = Status {
        cluster: args.target.cluster.to_string(),
        formed: placement.is_some(),
        healthy: trouble.is_empty(),
        trouble,
        placement: placement.map(PlacementRow::new),
        slots,
        wishes: Wishes::new(&snapshot.intents),
        in_words: wishes(&snapshot.intents),
        nodes,
        routers,
        evictions: placement.map(evictions).unwrap_or_default(),
    };
    match args.output {
        Format::Json => output::print_json(&status)?,
        Format::Table => output::print_text(&table(&status))?,
    }
    Ok(if status.healthy { Outcome::Fine } else { Outcome::Trouble })
}

impl Wishes {
    fn new(intents: &Intents) -> Self {
        let moved = |o: &Override| OverrideRow {
            node: o.node.to_string(),
            by: match o.origin {
                Origin::Operator => "operator",
                Origin::Rebalancer => "rebalancer",
            },
            since: output::utc(o.time_ms),
            reason: o.reason.clone(),
        };
        Self {
            drained: intents.drained.iter().map(ToString::to_string).collect(),
            pins: intents.pins.iter().map(|(slot, node)| (slot.0, node.to_string())).collect(),
            overrides: intents.overrides.iter().map(|(slot, o)| (slot.0, moved(o))).collect(),
            weights: intents.weights.iter().map(|(node, weight)| (node.to_string(), *weight)).collect(),
            rebalancing: !intents.rebalancing_off,
        }
    }
}

/// What operators and the rebalancer want, in words; few enough for a line or two.
pub(crate) fn wishes(intents: &Intents) -> Vec<String> {
    let mut words = Vec::new();
    if !intents.drained.is_empty() {
        let drained: Vec<_> = intents.drained.iter().map(ToString::to_string).collect();
        words.push(format!("drained {}", drained.join(" ")));
    }
    words.extend(intents.weights.iter().map(|(node, weight)| format!("{node} weighs {weight}%")));
    if !intents.pins.is_empty() {
        let pins: Vec<_> = intents.pins.iter().map(|(slot, node)| format!("{slot} to {node}")).collect();
        words.push(match pins.len() {
            0..=NAMED => format!("pinned {}", pins.join(", ")),
            n => format!("{n} slots pinned"),
        });
    }
    for (origin, by) in [(Origin::Operator, "operators"), (Origin::Rebalancer, "the rebalancer")] {
        match intents.overrides.values().filter(|o| o.origin == origin).count() {
            0 => {}
            n => words.push(format!("{n} slot(s) moved by {by}")),
        }
    }
    words.push(format!("rebalancing {}", if intents.rebalancing_off { "off" } else { "on" }));
    words
}

fn evictions(placement: &Placement) -> Vec<EvictionRow> {
    let row = |(recent, e): (&Recent, &Eviction)| EvictionRow {
        node: e.node.to_string(),
        incarnation: e.incarnation.0,
        cause: e.cause.to_string(),
        at: output::utc(recent.time_ms),
        time_ms: recent.time_ms,
        by: recent.by.to_string(),
        placement_version: recent.version.0,
        silent_ms: e.silent_for.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
    };
    let found_dead = placement.recent.evictions().rev().filter(|(_, e)| e.cause != Cause::Left);
    found_dead.take(EVICTIONS).map(row).collect()
}

async fn routers(snapshot: &Snapshot) -> Vec<RouterRow> {
    let addrs: Vec<&str> = snapshot.routers.values().map(|r| r.grpc_addr.as_str()).collect();
    let answers = probe::routers(&snapshot.wire, &addrs).await;
    let row = |((id, router), answer): (
        (&roomring_proto::NodeId, &roomring_control::view::RouterEntry),
        probe::Answer<roomring_proto::v1::RouterStatusReply>,
    )| {
        let told = answer.as_ref().ok();
        RouterRow {
            id: id.to_string(),
            incarnation: router.incarnation.0,
            http: router.http_addr.clone(),
            grpc: router.grpc_addr.clone(),
            connections: told.map(|a| a.connections),
            rooms: told.map(|a| a.rooms),
            slow_clients_total: told.map(|a| a.slow_clients_total),
            placement_version: told.and_then(|a| a.placement).map(|p| p.version),
            links: told.map(|a| a.links.clone()),
            unreachable: answer.err(),
        }
    };
    snapshot.routers.iter().zip(answers).map(row).collect()
}

/// What an operator should act on.
fn trouble(snapshot: &Snapshot, slots: SlotCounts, nodes: &[Row], routers: &[RouterRow]) -> Vec<String> {
    let mut trouble: Vec<String> =
        snapshot.unreadable.iter().map(|u| format!("a value in etcd can't be read: {u}")).collect();
    for (by, other) in snapshot.placement.iter().flat_map(|p| &p.apart) {
        let name = |i| snapshot.placement.as_ref().and_then(|p| p.members.get(i)).map_or("?", |m| m.node.as_str());
        let (by, other) = (name(by), name(other));
        trouble.push(format!("{other} does not acknowledge what {by} sends: look at the network between them"));
    }
    if slots.offline > 0 {
        trouble.push(format!(
            "{} slot(s) offline: start the nodes marked lost or evicted again, or wait until the slots are made anew",
            slots.offline
        ));
    }
    if slots.under_replicated > 0 {
        let (nodes, wanted) = snapshot
            .placement
            .as_ref()
            .map_or((0, 0), |p| (p.members.values().filter(|m| m.active).count(), p.settings.replication as usize));
        trouble.push(match nodes < wanted {
            true => format!(
                "{} slot(s) under-replicated: {wanted} copies are wanted and there are {nodes} node(s); add nodes",
                slots.under_replicated
            ),
            false => format!("{} slot(s) under-replicated: wait for the copies", slots.under_replicated),
        });
    }
    for node in nodes.iter().filter(|n| n.in_trouble()) {
        let why = node.unreachable.as_deref().unwrap_or("its key in etcd is gone");
        trouble.push(format!("{} at {}: {why}; see its log, or start it again", node.id, node.address));
    }
    for router in routers {
        if let Some(why) = &router.unreachable {
            trouble.push(format!("{} at {}: {why}; see its log, or start it again", router.id, router.grpc));
        }
    }
    trouble
}

impl PlacementRow {
    fn new(placement: &Placement) -> Self {
        let active = placement.members.values().filter(|m| m.active).count();
        Self {
            uid: placement.uid.to_string(),
            version: placement.version.0,
            slots: placement.settings.slots,
            replication: placement.settings.replication,
            min_in_sync: placement.settings.min_in_sync,
            fence_after_ms: u64::try_from(placement.settings.fence_after.as_millis()).unwrap_or(u64::MAX),
            room_limits: (&placement.settings.rooms).into(),
            members: active,
            evicted: placement.members.len() - active,
        }
    }
}

fn table(status: &Status) -> String {
    let mut text = head(status);
    if !status.nodes.is_empty() {
        let mut table = output::table(&["NODE", "STATE", "PRIMARIES", "ROOMS", "MEMBERS", "ETCD SEEN", "MEMORY"]);
        for node in &status.nodes {
            table.add_row([
                word(&node.id, Tone::Plain),
                node.state_cell(),
                word(node.primaries, Tone::Plain),
                known(node.rooms.map(|n| n.to_string())),
                known(node.members.map(|n| n.to_string())),
                known(node.contact_age_ms.map(|ms| format!("{} ago", output::age(ms)))),
                known(node.rss_bytes.map(|b| format!("{} MiB", b >> 20))),
            ]);
        }
        text += &format!("\n{}", output::finish(table, &[2, 3, 4, 5, 6]));
    }
    if !status.routers.is_empty() {
        let mut table = output::table(&["ROUTER", "STATE", "HTTP", "CLIENTS", "ROOMS", "SLOW", "LINKS"]);
        for router in &status.routers {
            let state = match router.unreachable {
                None => word("up", Tone::Good),
                Some(_) => word("unreachable", Tone::Bad),
            };
            table.add_row([
                word(&router.id, Tone::Plain),
                state,
                word(&router.http, Tone::Plain),
                known(router.connections.map(|n| n.to_string())),
                known(router.rooms.map(|n| n.to_string())),
                known(router.slow_clients_total.map(|n| n.to_string())),
                known(router.links.as_ref().map(|l| l.len().to_string())),
            ]);
        }
        text += &format!("\n{}", output::finish(table, &[3, 4, 5, 6]));
    }
    if !status.evictions.is_empty() {
        let mut table = output::table(&["EVICTED", "WHEN", "WHY", "LAST HEARD", "BY"]);
        for e in &status.evictions {
            table.add_row([
                word(&e.node, Tone::Plain),
                word(output::ago(e.time_ms), Tone::Plain),
                word(&e.cause, Tone::Plain),
                known(e.silent_ms.map(|ms| format!("{ms} ms before"))),
                word(&e.by, Tone::Plain),
            ]);
        }
        text += &format!("\n{}", output::finish(table, &[]));
    }
    for line in &status.trouble {
        text += &format!("\n! {line}");
    }
    if !status.trouble.is_empty() {
        text += "\n";
    }
    text
}

fn head(status: &Status) -> String {
    let mut table = output::table(&[]);
    let health = match (status.healthy, status.formed) {
        (true, _) => word("healthy", Tone::Good),
        (false, true) => word("in trouble, see below", Tone::Bad),
        (false, false) => word("not formed", Tone::Bad),
    };
    let mut row = |name: &str, text: String| {
        table.add_row([word(name, Tone::Plain), word(text, Tone::Plain)]);
    };
    row("cluster", status.cluster.clone());
    if let Some(p) = &status.placement {
        let fence = humantime::format_duration(Duration::from_millis(p.fence_after_ms));
        row("placement", format!("version {} of {}", p.version, p.uid));
        row(
            "settings",
            format!(
                "{} slots, replication {}, min in sync {}, fence after {fence}",
                p.slots, p.replication, p.min_in_sync
            ),
        );
        row("a room keeps", p.room_limits.keeps());
        row("a room holds", p.room_limits.holds());
        let lost = status.nodes.iter().filter(|n| n.state == NodeState::Lost).count();
        row("members", format!("{}, {lost} of them lost, {} evicted", p.members, p.evicted));
        let s = status.slots;
        row(
            "slots",
            format!("{} ok, {} moving, {} under-replicated, {} offline", s.ok, s.moving, s.under_replicated, s.offline),
        );
    }
    table.add_row([word("wishes", Tone::Plain), word(status.in_words.join(", "), Tone::Plain)]);
    table.add_row([word("health", Tone::Plain), health]);
    output::finish(table, &[])
}

fn known(text: Option<String>) -> comfy_table::Cell {
    word(text.unwrap_or_else(|| "-".to_owned()), Tone::Plain)
}
