//! One measurement of one server.

use std::path::Path;
use std::time::Duration;

use crate::load::order::Pace;
use crate::loads::{Cpu, Loads, Window};
use crate::peers::{Part, Peer, Server};
use crate::rows::{Kind, Row};
use crate::usage;

/// Until a server that was just connected to has freed what only connecting took.
const SETTLE: Duration = Duration::from_secs(3);

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

/// Starts a server, connects everybody, and measures.
pub(crate) async fn measure(peer: Peer, row: &Row, lengths: Lengths, dir: &Path) -> Result<Measured, String> {
    let server = peer.start(row.setup(), dir).await?;
    let mut loads = Loads::start(row.connections(), dir);
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

async fn connections(loads: &mut Loads, server: &Server, row: &Row, more: usize) -> Result<Connections, String> {
    let memory = |part| {
        let of = server.parts.iter().filter(|(p, _)| *p == part);
        of.map(|(_, pid)| usage::memory(*pid)).sum::<u64>() as f64
    };
    let count = row.connections() as f64;
    tokio::time::sleep(SETTLE).await;
    let before = [memory(Part::Edge), memory(Part::Behind)];
    let cpu = Cpu::of(server);
    let seconds = loads.connect(server, row.rooms, row.members).await?;
    let cpu_ms = Cpu::of(server).since(cpu).total() * 1e3 / count;
    tokio::time::sleep(SETTLE).await;
    let edge_bytes = (memory(Part::Edge) - before[0]) / count;
    let bytes = edge_bytes + (memory(Part::Behind) - before[1]) / count;
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
