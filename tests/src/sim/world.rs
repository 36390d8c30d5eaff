//! The scheduler: everything that happens, in virtual time, in an order that the seed alone decides.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomring_control::clock::Time;
use roomring_proto::{Incarnation, RoomId};
use roomring_router::hub::api::Command;

use super::checks::Checks;
use super::client::{Client, Mood};
use super::etcd::{Etcd, Reply, Request, Snapshot};
use super::faults::Harshness;
use super::interrupt::{Interrupt, Progress};
use super::net::{Message, Net};
use super::node::{Do, Judge, Node, SELF};
use super::router::Router;
use super::{FENCE, Mutant, Options, ROOMS, SLOTS, TTL};
use crate::checker::{self, Claim, Line, Recording, What};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(25);
/// What it takes until all is well again at most: lost slots are recreated, everybody has caught up.
const HEALING: Duration = Duration::from_secs(30);
/// Longer than any answer takes.
const ANSWERS: Duration = Duration::from_secs(8);
/// In this time nothing moves any more.
const QUIET: Duration = Duration::from_secs(5);
/// The first of those numbers by which what happens in one moment is in order.
const FIRST_ORDER: u64 = 1 << 32;
/// Steps in which no run is without an end.
const STEPS: u64 = 3_000_000;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Node(usize),
    Router(usize),
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Wake(Who, u64),
    Deliver {
        conn: u64,
        to: usize,
        message: Message,
    },
    Up {
        conn: u64,
        to: usize,
    },
    Down {
        conn: u64,
        to: usize,
    },
    Dialed {
        who: Who,
        life: u64,
        target: Incarnation,
    },
    Own {
        node: usize,
        life: u64,
        message: Message,
    },
    AtEtcd {
        node: usize,
        life: u64,
        request: Request,
    },
    FromEtcd {
        node: usize,
        life: u64,
        reply: Reply,
    },
    Watch {
        who: Who,
        life: u64,
        snapshot: Arc<Snapshot>,
    },
    Asked {
        who: Who,
        life: u64,
        by: (usize, u64),
        about: Incarnation,
    },
    Opinion {
        node: usize,
        life: u64,
        about: Incarnation,
        silent_for: Option<Duration>,
    },
    Client(usize),
    /// What a client sent while its router hung.
    Command {
        router: usize,
        life: u64,
        command: Command,
    },
    Leases,
    Fault,
    EtcdBack,
    Restart(Who),
}

/// What a run found.
#[derive(Debug)]
pub struct Failure {
    /// Of this run.
    pub seed: u64,
    /// What is wrong.
    pub text: String,
    /// Steps up to there, if asked for.
    pub trace: Vec<String>,
    /// What the clients did and were told up to there.
    pub recording: Recording,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.text)?;
        write!(f, "to see every step of it: make sim SEED={}", self.seed)
    }
}

/// What happened in a good run.
#[derive(Debug, Default)]
pub struct Report {
    /// Events handled.
    pub steps: u64,
    /// How often something happened that a run should show.
    pub seen: BTreeMap<String, u64>,
    /// Every step, if asked for.
    pub trace: Vec<String>,
    /// What the clients did and were told.
    pub recording: Recording,
}

pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    order: u64,
    /// The same of what comes before all else of its moment.
    order_first: u64,
    pub(super) net: Net,
    pub(super) etcd: Etcd,
    pub(super) nodes: Vec<Node>,
    pub(super) routers: Vec<Router>,
    clients: Vec<Client>,
    pub(super) harshness: Harshness,
    pub(super) judge: Judge,
    pub(super) partitions: Vec<(Who, Who, Time)>,
    pub(super) no_etcd: BTreeMap<Who, Time>,
    /// Where each node's process ran or runs.
    hosts: BTreeMap<Incarnation, usize>,
    wakes: BTreeMap<Who, Time>,
    checks: Checks,
    mood: Mood,
    trouble: bool,
    pub(super) options: Options,
    pub(super) interrupt: Option<Interrupt>,
    pub(super) progress: Progress,
    pub(super) last_writer: Option<usize>,
    report: Report,
}

/// Runs one seed.
///
/// # Errors
/// What a check found.
pub fn run(seed: u64, options: Options) -> Result<Report, Failure> {
    let mut world = World::new(seed, options);
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    match lived.unwrap_or_else(|panic| Err(format!("panic: {}", text_of(panic.as_ref())))) {
        Ok(()) => Ok(world.report),
        Err(text) => Err(Failure { seed, text, trace: world.report.trace, recording: world.report.recording }),
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let harshness =
            if rng.random_bool(0.4) || options.interrupt.is_some() { Harshness::Gentle } else { Harshness::Harsh };
        let replication = if rng.random_bool(0.3) && options.interrupt.is_none() { 3 } else { 2 };
        let judge = if rng.random_bool(0.6) { Judge::Detector } else { Judge::Haste };
        let names = ["ant", "bee", "cat", "dog"];
        let nodes = names.iter().map(|n| Node::new(n, replication, options.mutant, judge)).collect();
        Self {
            rng,
            now: Time(Duration::from_secs(1000)),
            queue: BTreeMap::new(),
            order: FIRST_ORDER,
            order_first: 0,
            net: Net::default(),
            etcd: Etcd::default(),
            nodes,
            routers: Vec::new(),
            clients: (0..4).map(|index| Client::new(index, options.mutant)).collect(),
            harshness,
            judge,
            partitions: Vec::new(),
            no_etcd: BTreeMap::new(),
            hosts: BTreeMap::new(),
            wakes: BTreeMap::new(),
            checks: Checks::default(),
            mood: Mood::Lively,
            trouble: true,
            options,
            interrupt: options.interrupt,
            progress: Progress::default(),
            last_writer: None,
            report: Report::default(),
        }
    }

    /// The whole run.
    fn live(&mut self) -> Result<(), String> {
        for life in 1..=2 {
            let me = Incarnation(self.etcd.rise().unsigned_abs());
            self.routers.push(Router::new(life, me, self.now, self.options.mutant));
        }
        for node in 0..3 {
            self.after(Duration::from_millis(node), Event::Restart(Who::Node(usize::try_from(node).unwrap_or(0))));
        }
        // The last one joins later.
        self.after(Duration::from_secs(5), Event::Restart(Who::Node(3)));
        for client in 0..self.clients.len() {
            self.after(Duration::from_millis(500), Event::Client(client));
        }
        self.after(Duration::ZERO, Event::Leases);
        if self.interrupt.is_none() {
            self.after(Duration::from_secs(2), Event::Fault);
        }
        for router in 0..self.routers.len() {
            self.plan_wake(Who::Router(router));
        }
        if self.harshness == Harshness::Gentle {
            self.report.recording.say(What::Claimed { claim: Claim::NoLoss });
        }
        if self.options.routers_stay {
            self.report.recording.say(What::Claimed { claim: Claim::SocketsStay });
        }

        self.go(TROUBLE)?;
        self.trouble = false;
        self.say("healed", String::new);
        self.heal();
        self.go(HEALING)?;
        self.mood = Mood::Still;
        self.go(ANSWERS)?;
        self.serves()?;
        self.go(ANSWERS)?;
        let version = self.etcd.now.placement.as_ref().map(|p| p.version);
        self.go(QUIET)?;
        if self.etcd.now.placement.as_ref().map(|p| p.version) != version {
            return Err("PlacementQuiesces: it still changes".into());
        }
        let learns = self.etcd.now.placement.iter().flat_map(|p| &p.slots).any(|s| !s.learners.is_empty());
        if learns {
            return Err("PlacementQuiesces: a move has not ended".into());
        }
        self.judge()
    }

    /// Everybody is in everywhere, and everybody is heard.
    fn serves(&mut self) -> Result<(), String> {
        for client in 0..self.clients.len() {
            self.clients[client].is_settled().map_err(|e| format!("EventuallyServes: {e}"))?;
            for room in ROOMS {
                let handle = self.clients[client].handle.clone().ok_or("EventuallyServes: not connected")?;
                let now = self.now;
                let command = self.clients[client].publish(now, room, handle);
                self.command(client, command)?;
            }
        }
        Ok(())
    }

    fn judge(&mut self) -> Result<(), String> {
        for client in &self.clients {
            client.is_settled().map_err(|e| format!("EventuallyServes: {e}"))?;
        }
        self.report.recording.say(What::Calm);
        for room in ROOMS {
            for client in 0..self.clients.len() {
                let handle = self.clients[client].handle.clone().ok_or("not connected")?;
                let command = self.clients[client].ask_presence(room, handle);
                self.command(client, command)?;
            }
        }
        self.go(ANSWERS)?;
        if self.clients.iter().any(|c| c.unanswered() > 0) {
            return Err("EventuallyServes: presence was not told".into());
        }
        let violations = checker::violations(&self.report.recording);
        if let Some(first) = violations.first() {
            return Err(format!("{first} ({} violations)", violations.len()));
        }
        let history = checker::History::of(&self.report.recording);
        // The last words of everybody in every room.
        let last = history.publishes.iter().rev().take(self.clients.len() * ROOMS.len());
        if let Some(lost) = last.clone().find(|p| !p.is_acked()) {
            return Err(format!(
                "EventuallyServes: {} of {} was not taken: {:?}",
                lost.data, lost.client, lost.answers
            ));
        }
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let acked = history.publishes.iter().filter(|p| p.is_acked()).count();
        let unknown =
            history.publishes.iter().flat_map(|p| &p.answers).filter(|(_, a)| *a == checker::Answer::Unknown).count();
        let recovered = history.spans.iter().filter(|s| s.recovered).count();
        let unrecovered = history.spans.iter().filter(|s| s.was_recovering && !s.recovered).count();
        let recreated = self.etcd.now.placement.iter().flat_map(|p| &p.slots).map(|r| r.generation.0 - 1).sum();
        let terms = self.etcd.now.placement.iter().flat_map(|p| &p.slots).map(|r| r.term.0 - 1).sum();
        for (what, n) in [
            ("acknowledged", count(acked)),
            ("unknown", count(unknown)),
            ("recovered", count(recovered)),
            ("not recovered", count(unrecovered)),
            ("entries committed", count(self.checks.entries())),
            ("slots recreated", recreated),
            ("terms", terms),
            ("placements", count(self.etcd.written.len())),
        ] {
            *self.report.seen.entry(what.to_owned()).or_default() += n;
        }
        Ok(())
    }

    /// Lets virtual time pass.
    fn go(&mut self, time: Duration) -> Result<(), String> {
        let until = self.now + time;
        while let Some(next) = self.queue.first_entry().filter(|e| e.key().0 <= until) {
            let ((at, order), event) = next.remove_entry();
            self.now = self.now.max(at);
            if let Some(paused_until) = self.paused_until(&event).filter(|at| *at > self.now) {
                self.queue.insert((paused_until, order), event);
                continue;
            }
            self.report.steps += 1;
            if self.report.steps > STEPS {
                return Err("it spins: too many steps".into());
            }
            if self.options.trace {
                let line = format!("{:>12.6} {event:?}", self.now.0.as_secs_f64() - 1000.0);
                self.report.trace.push(line);
            }
            self.before(&event);
            self.handle(event)?;
            if !self.options.black_box {
                self.checks.cluster(&self.nodes, &self.etcd.written)?;
            }
        }
        self.now = until;
        Ok(())
    }

    /// Whose event it is.
    fn target(&self, event: &Event) -> Option<(Who, u64)> {
        match event {
            Event::Wake(who, life) | Event::Watch { who, life, .. } | Event::Asked { who, life, .. } => {
                Some((*who, *life))
            }
            Event::Deliver { conn, to, .. } | Event::Up { conn, to } | Event::Down { conn, to } => {
                self.net.conns.get(conn).map(|c| c.ends[*to])
            }
            Event::Own { node, life, .. } | Event::FromEtcd { node, life, .. } | Event::Opinion { node, life, .. } => {
                Some((Who::Node(*node), *life))
            }
            Event::Command { router, life, .. } => Some((Who::Router(*router), *life)),
            Event::Dialed { .. }
            | Event::AtEtcd { .. }
            | Event::Client(_)
            | Event::Leases
            | Event::Fault
            | Event::EtcdBack
            | Event::Restart(_) => None,
        }
    }

    fn paused_until(&self, event: &Event) -> Option<Time> {
        match self.target(event)?.0 {
            Who::Node(n) => Some(self.nodes[n].paused_until),
            Who::Router(r) => Some(self.routers[r].paused_until),
        }
    }

    fn is_alive(&self, who: Who, life: u64) -> bool {
        match who {
            Who::Node(n) => self.nodes[n].up && self.nodes[n].life == life,
            Who::Router(r) => self.routers[r].up && self.routers[r].life == life,
        }
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    /// Counts something, and notes it.
    pub(super) fn say(&mut self, what: &str, details: impl FnOnce() -> String) {
        *self.report.seen.entry(what.to_owned()).or_default() += 1;
        if self.options.trace {
            let line = format!("{:>12.6} {what} {}", self.now.0.as_secs_f64() - 1000.0, details());
            self.report.trace.push(line);
        }
    }

    fn latency(&mut self) -> Duration {
        let us = if self.rng.random_bool(0.97) {
            self.rng.random_range(100..3_000)
        } else {
            self.rng.random_range(3_000..120_000)
        };
        Duration::from_micros(us)
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.now.0.as_millis()).unwrap_or(u64::MAX)
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        if let Some((who, life)) = self.target(&event)
            && !self.is_alive(who, life)
        {
            return Ok(());
        }
        let (now, wall) = (self.now, self.wall_ms());
        let mut todo = Vec::new();
        match event {
            Event::Wake(who, _) => {
                if self.wakes.get(&who).is_none_or(|at| *at > now) {
                    return Ok(());
                }
                self.wakes.remove(&who);
                match who {
                    Who::Node(n) => self.nodes[n].wake(now, wall, &mut todo),
                    Who::Router(r) => self.routers[r].wake(now, &mut todo),
                }
                return self.done(who, todo);
            }
            Event::Deliver { conn, to, message } => {
                let (who, _) = self.net.conns[&conn].ends[to];
                if self.net.conns[&conn].cut[to].is_some_and(|cut| now > cut) {
                    return Ok(());
                }
                match who {
                    Who::Node(n) => self.nodes[n].message(now, wall, conn, message, &mut todo),
                    Who::Router(r) => self.routers[r].message(now, conn, message, &mut todo),
                }
                return self.done(who, todo);
            }
            Event::Own { node, message, .. } => {
                self.nodes[node].message(now, wall, SELF, message, &mut todo);
                return self.done(Who::Node(node), todo);
            }
            Event::Up { conn, to } => return self.up(conn, to),
            Event::Down { conn, to } => return self.down(conn, to),
            Event::Dialed { who, life, target } => {
                if self.is_alive(who, life) {
                    return self.dialed(who, life, target);
                }
            }
            Event::Asked { who, by: (node, life), about, .. } => {
                let silent_for = match who {
                    Who::Node(n) => self.nodes[n].silent_for(now, about),
                    Who::Router(r) => self.routers[r].ears.silent_for(now, about),
                };
                let delay = self.latency();
                if !self.are_apart(who, Who::Node(node)) {
                    self.after(delay, Event::Opinion { node, life, about, silent_for });
                }
            }
            Event::Opinion { node, about, silent_for, .. } => {
                self.nodes[node].opinion(now, about, silent_for, &mut todo);
                return self.done(Who::Node(node), todo);
            }
            Event::AtEtcd { node, life, request } => self.at_etcd(node, life, &request),
            Event::FromEtcd { node, reply, .. } => {
                self.nodes[node].reply(now, wall, reply, &mut todo);
                return self.done(Who::Node(node), todo);
            }
            Event::Watch { who, snapshot, .. } => {
                match who {
                    Who::Node(n) => self.nodes[n].watched(now, wall, &snapshot, &mut todo),
                    Who::Router(r) => self.routers[r].watched(now, &snapshot, &mut todo),
                }
                return self.done(who, todo);
            }
            Event::Client(client) => return self.client(client),
            Event::Command { router, command, .. } => return self.hand_in(router, command),
            Event::Leases => {
                if self.etcd.expire(now) {
                    self.say("a registration lapses", String::new);
                    self.publish_etcd();
                }
                self.after(Duration::from_millis(100), Event::Leases);
            }
            Event::Fault => {
                if self.trouble {
                    self.fault();
                    let pause = Duration::from_millis(self.rng.random_range(50..1_500));
                    self.after(pause, Event::Fault);
                }
            }
            Event::EtcdBack => {
                if self.etcd.away {
                    self.etcd.come_back(now);
                }
            }
            Event::Restart(who) => self.restart(who),
        }
        Ok(())
    }

    /// Does what a process wanted, after it was given something.
    fn done(&mut self, who: Who, todo: Vec<Do>) -> Result<(), String> {
        if let Who::Node(n) = who
            && !self.options.black_box
        {
            self.checks.node(&self.nodes[n])?;
        }
        for wish in todo {
            let life = self.life(who);
            match wish {
                Do::Send { conn: SELF, message } => {
                    let Who::Node(node) = who else { continue };
                    self.after(Duration::from_micros(10), Event::Own { node, life, message });
                }
                Do::Send { conn, message } => {
                    let at = self.now + self.latency();
                    let Some(to) = self.net.end_of(conn, who).map(|end| 1 - end) else { continue };
                    if let Some(at) = self.net.send(conn, to, at) {
                        self.at(at, Event::Deliver { conn, to, message });
                    }
                }
                Do::Ask(request) => {
                    let Who::Node(node) = who else { continue };
                    let mut delay = self.latency();
                    if matches!(request, Request::Propose { .. }) && self.rng.random_bool(0.05) {
                        // Lands long after its proposer gave up.
                        delay = Duration::from_millis(self.rng.random_range(500..4_000));
                        self.say("a write is late", String::new);
                    }
                    self.after(delay, Event::AtEtcd { node, life, request });
                }
                Do::Dial(target) => {
                    let delay = self.latency();
                    self.after(delay, Event::Dialed { who, life, target });
                }
                Do::Break(conn) => {
                    if let Some(end) = self.net.end_of(conn, who) {
                        self.cut(conn, end, Duration::ZERO, true);
                        let after = self.latency();
                        self.cut(conn, 1 - end, after, true);
                    }
                }
                Do::AskAround(about) => self.ask_around(who, about),
                Do::Say(what) => self.say(&what, String::new),
                Do::Exit => {
                    self.crash(who);
                    self.after(Duration::from_millis(100), Event::Restart(who));
                    break;
                }
            }
        }
        self.plan_wake(who);
        self.read_clients(who)
    }

    fn life(&self, who: Who) -> u64 {
        match who {
            Who::Node(n) => self.nodes[n].life,
            Who::Router(r) => self.routers[r].life,
        }
    }

    fn plan_wake(&mut self, who: Who) {
        let due = match who {
            Who::Node(n) if self.nodes[n].up => self.nodes[n].next_deadline(),
            Who::Router(r) if self.routers[r].up => self.routers[r].next_deadline(),
            _ => return,
        };
        // As workers do: never without any rest.
        let due = due.max(self.now + Duration::from_millis(1));
        if self.wakes.get(&who).is_none_or(|at| *at > due) {
            self.wakes.insert(who, due);
            let life = self.life(who);
            self.at(due, Event::Wake(who, life));
        }
    }

    fn read_clients(&mut self, who: Who) -> Result<(), String> {
        let Who::Router(router) = who else { return Ok(()) };
        for client in self.clients.iter_mut().filter(|c| c.router == Some(router)) {
            client.read(self.now)?;
            self.report.recording.lines.append(&mut client.lines);
        }
        Ok(())
    }

    fn are_apart(&self, a: Who, b: Who) -> bool {
        self.partitions.iter().any(|(x, y, until)| *until > self.now && ((*x, *y) == (a, b) || (*y, *x) == (a, b)))
    }

    /// A node asks everybody else of whom it knows what they hear of another one.
    fn ask_around(&mut self, who: Who, about: Incarnation) {
        let Who::Node(asker) = who else { return };
        let by = (asker, self.nodes[asker].life);
        let nodes = (0..self.nodes.len()).filter(|n| *n != asker && self.nodes[*n].me != Some(about)).map(Who::Node);
        let others: Vec<Who> = nodes.chain((0..self.routers.len()).map(Who::Router)).collect();
        for other in others {
            let life = self.life(other);
            if self.is_alive(other, life) && !self.are_apart(who, other) {
                let delay = self.latency();
                self.after(delay, Event::Asked { who: other, life, by, about });
            }
        }
    }

    fn dialed(&mut self, who: Who, life: u64, target: Incarnation) -> Result<(), String> {
        let there = self.nodes.iter().position(|n| n.up && n.me == Some(target) && n.paused_until <= self.now);
        match there.filter(|n| !self.are_apart(who, Who::Node(*n))) {
            Some(n) => {
                let ends = [(who, life), (Who::Node(n), self.nodes[n].life)];
                let conn = self.net.open(ends, self.now);
                let at = self.now + self.latency();
                if let Some(at) = self.net.send(conn, 1, at) {
                    self.at(at, Event::Up { conn, to: 1 });
                }
            }
            None => {
                let again = self.now + Duration::from_millis(self.rng.random_range(20..300));
                let refused = self.is_refused(who, target);
                let now = self.now;
                let mut todo = Vec::new();
                match who {
                    Who::Node(n) => self.nodes[n].not_connected(now, target, again, refused, &mut todo),
                    Who::Router(r) => self.routers[r].not_connected(target, again),
                }
                return self.done(who, todo);
            }
        }
        self.plan_wake(who);
        Ok(())
    }

    /// Whether the host of a process says that it does not run any more: nobody listens there, or its successor answers.
    fn is_refused(&self, who: Who, target: Incarnation) -> bool {
        let Some(host) = self.hosts.get(&target).copied() else { return false };
        let node = &self.nodes[host];
        let other = node.me != Some(target) && node.paused_until <= self.now;
        !self.are_apart(who, Who::Node(host)) && (!node.up || other)
    }

    fn incarnation(&self, who: Who) -> Option<Incarnation> {
        match who {
            Who::Node(n) => self.nodes[n].me,
            Who::Router(r) => Some(self.routers[r].me),
        }
    }

    fn up(&mut self, conn: u64, to: usize) -> Result<(), String> {
        let [(opener, opener_life), (acceptor, _)] = self.net.conns[&conn].ends;
        let (now, wall) = (self.now, self.wall_ms());
        let mut todo = Vec::new();
        let Who::Node(node) = acceptor else { return Ok(()) };
        if to == 1 {
            let Some(other) = self.incarnation(opener).filter(|_| self.is_alive(opener, opener_life)) else {
                return Ok(());
            };
            match opener {
                Who::Node(_) => self.nodes[node].called(now, other, conn),
                Who::Router(_) => self.nodes[node].linked(now, wall, other, conn, &mut todo),
            }
            let at = now + self.latency();
            if let Some(at) = self.net.send(conn, 0, at) {
                self.at(at, Event::Up { conn, to: 0 });
            }
            return self.done(acceptor, todo);
        }
        let Some(target) = self.nodes[node].me else { return Ok(()) };
        match opener {
            Who::Node(n) => self.nodes[n].connected(now, wall, target, conn, &mut todo),
            Who::Router(r) => self.routers[r].connected(now, target, conn, &mut todo),
        }
        self.done(opener, todo)
    }

    fn down(&mut self, conn: u64, to: usize) -> Result<(), String> {
        let ends = self.net.conns[&conn].ends;
        let who = ends[to].0;
        let again = self.now + Duration::from_millis(self.rng.random_range(5..200));
        let (now, wall) = (self.now, self.wall_ms());
        let mut todo = Vec::new();
        let opened = (to == 0).then(|| self.incarnation(ends[1].0)).flatten();
        match who {
            Who::Node(n) => {
                self.nodes[n].disconnected(now, wall, conn, again, &mut todo);
                // It may never have been up.
                opened.into_iter().for_each(|o| self.nodes[n].not_connected(now, o, again, false, &mut todo));
            }
            Who::Router(r) => {
                self.routers[r].disconnected(now, conn, again, &mut todo);
                opened.into_iter().for_each(|o| self.routers[r].not_connected(o, again));
            }
        }
        self.done(who, todo)
    }

    /// Ends a stream at one of its ends: what arrives within `after` passes.
    pub(super) fn cut(&mut self, conn: u64, end: usize, after: Duration, told: bool) {
        let at = self.now + after;
        let Some(known) = self.net.conns.get_mut(&conn) else { return };
        let at = known.cut[end].map_or(at, |cut| cut.min(at));
        known.cut[end] = Some(at);
        if told {
            self.at(at.max(self.now), Event::Down { conn, to: end });
        }
    }

    fn at_etcd(&mut self, node: usize, life: u64, request: &Request) {
        let cut = self.no_etcd.get(&Who::Node(node)).is_some_and(|until| *until > self.now);
        let registers = matches!(request, Request::Register);
        // A write that is under way lands also when its writer has died since.
        let alive = self.is_alive(Who::Node(node), life) || matches!(request, Request::Propose { .. });
        if self.etcd.away || cut || !alive || (registers && self.nodes[node].me.is_some()) {
            return;
        }
        let before = self.etcd.now.revision;
        let name = self.nodes[node].name.clone();
        let again = if self.options.mutant == Some(Mutant::SameIncarnation) {
            self.etcd
                .now
                .placement
                .as_ref()
                .and_then(|p| p.members.iter().rev().find(|(_, m)| m.node == name).map(|(i, _)| *i))
        } else {
            None
        };
        let placement = self.etcd.now.placement.clone();
        let reply = self.etcd.answer(self.now, &name, request, again);
        if let Reply::Registered(incarnation, _) = &reply {
            self.hosts.insert(*incarnation, node);
        }
        if let (Request::Propose { .. }, Some(placement)) = (request, placement)
            && self.etcd.now.revision != before
        {
            self.last_writer = Some(node);
            self.after_write(&placement, node);
        }
        if self.etcd.now.revision != before {
            self.publish_etcd();
        }
        let lost = matches!(request, Request::Propose { .. }) && self.rng.random_bool(0.05);
        if lost {
            self.say("a write's outcome is unknown", String::new);
        } else {
            let delay = self.latency();
            self.after(delay, Event::FromEtcd { node, life, reply });
        }
    }

    /// Everybody's watch is told, sooner or later.
    pub(super) fn publish_etcd(&mut self) {
        let snapshot = Arc::new(self.etcd.now.clone());
        let nodes = (0..self.nodes.len()).map(Who::Node);
        let all: Vec<Who> = nodes.chain((0..self.routers.len()).map(Who::Router)).collect();
        for who in all {
            let mut at = self.now + self.latency();
            if self.rng.random_bool(0.02) {
                at = at + Duration::from_millis(self.rng.random_range(100..2_000));
            }
            if let Some(until) = self.no_etcd.get(&who) {
                at = at.max(*until);
            }
            let last = match who {
                Who::Node(n) => &mut self.nodes[n].watch_at,
                Who::Router(r) => &mut self.routers[r].watch_at,
            };
            at = at.max(*last);
            *last = at;
            let life = self.life(who);
            self.at(at, Event::Watch { who, life, snapshot: snapshot.clone() });
        }
    }

    /// A process dies: its streams end, what it had not sent yet is lost.
    pub(super) fn crash(&mut self, who: Who) {
        let life = self.life(who);
        match who {
            Who::Node(n) => {
                self.nodes[n].up = false;
                self.nodes[n].shard = None;
            }
            Who::Router(r) => self.routers[r].up = false,
        }
        self.wakes.remove(&who);
        let theirs: Vec<(u64, usize)> = self
            .net
            .conns
            .iter()
            .filter_map(|(id, c)| c.ends.iter().position(|e| *e == (who, life)).map(|end| (*id, 1 - end)))
            .collect();
        for (conn, other) in theirs {
            let after = self.latency();
            self.cut(conn, other, after, true);
        }
        let closes = |c: &Client| match who {
            Who::Router(router) => c.router == Some(router),
            Who::Node(_) => c.router.is_some() && self.options.mutant == Some(Mutant::ClosesSockets),
        };
        for client in self.clients.iter_mut().filter(|c| closes(c)) {
            client.cut(self.now);
            self.report.recording.lines.append(&mut client.lines);
        }
    }

    pub(super) fn restart(&mut self, who: Who) {
        match who {
            Who::Node(n) => {
                if self.nodes[n].up {
                    return;
                }
                let todo = self.nodes[n].start(self.now);
                // Nothing is checked before it holds anything.
                let life = self.life(who);
                for wish in todo {
                    if let Do::Ask(request) = wish {
                        let delay = self.latency();
                        self.after(delay, Event::AtEtcd { node: n, life, request });
                    }
                }
            }
            Who::Router(r) => {
                if self.routers[r].up {
                    return;
                }
                let me = Incarnation(self.etcd.rise().unsigned_abs());
                self.routers[r] = Router::new(self.routers[r].life + 2, me, self.now, self.options.mutant);
                self.publish_etcd();
            }
        }
        self.plan_wake(who);
    }

    fn client(&mut self, client: usize) -> Result<(), String> {
        let pause = Duration::from_millis(self.rng.random_range(5..150));
        self.after(pause, Event::Client(client));
        if self.clients[client].handle.is_none() {
            let router = self.rng.random_range(0..self.routers.len());
            if self.routers[router].up && self.routers[router].knows_placement() {
                self.clients[client].connect(self.now, router);
            }
            return Ok(());
        }
        if let Some(again) = self.clients[client].again() {
            return self.command(client, again);
        }
        let Self { clients, rng, now, mood, .. } = self;
        match clients[client].act(*now, rng, *mood) {
            Some(command) => self.command(client, command),
            None => Ok(()),
        }
    }

    fn command(&mut self, client: usize, command: Command) -> Result<(), String> {
        let lines: Vec<Line> = std::mem::take(&mut self.clients[client].lines);
        self.report.recording.lines.extend(lines);
        let Some(router) = self.clients[client].router else { return Ok(()) };
        let Router { life, paused_until, clients_first, .. } = self.routers[router];
        if paused_until > self.now {
            let event = Event::Command { router, life, command };
            if clients_first {
                self.order_first += 1;
                self.queue.insert((paused_until, self.order_first), event);
            } else {
                self.at(paused_until, event);
            }
            return Ok(());
        }
        self.hand_in(router, command)
    }

    fn hand_in(&mut self, router: usize, command: Command) -> Result<(), String> {
        let slot = room_of(&command).slot(SLOTS);
        let mut todo = Vec::new();
        self.routers[router].command(self.now, command, slot, &mut todo);
        self.done(Who::Router(router), todo)
    }
}

fn room_of(command: &Command) -> &RoomId {
    match command {
        Command::Subscribe { room, .. }
        | Command::Unsubscribe { room, .. }
        | Command::Publish { room, .. }
        | Command::Retract { room, .. }
        | Command::History { room, .. }
        | Command::Presence { room, .. } => room,
    }
}

const _: () = assert!(FENCE.as_millis() > TTL.as_millis());
