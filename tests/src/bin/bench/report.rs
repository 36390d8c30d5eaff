//! What was measured, over all runs, and its medians.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::loads::Window;
use crate::measure::Measured;
use crate::peers::Peer;
use crate::rows::Row;

/// Everything measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    cells: BTreeMap<(&'static str, Peer), Runs>,
}

/// The runs of one server at one row.
#[derive(Debug, Default)]
struct Runs {
    figures: Vec<Figures>,
    faults: Vec<String>,
}

/// Figures of one run, or the median of each; `None` where a row has no such figure.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// CPU seconds of the server per million deliveries, as a multiple of the floor's.
    pub(crate) times_floor: Option<f64>,
    /// CPU seconds of the server per million deliveries.
    pub(crate) cpu: Option<f64>,
    /// Those of the processes with clients' sockets alone.
    pub(crate) cpu_edge: Option<f64>,
    /// The floor's.
    pub(crate) cpu_floor: Option<f64>,
    /// etcd's.
    pub(crate) cpu_etcd: Option<f64>,
    /// Deliveries a second.
    pub(crate) rate: Option<f64>,
    /// Deliveries in a read of a client: how much was gathered.
    pub(crate) gathered: Option<f64>,
    /// Latencies in ms.
    pub(crate) latency: [Option<f64>; 3],
    /// Latencies in ms at half of the rate.
    pub(crate) half: [Option<f64>; 3],
    /// Connections a second.
    pub(crate) connects: Option<f64>,
    /// CPU ms of a new connection with its first join.
    pub(crate) connect_ms: Option<f64>,
    /// KiB per idle joined connection, of the processes with clients' sockets.
    pub(crate) edge_kib: Option<f64>,
    /// KiB per idle joined connection, all processes.
    pub(crate) kib: Option<f64>,
    /// CPU ms of one more subscribe.
    pub(crate) subscribe_ms: Option<f64>,
    /// What else there is to say, by its name.
    #[serde(default)]
    pub(crate) others: BTreeMap<String, f64>,
}

/// The percentiles of latencies.
pub(crate) const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The row's name.
    pub(crate) row: String,
    /// The row for people.
    pub(crate) title: String,
    /// The server.
    pub(crate) peer: String,
    /// Runs that the medians are of.
    pub(crate) runs: usize,
    /// The medians.
    pub(crate) median: Figures,
    /// What went wrong, or why the server was not there. A line with a fault proves nothing.
    pub(crate) faults: Vec<String>,
}

impl Results {
    /// Takes one run.
    pub(crate) fn add(
        &mut self,
        row: &Row,
        peer: Peer,
        floor: Result<Measured, String>,
        measured: Result<Measured, String>,
    ) {
        let runs = self.cells.entry((row.name, peer)).or_default();
        let (floor, measured) = match (floor, measured) {
            (Ok(floor), Ok(measured)) => (floor, measured),
            (floor, measured) => {
                let floor = floor.err().map(|why| format!("floor: {why}"));
                runs.faults.extend([floor, measured.err()].into_iter().flatten());
                return;
            }
        };
        runs.figures.push(Figures::of(&floor, &measured));
        runs.faults.extend(floor.faults.iter().map(|f| format!("floor: {f}")));
        runs.faults.extend(measured.faults);
    }

    /// The lines of a row.
    pub(crate) fn lines(&self, row: &Row) -> Vec<Line> {
        let cells = self.cells.iter().filter(|((name, _), _)| *name == row.name);
        let line = |((_, peer), runs): (&(&str, Peer), &Runs)| Line {
            row: row.name.to_owned(),
            title: row.title.to_owned(),
            peer: peer.name().to_owned(),
            runs: runs.figures.len(),
            median: Figures::median(&runs.figures),
            faults: runs.faults.clone(),
        };
        cells.map(line).collect()
    }
}

impl Figures {
    fn of(floor: &Measured, measured: &Measured) -> Self {
        let mut figures = Self::default();
        if let Some(busy) = &measured.busy {
            let per_million = |cpu: f64, w: &Window| cpu / (w.deliveries as f64 / 1e6);
            let cpu = per_million(busy.cpu.total(), busy);
            figures.cpu = Some(cpu);
            figures.cpu_edge = Some(per_million(busy.cpu.edge, busy));
            figures.cpu_etcd = Some(per_million(busy.cpu.etcd, busy));
            figures.cpu_floor = floor.busy.as_ref().map(|w| per_million(w.cpu.total(), w));
            figures.times_floor = figures.cpu_floor.map(|floor| cpu / floor);
            figures.rate = Some(busy.deliveries as f64 / busy.seconds);
            figures.gathered = Some(busy.deliveries as f64 / busy.reads as f64);
            figures.latency = percentiles(busy);
            figures.half = measured.half.as_ref().map(percentiles).unwrap_or_default();
        }
        if let Some(connections) = &measured.connections {
            figures.connects = Some(connections.a_second);
            figures.connect_ms = Some(connections.cpu_ms);
            figures.edge_kib = Some(connections.edge_bytes / 1024.0);
            figures.kib = Some(connections.bytes / 1024.0);
            figures.subscribe_ms = connections.subscribe_ms;
        }
        figures.others.clone_from(&measured.others);
        figures
    }

    fn median(of: &[Self]) -> Self {
        let names: BTreeSet<&String> = of.iter().flat_map(|f| f.others.keys()).collect();
        let middle = |get: &dyn Fn(&Self) -> Option<f64>| median(of.iter().filter_map(get).collect());
        Self {
            times_floor: middle(&|f| f.times_floor),
            cpu: middle(&|f| f.cpu),
            cpu_edge: middle(&|f| f.cpu_edge),
            cpu_floor: middle(&|f| f.cpu_floor),
            cpu_etcd: middle(&|f| f.cpu_etcd),
            rate: middle(&|f| f.rate),
            gathered: middle(&|f| f.gathered),
            latency: std::array::from_fn(|n| middle(&|f| f.latency[n])),
            half: std::array::from_fn(|n| middle(&|f| f.half[n])),
            connects: middle(&|f| f.connects),
            connect_ms: middle(&|f| f.connect_ms),
            edge_kib: middle(&|f| f.edge_kib),
            kib: middle(&|f| f.kib),
            subscribe_ms: middle(&|f| f.subscribe_ms),
            others: names
                .into_iter()
                .filter_map(|n| Some((n.clone(), middle(&|f| f.others.get(n).copied())?)))
                .collect(),
        }
    }
}

fn percentiles(window: &Window) -> [Option<f64>; 3] {
    PERCENTILES.map(|p| window.latency.percentile(p).map(|ns| ns as f64 / 1e6))
}

/// The middle; of an even number the lower of two.
fn median(mut of: Vec<f64>) -> Option<f64> {
    of.sort_by(f64::total_cmp);
    of.get(of.len().checked_sub(1)? / 2).copied()
}
