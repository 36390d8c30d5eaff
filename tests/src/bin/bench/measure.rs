//! One measurement of one server.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::histogram::Histogram;

use crate::load::order::Pace;
use crate::loads::{Cpu, Loads, Window};
use crate::peers::{Part, Peer, Server, Setup};
use crate::rows::{Kind, Row};
use crate::usage;

/// Until a server that was just connected to has freed what only connecting took.
const SETTLE: Duration = Duration::from_secs(3);

/// A measurement that takes longer has gone wrong.
const LONGEST: Duration = Duration::from_secs(240);

/// Until routers have let go of empty rooms, and what is kept of a second ago can go.
const LET_GO: Duration = Duration::from_secs(4);

/// How long things are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lengths {
    /// Until caches, queues and allocators are as they will stay.
    pub(crate) warm_up: Duration,
    /// A measurement.
    pub(crate) window: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Deliveries.
    pub(crate) busy: Option<Window>,
    /// Deliveries at half of the rate that saturated it.
    pub(crate) half: Option<Window>,
    /// Connections.
    pub(crate) connections: Option<Connections>,
    /// What else there is to say, by its name.
    pub(crate) others: BTreeMap<String, f64>,
    /// Why it does not count; empty if every delivery arrived, once.
    pub(crate) faults: Vec<String>,
}

/// What connections cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Connections {
    /// Made a second.
    pub(crate) a_second: f64,
    /// CPU ms of the whole system for a new connection with its first join.
    pub(crate) cpu_ms: f64,
    /// Resident bytes per idle joined connection, of the processes with clients' sockets.
    pub(crate) edge_bytes: f64,
    /// Those of all processes but etcd.
    pub(crate) bytes: f64,
    /// CPU ms for one more subscribe.
    pub(crate) subscribe_ms: Option<f64>,
}

/// Starts a server, connects everybody, and measures. Whatever goes wrong with it ends this measurement only.
pub(crate) async fn measure(peer: Peer, row: &Row, lengths: Lengths, dir: &Path) -> Result<Measured, String> {
    let measured = AssertUnwindSafe(timeout(LONGEST, measure_it(peer, row, lengths, dir))).catch_unwind().await;
    match measured {
        Ok(Ok(measured)) => measured,
        Ok(Err(_)) => Err(format!("it took more than {LONGEST:?}")),
        Err(panic) => Err(text_of(&*panic)),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

async fn measure_it(peer: Peer, row: &Row, lengths: Lengths, dir: &Path) -> Result<Measured, String> {
    let mut server = peer.start(row.setup(), dir).await?;
    let mut loads = Loads::start(row.connections(), row.loads, dir);
    let mut measured = Measured::default();
    match row.kind {
        Kind::Saturated { payload, backlog } => {
            loads.connect(&server, row.rooms, row.members).await?;
            let busy = run(&mut loads, &server, payload, Pace::Backlog(backlog), lengths, &mut measured.faults).await;
            // One at a time has no half.
            if busy.deliveries == 0 {
                measured.faults.push("nothing came".to_owned());
            } else if backlog > 1 && measured.faults.is_empty() {
                let pace = Pace::Rate(busy.deliveries as f64 / busy.seconds / 2.0);
                measured.half = Some(run(&mut loads, &server, payload, pace, lengths, &mut measured.faults).await);
            }
            measured.busy = Some(busy);
        }
        Kind::Rate { payload, rate } => {
            loads.connect(&server, row.rooms, row.members).await?;
            let busy = run(&mut loads, &server, payload, Pace::Rate(rate), lengths, &mut measured.faults).await;
            measured.busy = Some(busy);
        }
        Kind::Connections { more } => measured.connections = Some(connections(&mut loads, &server, row, more).await?),
        Kind::Rush => measured.others = rush(&mut loads, &server, row).await?,
        Kind::Rooms { each } => measured.others = made(&mut loads, &mut server, row, each).await?,
        Kind::EmptyRooms { each } => measured.others = empty_rooms(&mut loads, &server, row, each).await?,
        Kind::Slots { more } => {
            let few = memory(&server, Part::Behind);
            drop(server);
            let setup = Setup { slots: row.slots + more, ..row.setup() };
            let many = memory(&peer.start(setup, dir).await?, Part::Behind);
            let seats = f64::from(more * row.replication);
            measured.others = named([("bytes a seat of an idle slot", (many - few) / seats)]);
        }
    }
    loads.close().await;
    Ok(measured)
}

async fn run(
    loads: &mut Loads,
    server: &Server,
    payload: usize,
    pace: Pace,
    lengths: Lengths,
    faults: &mut Vec<String>,
) -> Window {
    loads.publish(payload, pace);
    tokio::time::sleep(lengths.warm_up).await;
    let window = loads.window(server, lengths.window).await;
    let ending = loads.stop().await;
    faults.extend(ending.faults);
    if ending.late > lengths.window / 2 {
        faults.push(format!("the load could not keep up: a publish was {:.1?} late", ending.late));
    }
    window
}

fn named<const N: usize>(figures: [(&str, f64); N]) -> BTreeMap<String, f64> {
    figures.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect()
}

fn p99_ms(of: &Histogram) -> f64 {
    of.percentile(99.0).map_or(f64::NAN, |ns| ns as f64 / 1e6)
}

/// Resident bytes of the processes that are such a part.
fn memory(server: &Server, part: Part) -> f64 {
    let of = server.parts.iter().filter(|(p, _)| *p == part);
    of.map(|(_, pid)| usage::memory(*pid)).sum::<u64>() as f64
}

async fn rush(loads: &mut Loads, server: &Server, row: &Row) -> Result<BTreeMap<String, f64>, String> {
    let one_by_one = loads.connect(server, row.rooms, row.members).await?;
    tokio::time::sleep(SETTLE).await;
    loads.close().await;
    let cpu = Cpu::of(server);
    let all_at_once = loads.rush(server, row.rooms, row.members).await?;
    let cpu_ms = Cpu::of(server).since(cpu).total() * 1e3 / row.connections() as f64;
    Ok(named([
        ("s until everybody has joined, 64 at a time", one_by_one),
        ("s until everybody is back, all at once", all_at_once),
        ("CPU ms each to come back", cpu_ms),
    ]))
}

/// Makes rooms with one member each, beside those of the row; gives how long it took.
async fn make_rooms(loads: &mut Loads, server: &Server, row: &Row, each: usize) -> Result<f64, String> {
    loads.connect(server, row.rooms, row.members).await?;
    loads.subscribe(each).await
}

async fn made(loads: &mut Loads, server: &mut Server, row: &Row, each: usize) -> Result<BTreeMap<String, f64>, String> {
    loads.connect(server, row.rooms, row.members).await?;
    let rooms = (row.connections() * each) as f64;
    let cpu = Cpu::of(server);
    let joined = loads.subscribe(each).await?;
    let cpu_ms = Cpu::of(server).since(cpu).total() * 1e3 / rooms;
    let (calm, calm_latency) = loads.say().await?;
    let node = server.parts.iter().position(|(part, _)| *part == Part::Behind).ok_or("there is no node")?;
    let (_, pid) = server.parts.remove(node);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).map_err(|e| format!("a node can't be killed: {e}"))?;
    let (after, after_latency) = loads.say().await?;
    Ok(named([
        ("rooms made and joined a second", rooms / joined),
        ("CPU ms a room", cpu_ms),
        ("s for a message in every room", calm),
        ("its p99, ms", p99_ms(&calm_latency)),
        ("s for one in every room after a node's death", after),
        ("its p99 after a node's death, ms", p99_ms(&after_latency)),
    ]))
}

async fn empty_rooms(
    loads: &mut Loads,
    server: &Server,
    row: &Row,
    each: usize,
) -> Result<BTreeMap<String, f64>, String> {
    // A commit is what lets a slot's log go of what is too old: this brings one to nearly every slot.
    let stir = async |loads: &mut Loads| {
        tokio::time::sleep(LET_GO).await;
        make_rooms(loads, server, row, 4).await?;
        loads.close().await;
        tokio::time::sleep(LET_GO).await;
        Ok::<_, String>(memory(server, Part::Behind))
    };
    let burst = async |loads: &mut Loads| {
        make_rooms(loads, server, row, each).await?;
        loads.say().await?;
        loads.close().await;
        stir(loads).await
    };
    let none = stir(loads).await?;
    let first = burst(loads).await?;
    let second = burst(loads).await?;
    let copies = (row.connections() * each) as f64 * f64::from(row.replication);
    Ok(named([
        ("bytes an empty room with a message, each copy", (second - first) / copies),
        ("bytes each of as many before, with what the rush of them has left", (first - none) / copies),
    ]))
}

async fn connections(loads: &mut Loads, server: &Server, row: &Row, more: usize) -> Result<Connections, String> {
    let count = row.connections() as f64;
    tokio::time::sleep(SETTLE).await;
    let before = [memory(server, Part::Edge), memory(server, Part::Behind)];
    let cpu = Cpu::of(server);
    let seconds = loads.connect(server, row.rooms, row.members).await?;
    let cpu_ms = Cpu::of(server).since(cpu).total() * 1e3 / count;
    tokio::time::sleep(SETTLE).await;
    let edge_bytes = (memory(server, Part::Edge) - before[0]) / count;
    let bytes = edge_bytes + (memory(server, Part::Behind) - before[1]) / count;
    let mut subscribe_ms = None;
    if more > 0 {
        let cpu = Cpu::of(server);
        // A server with one room for each connection has no such figure.
        if loads.subscribe(more).await.is_ok() {
            subscribe_ms = Some(Cpu::of(server).since(cpu).total() * 1e3 / count / more as f64);
        }
    }
    Ok(Connections { a_second: count / seconds, cpu_ms, edge_bytes, bytes, subscribe_ms })
}
