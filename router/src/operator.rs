//! The operator's page and what it asks for: the cluster as this router sees it, with what each process says of itself.

mod orders;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use roomring_control::clock::{Time, unix_ms};
use roomring_control::daemon::admin::{AdminAnswer, AdminRequest, answer, text};
use roomring_control::daemon::metrics::LATENCY_BOUNDS;
use roomring_control::explain;
use roomring_control::health::{self, SlotState};
use roomring_control::load::NodeLoad;
use roomring_control::metrics::Cluster;
use roomring_control::placement::{Placement, Recent};
use roomring_control::planner;
use roomring_control::view::ClusterView;
use roomring_control::wire::Wire;
use roomring_proto::v1::admin_client::AdminClient;
use roomring_proto::{Incarnation, NodeId, RoomId, limits, v1};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use crate::http::{App, query};
use crate::hub::Hub;

/// The page.
const PAGE: &str = include_str!("../page/operator.html");

/// How long a process may take to say how it is.
const DEADLINE: Duration = Duration::from_millis(800);

/// Processes are asked no more often than that, however many look on.
const FRESH: Duration = Duration::from_millis(900);

/// Writes of the placement that are shown.
const RECENT: usize = 30;

/// Slots with a copy under way that are named.
const MOVES: usize = 100;

/// Answers what the page asks.
#[derive(Debug)]
pub(crate) struct Operator {
    wire: Wire,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    at: Option<Instant>,
    state: Arc<Vec<u8>>,
    /// By address; those of processes that are gone are dropped.
    channels: BTreeMap<String, AdminClient<Channel>>,
}

/// An error that is only shown.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A process's word, or why there is none.
type Word<T> = Result<T, String>;

impl Operator {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, asked: Mutex::default() }
    }

    /// Answers a request that is neither for health nor for metrics.
    pub(crate) async fn answer(&self, app: &App<Hub>, cluster: &Cluster, request: AdminRequest) -> AdminAnswer {
        if request.uri().path() == "/api/order" {
            return orders::carry_out(app, request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only /api/order takes orders");
        }
        match request.uri().path() {
            "/" => answer(StatusCode::OK, "text/html; charset=utf-8", PAGE),
            "/api/cluster" => {
                answer(StatusCode::OK, JSON, self.state(&cluster.view(), app.api.is_some()).await.to_vec())
            }
            "/api/room" => match room_asked(request.uri().query()) {
                Ok(room) => self.room(&cluster.view(), &room).await,
                Err(problem) => text(StatusCode::BAD_REQUEST, problem),
            },
            _ => text(StatusCode::NOT_FOUND, "there is nothing at this address"),
        }
    }

    async fn state(&self, view: &ClusterView, orders: bool) -> Arc<Vec<u8>> {
        let mut asked = self.asked.lock().await;
        if asked.at.is_none_or(|at| at.elapsed() >= FRESH) {
            let addresses =
                view.nodes.values().map(|n| &n.grpc_addr).chain(view.routers.values().map(|r| &r.grpc_addr));
            let addresses: Vec<String> = addresses.cloned().collect();
            asked.channels.retain(|address, _| addresses.contains(address));
            for address in addresses {
                if let Ok(client) = client(&self.wire, &address) {
                    asked.channels.entry(address).or_insert(client);
                }
            }
            let channels = &asked.channels;
            let nodes = view.nodes.values().map(|n| node_status(channels.get(&n.grpc_addr).cloned()));
            let routers = view.routers.values().map(|r| router_status(channels.get(&r.grpc_addr).cloned()));
            let (nodes, routers) = tokio::join!(join_all(nodes), join_all(routers));
            let nodes = view.nodes.values().map(|n| n.incarnation).zip(nodes).collect();
            let mut state = cluster_state(view, &nodes, &routers);
            state["orders"] = json!(orders);
            asked.state = Arc::new(serde_json::to_vec(&state).unwrap_or_default());
            asked.at = Some(Instant::now());
        }
        asked.state.clone()
    }

    /// Where a room is, why, and what it does.
    async fn room(&self, view: &ClusterView, room: &RoomId) -> AdminAnswer {
        let Some(placement) = view.placement.as_deref() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "there is no placement yet");
        };
        let number = room.slot(placement.settings.slots);
        let Some(slot) = placement.slot(number) else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the placement lacks the room's slot");
        };
        let wish = planner::wishes(view).into_iter().nth(number.0 as usize).unwrap_or_default();
        let primary = placement.members.get(&slot.primary.incarnation);
        let (mut found, mut load) = (Err("its node is not known".to_owned()), Value::Null);
        if let Some(member) = primary {
            let asked = async {
                let mut client = client(&self.wire, &member.grpc_addr)?;
                let request = v1::RoomsRequest { room: room.as_str().to_owned() };
                let rooms = client.rooms(request).await?.into_inner().rooms;
                let status = client.node_status(v1::NodeStatusRequest { slots: false }).await?.into_inner();
                Ok((rooms.into_iter().next(), NodeLoad::read(&status.load.unwrap_or_default())))
            };
            found = within(asked).await.map(|(found, loads)| {
                if let Some(l) = loads.slots.get(&number) {
                    load = json!({"publishes": l.publishes, "frames": l.frames, "bytes": l.bytes, "rooms": l.rooms});
                }
                found
            });
        }
        let names = |incarnations: &mut dyn Iterator<Item = Incarnation>| -> Vec<String> {
            incarnations.map(|i| explain::name(placement, i)).collect()
        };
        let mut why = explain::why(view, number, &wish, ago);
        if why.is_empty() {
            why.push("The ring wants it there.".to_owned());
        }
        let body = json!({
            "room": room.as_str(),
            "slot": number.0,
            "state": health::slot_state(&view.nodes, placement, slot),
            "primary": explain::name(placement, slot.primary.incarnation),
            "in_sync": names(&mut slot.in_sync.iter().map(|s| s.incarnation)),
            "learners": names(&mut slot.learners.iter().map(|s| s.incarnation)),
            "wish": names(&mut wish.iter().copied()),
            "term": slot.term.0,
            "generation": slot.generation.0,
            "why": why,
            "pinned": view.intents.pins.get(&number).map(NodeId::as_str),
            "exists": found.as_ref().is_ok_and(Option::is_some),
            "members": found.as_ref().ok().and_then(|f| f.as_ref()).map(|r| r.members),
            "publications": found.as_ref().ok().and_then(|f| f.as_ref()).map(|r| r.seq),
            "unreachable": found.err(),
            "slot_load": load,
            "changes": explain::changes(placement, number, &wish).into_iter().map(Change::of).collect::<Vec<_>>(),
        });
        answer(StatusCode::OK, JSON, body.to_string())
    }
}

const JSON: &str = "application/json";

/// A write of the placement.
#[derive(Debug, Serialize)]
struct Change<'a> {
    version: u64,
    time_ms: u64,
    by: &'a str,
    text: &'a str,
}

impl<'a> Change<'a> {
    fn of(recent: &'a Recent) -> Self {
        Self { version: recent.version.0, time_ms: recent.time_ms, by: recent.by.as_str(), text: &recent.text }
    }
}

fn room_asked(query_text: Option<&str>) -> Result<RoomId, String> {
    let name = query::value(query_text, "room").map_err(|e| e.to_string())?;
    let name = name.ok_or_else(|| "room: missing in the query".to_owned())?;
    RoomId::new(&name).map_err(|e| e.to_string())
}

fn client(wire: &Wire, address: &str) -> Fallible<AdminClient<Channel>> {
    let endpoint = wire.endpoint(address)?.connect_timeout(DEADLINE);
    Ok(AdminClient::new(endpoint.connect_lazy()).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES))
}

async fn within<T>(asking: impl Future<Output = Fallible<T>>) -> Word<T> {
    match timeout(DEADLINE, asking).await {
        Ok(Ok(word)) => Ok(word),
        Ok(Err(e)) => Err(match e.downcast_ref::<tonic::Status>() {
            Some(status) => status.message().to_owned(),
            None => e.to_string(),
        }),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn node_status(client: Option<AdminClient<Channel>>) -> Word<v1::NodeStatusReply> {
    let mut client = client.ok_or("its address can't be used")?;
    within(async move { Ok(client.node_status(v1::NodeStatusRequest { slots: false }).await?.into_inner()) }).await
}

async fn router_status(client: Option<AdminClient<Channel>>) -> Word<v1::RouterStatusReply> {
    let mut client = client.ok_or("its address can't be used")?;
    within(async move { Ok(client.router_status(v1::RouterStatusRequest {}).await?.into_inner()) }).await
}

fn cluster_state(
    view: &ClusterView,
    statuses: &BTreeMap<Incarnation, Word<v1::NodeStatusReply>>,
    routers: &[Word<v1::RouterStatusReply>],
) -> Value {
    let placement = view.placement.as_deref();
    let known = health::nodes(&view.nodes, &view.intents, placement);
    let index: BTreeMap<Incarnation, usize> = known.iter().enumerate().map(|(n, node)| (node.incarnation, n)).collect();
    let nodes: Vec<Value> =
        known.iter().map(|node| node_row(node, placement, statuses.get(&node.incarnation))).collect();
    let routers: Vec<Value> = view
        .routers
        .iter()
        .zip(routers)
        .map(|((id, router), status)| router_row(id.as_str(), &router.http_addr, status))
        .collect();
    let slots = placement.map(|p| slot_rows(view, p, &index));
    let moves: Vec<Value> = placement.iter().flat_map(|p| moves(p)).take(MOVES).collect();
    let contact = view.contact.map(|at| Time::now().since(at).as_secs_f64());
    let settings = placement.map(|p| {
        json!({"version": p.version.0, "uid": p.uid.to_string(), "slots": p.settings.slots, "replication": p.settings.replication,
            "min_in_sync": p.settings.min_in_sync, "fence_after_s": p.settings.fence_after.as_secs_f64()})
    });
    let recent: Vec<Change<'_>> =
        placement.iter().flat_map(|p| p.recent.iter().rev().take(RECENT)).map(Change::of).collect();
    json!({
        "now_ms": unix_ms(),
        "contact_age_s": contact,
        "placement": settings,
        "nodes": nodes,
        "routers": routers,
        "slots": slots,
        "moves": moves,
        "moving": placement.map_or(0, |p| p.slots.iter().filter(|s| !s.learners.is_empty()).count()),
        "recent": recent,
        "bounds_s": LATENCY_BOUNDS,
        "intents": {
            "drained": view.intents.drained.iter().map(|n| n.as_str()).collect::<Vec<_>>(),
            "pins": view.intents.pins.len(),
            "overrides": view.intents.overrides.len(),
            "rebalancing": !view.intents.rebalancing_off,
        },
    })
}

fn node_row(node: &health::Node, placement: Option<&Placement>, status: Option<&Word<v1::NodeStatusReply>>) -> Value {
    let slots = || placement.iter().flat_map(|p| &p.slots);
    let has = |seats: &[roomring_proto::Seat]| seats.iter().any(|s| s.incarnation == node.incarnation);
    let mut row = json!({
        "id": node.id.as_str(),
        "incarnation": node.incarnation.0,
        "addr": node.addr,
        "zone": node.zone,
        "weight": node.weight,
        "state": node.state,
        "primaries": node.primaries,
        "wanted": node.wanted,
        "copies": slots().filter(|s| s.primary.incarnation != node.incarnation && has(&s.in_sync)).count(),
        "learners": slots().filter(|s| has(&s.learners)).count(),
    });
    match status {
        Some(Ok(s)) => {
            let load = NodeLoad::read(&s.load.clone().unwrap_or_default()).total();
            row["status"] = json!({
                "rooms": s.rooms, "members": s.members, "publishes_total": s.publishes_total,
                "deliveries_total": s.deliveries_total, "rss_bytes": s.rss_bytes, "uptime_ms": s.uptime_ms,
                "release": s.release, "contact_age_ms": s.contact_age_ms, "commit_buckets": s.commit_buckets,
                "load": {"publishes": load.publishes, "frames": load.frames, "bytes": load.bytes},
            });
        }
        Some(Err(why)) => row["unreachable"] = json!(why),
        None => {}
    }
    row
}

fn router_row(id: &str, http: &str, status: &Word<v1::RouterStatusReply>) -> Value {
    let mut row = json!({"id": id, "http": http});
    match status {
        Ok(s) => {
            row["status"] = json!({
                "connections": s.connections, "rooms": s.rooms, "publishes_total": s.publishes_total,
                "deliveries_total": s.deliveries_total, "slow_clients_total": s.slow_clients_total,
                "rss_bytes": s.rss_bytes, "uptime_ms": s.uptime_ms, "release": s.release,
                "links": s.links.len(), "delivery_buckets": s.delivery_buckets, "publish_buckets": s.publish_buckets,
            });
        }
        Err(why) => row["unreachable"] = json!(why),
    }
    row
}

/// Every slot, in short: its state as a letter, and the nodes of its seats by their number in the list, the primary first.
fn slot_rows(view: &ClusterView, placement: &Placement, index: &BTreeMap<Incarnation, usize>) -> Value {
    let letter = |slot| match health::slot_state(&view.nodes, placement, slot) {
        SlotState::Ok => 'o',
        SlotState::Moving => 'm',
        SlotState::UnderReplicated => 'u',
        SlotState::Offline => 'x',
    };
    let states: String = placement.slots.iter().map(letter).collect();
    let seats: Vec<Vec<usize>> = placement
        .slots
        .iter()
        .map(|slot| {
            let others = slot.in_sync.iter().filter(|s| **s != slot.primary);
            let seats = std::iter::once(&slot.primary).chain(others);
            seats.filter_map(|seat| index.get(&seat.incarnation).copied()).collect()
        })
        .collect();
    json!({"states": states, "seats": seats})
}

/// Copies that are under way.
fn moves(placement: &Placement) -> impl Iterator<Item = Value> {
    let slots = (0_u32..).zip(&placement.slots);
    slots.flat_map(move |(number, slot)| {
        let from = explain::name(placement, slot.primary.incarnation);
        let to = slot.learners.iter().map(|seat| explain::name(placement, seat.incarnation));
        to.map(move |to| json!({"slot": number, "from": from, "to": to})).collect::<Vec<_>>()
    })
}

fn ago(time_ms: u64) -> String {
    match unix_ms().saturating_sub(time_ms) / 1000 {
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}
