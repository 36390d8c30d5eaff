//! `make bench-instructions`: the path of a message through the pure cores, without sockets: a router's slot, the primary, its
//! replica, and back into the queues of the members, encoded and decoded between them as on the wire.
//!
//! Run alone it counts allocations. Under callgrind it gives instructions. No noise can move either; they are compared with
//! those kept in `tests/hot-path.json`, allocations in the tests too.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command as Program, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use prost::Message;
use roomring_control::clock::Time;
use roomring_control::placement::{Placement, RingParams, Settings, SlotRecord};
use roomring_node::core::{Event, Moment, Part, Shard};
use roomring_node::slot::{self, LinkId};
use roomring_proto::client::Format;
use roomring_proto::{Generation, Incarnation, RoomId, Seat, SlotId, Term, Uid, Version, v1};
use roomring_router::hub::api::{Client, Codec, Command, ToClient};
use roomring_router::hub::core::{Link, Output, Route, Slot};
use roomring_router::hub::queue::ClientQueue;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Until histories are full and every buffer has its size.
const WARM_UP: usize = 400;
/// Messages that are counted.
const MESSAGES: usize = 1_600;
/// Messages on the way together.
const TOGETHER: usize = 16;
/// How far instructions may be from those kept, in percent.
const TOLERANCE: f64 = 2.0;
/// Members of the room, in two sizes: what grows with them is the cost of a delivery, the rest that of a message.
const MEMBERS: [usize; 2] = [10, 1_000];

const ROUTER: Incarnation = Incarnation(1);
const NODES: [Incarnation; 2] = [Incarnation(5), Incarnation(6)];
const SLOT: SlotId = SlotId(0);
const NOW: Time = Time(Duration::from_secs(1_000));

#[derive(Debug, Parser)]
#[command(about = "Counts allocations, or under callgrind instructions, of the path of a message")]
struct Args {
    /// One run with so many members, to be looked at by callgrind
    #[arg(long, value_name = "MEMBERS")]
    once: Option<usize>,
    /// Run under callgrind and compare with the counts in this file
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Put the counts into the file instead
    #[arg(long, requires = "compare")]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(members) = args.once {
        World::new(members).messages();
        return ExitCode::SUCCESS;
    }
    let allocations = MEMBERS.map(|members| {
        let mut world = World::new(members);
        let region = Region::new(ALLOCATOR);
        world.messages();
        region.change().allocations as f64
    });
    let (message, delivery) = parts(allocations);
    println!("allocations: {message:.2} a message, {delivery:.4} a delivery");
    match &args.compare {
        Some(file) => compare(file, args.keep, message),
        None => ExitCode::SUCCESS,
    }
}

/// What each message costs, and what each delivery adds.
fn parts(totals: [f64; 2]) -> (f64, f64) {
    let [few, many] = totals.map(|total| total / MESSAGES as f64);
    let delivery = (many - few) / (MEMBERS[1] - MEMBERS[0]) as f64;
    (few - delivery * MEMBERS[0] as f64, delivery)
}

fn compare(file: &PathBuf, keep: bool, allocations: f64) -> ExitCode {
    let (message, delivery) = parts(MEMBERS.map(instructions));
    let compiler = Program::new("rustc").arg("--version").output().expect("rustc");
    let compiler = String::from_utf8_lossy(&compiler.stdout).trim().to_owned();
    println!("instructions: {message:.0} a message, {delivery:.1} a delivery");
    if keep {
        let digit = |count: f64| (count * 10.0).round() / 10.0;
        let (message, delivery, allocations) = (message.round(), digit(delivery), digit(allocations));
        let kept = json!({
            "compiler": compiler, "message": message, "delivery": delivery, "allocations": allocations,
        });
        let text = serde_json::to_string_pretty(&kept).expect("plain data") + "\n";
        std::fs::write(file, text).expect("the file can be written");
        return ExitCode::SUCCESS;
    }
    let Ok(text) = std::fs::read(file) else {
        println!("nothing is kept in {}: keep these with --keep", file.display());
        return ExitCode::FAILURE;
    };
    let kept: Value = serde_json::from_slice(&text).expect("JSON");
    if kept["compiler"] != compiler {
        println!("not compared: those kept are of {}, this is {compiler}; keep new ones with --keep", kept["compiler"]);
        return ExitCode::SUCCESS;
    }
    let mut far = false;
    for (what, now) in [("message", message), ("delivery", delivery)] {
        let Some(was) = kept[what].as_f64() else {
            println!("instructions of a {what} are not kept yet: keep these with --keep");
            return ExitCode::FAILURE;
        };
        let change = (now / was - 1.0) * 100.0;
        far |= change.abs() > TOLERANCE;
        println!("a {what}: {change:+.2} % against {was}");
    }
    if far {
        println!(
            "more than {TOLERANCE} % away. If that is meant (also if it became less), keep the new ones with --keep"
        );
    }
    ExitCode::from(u8::from(far))
}

/// Instructions of all messages, as callgrind counts them.
fn instructions(members: usize) -> f64 {
    let exe = std::env::current_exe().expect("path of this program");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("callgrind.out");
    let ran = Program::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*messages_of_the_hot_path*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(exe)
        .args(["--once", &members.to_string()])
        .output()
        .expect("valgrind starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = std::fs::read_to_string(&out).expect("callgrind writes");
    let total = text.lines().find_map(|l| l.strip_prefix("totals:").or(l.strip_prefix("summary:")));
    let total: f64 = total.and_then(|t| t.trim().parse().ok()).expect("callgrind gives a total");
    assert!(total > 0.0, "nothing was counted");
    total
}

/// A router, two nodes, and members of one room.
struct World {
    router: Slot,
    nodes: [Shard; 2],
    clients: Vec<Arc<Client>>,
    room: RoomId,
    out: Vec<Output>,
    taken: Vec<ToClient>,
    /// By the node whose turn it is.
    said: Vec<slot::Output>,
    to_nodes: VecDeque<(usize, Event)>,
}

impl World {
    fn new(members: usize) -> Self {
        let client = |n: usize| {
            Arc::new(Client {
                id: format!("client-{n}"),
                user: format!("user-{n}"),
                conn_info: Bytes::new(),
                codec: Codec::Centrifuge(Format::Json),
                queue: ClientQueue::new(1 << 20).answering(Format::Json),
            })
        };
        let mut world = Self {
            router: Slot::new(SLOT, Duration::from_secs(4), Arc::default()),
            nodes: NODES.map(|me| Shard::new(Part { index: 0, of: 1 }, me)),
            clients: (0..members).map(client).collect(),
            room: RoomId::new("room").expect("a room's name"),
            out: Vec::new(),
            taken: Vec::new(),
            said: Vec::new(),
            to_nodes: VecDeque::new(),
        };
        world.connect();
        for n in 0..WARM_UP / TOGETHER {
            world.publish(n);
        }
        world
    }

    /// Everybody knows the placement and each other, and the clients join.
    fn connect(&mut self) {
        let seats = NODES.map(|incarnation| Seat { incarnation, since: Version(3) });
        let record = SlotRecord {
            term: Term(3),
            primary: seats[0],
            in_sync: seats.to_vec(),
            learners: vec![],
            generation: Generation(3),
        };
        let placement = Arc::new(Placement {
            uid: Uid(1),
            format: 1,
            version: Version(3),
            settings: Settings { slots: 1, ..Settings::default() },
            ring: RingParams { vnodes: 1, bound_percent: 125 },
            members: Default::default(),
            slots: vec![record],
            recent: Default::default(),
            apart: Default::default(),
        });
        for n in 0..2 {
            self.to_nodes.push_back((n, Event::Adopt { placement: placement.clone(), contact: Some(NOW) }));
            self.to_nodes.push_back((n, Event::PeerUp(NODES[1 - n])));
            self.to_nodes.push_back((n, Event::LinkUp { link: LinkId(1), router: ROUTER }));
        }
        self.run();
        let route = Route { primary: NODES[0], term: Term(3), session: Some(1) };
        self.router.follow(NOW, placement.reference(), route);
        for n in 0..self.clients.len() {
            let client = self.clients[n].clone();
            let subscribe = Command::Subscribe {
                request: 1,
                room: self.room.clone(),
                client,
                join_leave: false,
                recover: None,
                reject_unrecovered: false,
            };
            self.router.command(NOW, subscribe, &mut self.out);
            self.run();
        }
        let joined = self.take();
        assert_eq!(joined.subscribed, self.clients.len(), "everybody is a member");
    }

    /// The messages that are counted.
    fn messages(&mut self) {
        messages_of_the_hot_path(self);
    }

    /// Some messages together, from a member's command into everybody's queue and out of it.
    fn publish(&mut self, turn: usize) {
        static PAYLOAD: [u8; 128] = [b'1'; 128];
        for n in 0..TOGETHER {
            let client = self.clients[(turn + n) % self.clients.len()].clone();
            let (room, data) = (self.room.clone(), Bytes::from_static(&PAYLOAD));
            client.queue.publishing(2);
            let publish = Command::Publish { request: 2, room, client, data, id: String::new() };
            self.router.command(NOW, publish, &mut self.out);
        }
        self.run();
        let taken = self.take();
        let answers = TOGETHER;
        assert_eq!(taken.pushes, TOGETHER * self.clients.len() + answers, "everybody has every message");
    }

    /// Carries what was said until nobody has anything to say.
    fn run(&mut self) {
        loop {
            self.router.flush(NOW, &mut self.out);
            if !self.out.is_empty() {
                let messages = self.out.drain(..).map(|o| v1::RouterMessage { kind: Some(o.message) }).collect();
                let batch = carried(&v1::RouterBatch { messages });
                let events = batch.messages.into_iter().filter_map(|m| m.kind);
                let event = |message| Event::Router { link: LinkId(1), slot: SLOT, message };
                self.to_nodes.extend(events.map(|m| (0, event(m))));
            }
            if self.to_nodes.is_empty() {
                return;
            }
            let mut outputs = Vec::new();
            let at = Moment { now: NOW, wall_ms: 1 };
            while let Some((node, event)) = self.to_nodes.pop_front() {
                self.nodes[node].take(at, event, &mut self.said);
                outputs.extend(self.said.drain(..).map(|o| (node, o)));
            }
            // What came together is done together, as a worker's turn does it.
            for (node, shard) in self.nodes.iter_mut().enumerate() {
                shard.tick(at, &mut self.said);
                outputs.extend(self.said.drain(..).map(|o| (node, o)));
            }
            let mut to_router = Vec::new();
            for (node, output) in outputs {
                match output {
                    slot::Output::Router { message, .. } if node == 0 => to_router.push(message),
                    slot::Output::Peer { to, message } => {
                        let other = NODES.iter().position(|n| *n == to).expect("one of the nodes");
                        self.to_nodes.push_back((other, Event::Peer(carried(&message))));
                    }
                    slot::Output::Router { .. } | slot::Output::Ready { .. } | slot::Output::Unanswered { .. } => {}
                }
            }
            if !to_router.is_empty() {
                let batch = carried(&v1::NodeBatch { messages: to_router });
                let link = Link { node: NODES[0], session: 1 };
                for kind in batch.messages.into_iter().filter_map(|m| m.kind) {
                    self.router.node(NOW, link, kind, &mut self.out);
                }
            }
        }
    }

    /// Empties the clients' queues, as their tasks do.
    fn take(&mut self) -> Taken {
        let mut all = Taken::default();
        for client in &self.clients {
            while let Some(taken) = client.queue.try_recv_many(&mut self.taken, 64) {
                taken.expect("nobody is slow");
                for message in self.taken.drain(..) {
                    match message {
                        ToClient::Push(_) => all.pushes += 1,
                        ToClient::Subscribed { result, .. } => all.subscribed += usize::from(result.is_ok()),
                        _ => {}
                    }
                }
            }
        }
        all
    }
}

#[derive(Debug, Default)]
struct Taken {
    pushes: usize,
    subscribed: usize,
}

/// By this name callgrind finds it.
#[inline(never)]
fn messages_of_the_hot_path(world: &mut World) {
    for turn in 0..MESSAGES / TOGETHER {
        world.publish(turn);
    }
}

/// To bytes and back.
fn carried<M: Message + Default>(message: &M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).expect("our own encoding")
}
