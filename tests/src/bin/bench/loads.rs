//! The load processes, as the benchmark sees them.

use std::io::Write;
use std::path::Path;
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use roomring_tests::Process;

use crate::histogram::Histogram;
use crate::load::dialect::Dialect;
use crate::load::order::{Crowd, Order, Pace, Report};
use crate::peers::{Part, Server};
use crate::usage;

/// Connections of one process: half of what a process may have open where that is least.
const PER_PROCESS: usize = 10_000;
/// Until everybody is connected.
const CONNECT: Duration = Duration::from_secs(180);
/// An answer that takes no work.
const ANSWER: Duration = Duration::from_secs(60);
/// Connections that a process makes at the same time.
const AT_ONCE: usize = 64;

/// Load processes with their connections.
pub(crate) struct Loads {
    loads: Vec<Load>,
}

struct Load {
    process: Process,
    stdin: ChildStdin,
}

/// CPU seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// Of the processes with clients' sockets.
    pub(crate) edge: f64,
    /// Of those behind.
    pub(crate) behind: f64,
    /// Of etcd.
    pub(crate) etcd: f64,
}

impl Cpu {
    /// Since a server's processes began.
    pub(crate) fn of(server: &Server) -> Self {
        let sum = |part| server.parts.iter().filter(|(p, _)| *p == part).map(|(_, pid)| usage::cpu(*pid)).sum();
        Self { edge: sum(Part::Edge), behind: sum(Part::Behind), etcd: sum(Part::Etcd) }
    }

    /// Since an earlier time.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { edge: self.edge - before.edge, behind: self.behind - before.behind, etcd: self.etcd - before.etcd }
    }

    /// Of all but etcd.
    pub(crate) fn total(self) -> f64 {
        self.edge + self.behind
    }
}

/// What happened in a stretch of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    /// Its length.
    pub(crate) seconds: f64,
    /// Deliveries in it.
    pub(crate) deliveries: u64,
    /// Reads of the clients that brought them.
    pub(crate) reads: u64,
    /// CPU seconds of the server's processes.
    pub(crate) cpu: Cpu,
    /// CPU seconds of the load processes.
    pub(crate) load: f64,
    /// ns from publish to delivery.
    pub(crate) latency: Histogram,
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// Why it does not count; empty if everything arrived.
    pub(crate) faults: Vec<String>,
    /// How late the latest publish at a given rate was.
    pub(crate) late: Duration,
}

/// Load processes that so many connections take.
pub(crate) fn needed(connections: usize) -> usize {
    connections.div_ceil(PER_PROCESS)
}

impl Loads {
    /// Starts processes for so many connections, and so many at least.
    pub(crate) fn start(connections: usize, least: usize, dir: &Path) -> Self {
        let exe = std::env::current_exe().expect("path of this program");
        let start = |n: usize| {
            let log = dir.join(format!("load-{n}.log"));
            let mut process =
                Process::start_with(&format!("load-{n}"), &exe, &["load"], &log, std::process::Stdio::piped());
            let stdin = process.take_stdin().expect("piped");
            Load { process, stdin }
        };
        Self { loads: (0..needed(connections).max(least)).map(start).collect() }
    }

    /// Connects members to rooms, spread over the processes; gives how long it took.
    pub(crate) async fn connect(&mut self, server: &Server, rooms: usize, members: usize) -> Result<f64, String> {
        self.crowd(server, rooms, members, AT_ONCE).await
    }

    /// As [`Self::connect`], all at the same moment.
    pub(crate) async fn rush(&mut self, server: &Server, rooms: usize, members: usize) -> Result<f64, String> {
        self.crowd(server, rooms, members, usize::MAX).await
    }

    async fn crowd(&mut self, server: &Server, rooms: usize, members: usize, at_once: usize) -> Result<f64, String> {
        let count = self.loads.len();
        for (n, load) in self.loads.iter_mut().enumerate() {
            let (first, next) = (rooms * n / count, rooms * (n + 1) / count);
            let targets = match server.dialect {
                Dialect::Floor => vec![server.targets[n]],
                _ => server.targets.clone(),
            };
            load.tell(&Order::Connect(Crowd {
                dialect: server.dialect,
                targets,
                // Far apart: a process may subscribe to more rooms behind its own.
                first_room: n * 10_000_000 + first,
                rooms: next - first,
                members,
                at_once,
                source: n as u8 + 1,
            }));
        }
        self.connected().await
    }

    /// Subscribes every connection to more rooms; gives how long it took.
    pub(crate) async fn subscribe(&mut self, more: usize) -> Result<f64, String> {
        self.tell(&Order::Subscribe { more });
        self.connected().await
    }

    /// Publishes in each of those rooms once; gives how long it took, and from publish to delivery in ns.
    pub(crate) async fn say(&mut self) -> Result<(f64, Histogram), String> {
        self.tell(&Order::Say);
        let (mut longest, mut all) = (0.0_f64, Histogram::default());
        for load in &mut self.loads {
            match load.told("everything said", CONNECT).await {
                Report::Said { due, came, seconds, latency, faults } => {
                    if due != came || !faults.is_empty() {
                        return Err(format!("{came} of {due} messages came: {}", faults.join("; ")));
                    }
                    longest = longest.max(seconds);
                    all.add(&latency);
                }
                other => return Err(format!("unexpected {other:?}")),
            }
        }
        Ok((longest, all))
    }

    async fn connected(&mut self) -> Result<f64, String> {
        let mut longest = 0.0_f64;
        for load in &mut self.loads {
            match load.told("everybody to be connected", CONNECT).await {
                Report::Connected { seconds } => longest = longest.max(seconds),
                Report::Failed(why) => return Err(why),
                other => panic!("unexpected {other:?}"),
            }
        }
        Ok(longest)
    }

    /// Begins to publish. A backlog and a rate are for all processes together.
    pub(crate) fn publish(&mut self, payload: usize, pace: Pace) {
        let share = self.loads.len();
        let pace = match pace {
            Pace::Backlog(most) => Pace::Backlog(most.div_ceil(share as u64)),
            Pace::Rate(rate) => Pace::Rate(rate / share as f64),
        };
        self.tell(&Order::Run { payload, pace });
    }

    /// Looks on for some time.
    pub(crate) async fn window(&mut self, server: &Server, length: Duration) -> Window {
        self.mark().await;
        let (start, before, load) = (Instant::now(), Cpu::of(server), self.cpu());
        tokio::time::sleep(length).await;
        let mut window = self.mark().await;
        window.cpu = Cpu::of(server).since(before);
        window.load = self.cpu() - load;
        window.seconds = start.elapsed().as_secs_f64();
        window
    }

    fn cpu(&self) -> f64 {
        self.loads.iter().map(|l| usage::cpu(l.process.pid())).sum()
    }

    async fn mark(&mut self) -> Window {
        self.tell(&Order::Mark);
        let mut window = Window::default();
        for load in &mut self.loads {
            match load.told("what came", ANSWER).await {
                Report::Marked { deliveries, reads, latency } => {
                    window.deliveries += deliveries;
                    window.reads += reads;
                    window.latency.add(&latency);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        window
    }

    /// Ends the publishing and checks that everything arrived.
    pub(crate) async fn stop(&mut self) -> Ending {
        self.tell(&Order::Stop);
        let mut ending = Ending::default();
        for load in &mut self.loads {
            match load.told("everything under way", ANSWER).await {
                Report::Stopped { due, came, wrong, faults, late } => {
                    if due != came || wrong > 0 {
                        ending
                            .faults
                            .push(format!("{came} of {due} deliveries came, {wrong} members have a wrong count"));
                    }
                    ending.faults.extend(faults);
                    ending.late = ending.late.max(Duration::from_nanos(late));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        ending
    }

    /// Ends all connections.
    pub(crate) async fn close(&mut self) {
        self.tell(&Order::Close);
        for load in &mut self.loads {
            while !matches!(load.told("the end of connections", ANSWER).await, Report::Closed) {}
        }
    }

    fn tell(&mut self, order: &Order) {
        self.loads.iter_mut().for_each(|load| load.tell(order));
    }
}

impl Load {
    fn tell(&mut self, order: &Order) {
        let line = serde_json::to_string(order).expect("orders are plain data");
        writeln!(self.stdin, "{line}").unwrap_or_else(|e| panic!("{}: {e}", self.process.tail()));
    }

    async fn told(&mut self, what: &str, limit: Duration) -> Report {
        let line = self.process.line(what, limit).await;
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }
}
