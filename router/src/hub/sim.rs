//! One slot, a few clients and a scripted primary under random trouble: lost links, changes of primary, recreated slots,
//! trimmed logs, delays. What clients see is checked at every step, and all must be well once the trouble ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomring_control::clock::Time;
use roomring_proto::{Epoch, Incarnation, PlacementRef, Seq, SlotId, Term, Version};
use v1::node_message::Kind as FromNode;
use v1::router_message::Kind as ToNode;

use roomring_proto::v1;

use super::api::{Client, ClientPosition, Command, ToClient};
use super::attach::{Link, Route};
use super::slot::Slot;
use super::testing::{Model, SLOT, answers, client, not_primary, room};

const ROOMS: [&str; 2] = ["a", "b"];
const CLIENTS: usize = 4;
const STEPS: usize = 400;

/// What a client believes of a room, and what the hub owes it.
#[derive(Debug, Default)]
struct Membership {
    /// Subscribed: everything up to here was seen.
    at: Option<(Epoch, u64)>,
    /// Last position, kept when dropped.
    last: Option<(Epoch, u64)>,
    /// Unanswered commands.
    owed: VecDeque<Owed>,
    /// Who was seen to join or leave last, since it subscribed.
    present: BTreeMap<String, bool>,
}

/// What happened, to be sure that the trouble was real.
#[derive(Debug, Default)]
struct Stats {
    recovered: u32,
    recovered_some: u32,
    unrecovered: u32,
    dropped: u32,
    timed_out: u32,
    unknown: u32,
    never_taken: u32,
    acknowledged: u32,
    joins: u32,
    repeats: u32,
    replayed: usize,
    lost: usize,
}

#[derive(Debug)]
enum Owed {
    Subscribed { request: u32, recover: Option<(Epoch, u64)> },
    Unsubscribed { request: u32 },
}

impl Stats {
    fn all(&self) -> [(&'static str, usize); 12] {
        [
            ("recovered", self.recovered as usize),
            ("recovered with something missed", self.recovered_some as usize),
            ("not recovered", self.unrecovered as usize),
            ("dropped", self.dropped as usize),
            ("subscribes timed out", self.timed_out as usize),
            ("publishes of unknown outcome", self.unknown as usize),
            ("publishes never taken", self.never_taken as usize),
            ("publishes acknowledged", self.acknowledged as usize),
            ("joins seen", self.joins as usize),
            ("publishes sent again", self.repeats as usize),
            ("events replayed", self.replayed),
            ("publications lost on the way", self.lost),
        ]
    }
}

struct User {
    client: Arc<Client>,
    rooms: BTreeMap<&'static str, Membership>,
    publishes: BTreeMap<u32, (&'static str, Bytes)>,
    last_request: u32,
}

struct World {
    rng: StdRng,
    now: Time,
    slot: Slot,
    model: Model,
    /// The node that is primary: 1 or 2.
    primary: u64,
    /// The term and primary that the router's placement names.
    seen: (Term, u64),
    version: u64,
    sessions: BTreeMap<u64, u64>,
    last_session: u64,
    to_node: VecDeque<(Link, ToNode)>,
    to_router: VecDeque<(Link, FromNode)>,
    users: Vec<User>,
    payloads: u32,
    /// Payloads whose publish failed as never taken.
    never: Vec<Bytes>,
    stats: Stats,
}

impl World {
    fn new(seed: u64) -> Self {
        let users = (0..CLIENTS).map(|i| User {
            client: client(&format!("c{i}")),
            rooms: ROOMS.iter().map(|r| (*r, Membership::default())).collect(),
            publishes: BTreeMap::new(),
            last_request: 0,
        });
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: Time(Duration::from_secs(100)),
            slot: Slot::new(SlotId(SLOT), Duration::from_secs(4), Arc::default()),
            model: Model::new(),
            primary: 1,
            seen: (Term(1), 1),
            version: 1,
            sessions: BTreeMap::new(),
            last_session: 0,
            to_node: VecDeque::new(),
            to_router: VecDeque::new(),
            users: users.collect(),
            payloads: 0,
            never: Vec::new(),
            stats: Stats::default(),
        }
    }

    fn follow(&mut self) {
        let (term, primary) = self.seen;
        let route = Route { primary: Incarnation(primary), term, session: self.sessions.get(&primary).copied() };
        let placement = PlacementRef { uid: self.model.uid, version: Version(self.version) };
        self.slot.follow(self.now, placement, route);
    }

    fn carry(&mut self, out: Vec<super::slot::Output>) {
        self.to_node.extend(out.into_iter().map(|o| (o.link, o.message)));
    }

    /// Lets the slot do what is due, as the worker does after each batch.
    fn settle(&mut self) {
        let mut out = Vec::new();
        if self.slot.next_deadline().is_some_and(|at| at <= self.now) {
            self.slot.tick(self.now, &mut out);
        }
        self.slot.flush(self.now, &mut out);
        self.carry(out);
        let due = self.slot.next_deadline();
        assert!(due.is_none_or(|at| at > self.now), "the worker would spin: due {due:?} at {:?}", self.now);
        self.check();
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..25 => self.client_acts(),
            25..50 => self.node_acts(),
            50..75 => self.router_hears(),
            75..82 => self.other_router_publishes(),
            82..91 => {
                let ms = self.rng.random_range(1..400);
                self.now = self.now + Duration::from_millis(ms);
            }
            91..93 => self.link_up(),
            93 => self.see_placement(),
            94 => self.link_down(),
            95 => self.change_primary(),
            96 => self.see_placement(),
            97 => self.lose_a_publication(),
            98 => self.model.base = self.model.lsn,
            _ => {
                if self.rng.random_bool(0.3) {
                    self.model.recreate();
                    self.version += 1;
                }
            }
        }
        self.settle();
    }

    fn link_up(&mut self) {
        let node = self.rng.random_range(1..=2);
        if !self.sessions.contains_key(&node) {
            self.last_session += 1;
            self.sessions.insert(node, self.last_session);
            self.follow();
        }
    }

    fn link_down(&mut self) {
        let node = self.rng.random_range(1..=2);
        if self.sessions.remove(&node).is_some() {
            self.to_node.retain(|(link, _)| link.node.0 != node);
            // What the node sent may still be on its way up in the router: late, of an old session.
            if self.rng.random_bool(0.5) {
                self.to_router.retain(|(link, _)| link.node.0 != node);
            }
            if node == self.primary {
                self.model.detach();
            }
            self.follow();
        }
    }

    /// No link does that, but it must not matter.
    fn lose_a_publication(&mut self) {
        let is_publication = |message: &FromNode| {
            let FromNode::Deliver(deliver) = message else { return false };
            matches!(deliver.events.first(), Some(v1::Event { kind: Some(v1::event::Kind::Publication(_)) }))
        };
        if let Some(i) = self.to_router.iter().position(|(_, message)| is_publication(message)) {
            self.to_router.remove(i);
            self.stats.lost += 1;
        }
    }

    fn change_primary(&mut self) {
        self.primary = self.rng.random_range(1..=2);
        self.model.next_term();
        self.version += 1;
    }

    fn see_placement(&mut self) {
        self.seen = (self.model.term, self.primary);
        self.follow();
    }

    fn other_router_publishes(&mut self) {
        let name = ROOMS[self.rng.random_range(0..ROOMS.len())];
        let data = self.payload();
        let mut out = Vec::new();
        self.model.append(name, data, &mut out);
        self.node_says(out);
    }

    fn payload(&mut self) -> Bytes {
        self.payloads += 1;
        Bytes::from(self.payloads.to_string())
    }

    /// The primary says something on its link, if there is one.
    fn node_says(&mut self, messages: Vec<FromNode>) {
        if let Some(&session) = self.sessions.get(&self.primary) {
            let link = Link { node: Incarnation(self.primary), session };
            self.to_router.extend(messages.into_iter().map(|m| (link, m)));
        }
    }

    fn node_acts(&mut self) {
        let Some((link, message)) = self.to_node.pop_front() else { return };
        let mut out = Vec::new();
        if link.node.0 == self.primary {
            self.model.handle(message, &mut out);
        } else {
            not_primary(&message, self.model.term, &mut out);
        }
        self.to_router.extend(out.into_iter().map(|m| (link, m)));
    }

    fn router_hears(&mut self) {
        let Some((link, message)) = self.to_router.pop_front() else { return };
        let mut out = Vec::new();
        self.slot.node(self.now, link, message, &mut out);
        self.carry(out);
    }

    fn client_acts(&mut self) {
        let who = self.rng.random_range(0..CLIENTS);
        let name = ROOMS[self.rng.random_range(0..ROOMS.len())];
        match self.rng.random_range(0..10) {
            0..4 => self.subscribe(who, name),
            4..6 => self.unsubscribe(who, name),
            _ => self.publish(who, name),
        }
    }

    fn subscribe(&mut self, who: usize, name: &'static str) {
        let user = &mut self.users[who];
        let membership = user.rooms.get_mut(name).unwrap();
        let subscribed = match membership.owed.back() {
            Some(Owed::Subscribed { .. }) => true,
            Some(Owed::Unsubscribed { .. }) => false,
            None => membership.at.is_some(),
        };
        // A client whose subscribe is under way, or done, does not subscribe again. What it was dropped from it may.
        if subscribed {
            return;
        }
        user.last_request += 1;
        let request = user.last_request;
        let recover = membership.last.filter(|_| self.rng.random_bool(0.8));
        membership.owed.push_back(Owed::Subscribed { request, recover });
        let command = Command::Subscribe {
            request,
            room: room(name),
            client: user.client.clone(),
            join_leave: self.rng.random_bool(0.5),
            recover: recover.map(|(epoch, seq)| ClientPosition { epoch: epoch.to_string(), seq: Seq(seq) }),
            reject_unrecovered: false,
        };
        self.command(command);
    }

    fn unsubscribe(&mut self, who: usize, name: &'static str) {
        let user = &mut self.users[who];
        let membership = user.rooms.get_mut(name).unwrap();
        if matches!(membership.owed.back(), Some(Owed::Unsubscribed { .. })) {
            return;
        }
        user.last_request += 1;
        let request = user.last_request;
        membership.owed.push_back(Owed::Unsubscribed { request });
        let command = Command::Unsubscribe { request: Some(request), room: room(name), client: user.client.clone() };
        self.command(command);
    }

    fn publish(&mut self, who: usize, name: &'static str) {
        let data = self.payload();
        let user = &mut self.users[who];
        user.last_request += 1;
        let request = user.last_request;
        user.publishes.insert(request, (name, data.clone()));
        let (client, id) = (user.client.clone(), String::new());
        self.command(Command::Publish { request, room: room(name), client, data, id });
    }

    fn command(&mut self, command: Command) {
        let mut out = Vec::new();
        self.slot.command(self.now, command, &mut out);
        self.carry(out);
    }

    /// Looks at all that clients were told.
    fn check(&mut self) {
        for user in &mut self.users {
            for message in answers(&user.client) {
                user.told(message, &self.model.truth, &mut self.never, &mut self.stats);
            }
        }
    }

    /// No more trouble: everything must come to rest, with everybody well.
    fn heal(&mut self) {
        for node in 1..=2 {
            if !self.sessions.contains_key(&node) {
                self.last_session += 1;
                self.sessions.insert(node, self.last_session);
            }
        }
        self.see_placement();
        self.rest();
        for who in 0..CLIENTS {
            for name in ROOMS {
                self.subscribe(who, name);
            }
        }
        self.rest();
        self.rest();
        for name in ROOMS {
            self.publish(0, name);
        }
        self.rest();
    }

    /// Six seconds without trouble.
    fn rest(&mut self) {
        for _ in 0..120 {
            self.settle();
            while !(self.to_node.is_empty() && self.to_router.is_empty()) {
                self.node_acts();
                self.router_hears();
                self.settle();
            }
            self.now = self.now + Duration::from_millis(50);
        }
    }

    fn check_end(&self) {
        for user in &self.users {
            assert!(user.publishes.is_empty(), "unanswered publishes: {:?}", user.publishes);
            for (name, membership) in &user.rooms {
                let top = &self.model.rooms[*name];
                assert_eq!(membership.at, Some((top.epoch, top.seq)), "{} in {name}", user.client.id);
                assert!(membership.owed.is_empty());
            }
        }
        for name in ROOMS {
            let members: Vec<&String> = self.model.rooms[name].members.keys().collect();
            assert_eq!(members, ["c0", "c1", "c2", "c3"], "presence of {name}");
        }
        for data in &self.never {
            assert!(!self.model.truth.values().any(|d| d == data), "{data:?} was refused as never taken, and is there");
        }
        let mut payloads: Vec<_> = self.model.truth.values().collect();
        payloads.sort();
        payloads.dedup();
        assert_eq!(payloads.len(), self.model.truth.len(), "something was published twice");
        assert_eq!(self.slot.counts().members, (CLIENTS * ROOMS.len()) as u64);
    }
}

impl User {
    fn told(
        &mut self,
        message: ToClient,
        truth: &BTreeMap<(Epoch, u64), Bytes>,
        never: &mut Vec<Bytes>,
        stats: &mut Stats,
    ) {
        match message {
            ToClient::Push(frame) => self.pushed(&frame.payload(), truth, stats),
            ToClient::Subscribed { request, room, result } => {
                let membership = self.rooms.get_mut(room.as_str()).unwrap();
                let Some(Owed::Subscribed { request: asked, recover }) = membership.owed.pop_front() else {
                    panic!("{}: a subscribe answered out of order", self.client.id)
                };
                assert_eq!(asked, request);
                let subscribed = match result {
                    Ok(subscribed) => subscribed,
                    Err(error) => {
                        assert_eq!(error.code, 100);
                        stats.timed_out += 1;
                        return;
                    }
                };
                assert_eq!(membership.at, None, "subscribed twice");
                let mut at = (subscribed.position.epoch, subscribed.position.seq.0);
                assert_eq!(subscribed.was_recovering, recover.is_some());
                if subscribed.recovered {
                    assert_eq!(Some(at), recover);
                    stats.recovered += 1;
                    stats.recovered_some += u32::from(!subscribed.publications.is_empty());
                } else {
                    assert!(subscribed.publications.is_empty());
                    stats.unrecovered += u32::from(recover.is_some());
                }
                for p in subscribed.publications {
                    at.1 += 1;
                    assert_eq!((p.seq, Some(&p.data)), (at.1, truth.get(&at)), "what was recovered");
                }
                membership.at = Some(at);
                membership.last = Some(at);
                membership.present.clear();
            }
            ToClient::Unsubscribed { request, room } => {
                let membership = self.rooms.get_mut(room.as_str()).unwrap();
                let Some(Owed::Unsubscribed { request: asked }) = membership.owed.pop_front() else {
                    panic!("an unsubscribe answered out of order")
                };
                assert_eq!(asked, request);
                membership.at = None;
            }
            ToClient::Dropped { room, code, position } => {
                assert_eq!(code.code, 2500);
                let membership = self.rooms.get_mut(room.as_str()).unwrap();
                assert!(membership.at.is_some(), "dropped, but was not in");
                assert_eq!(position.map(|p| (p.epoch, p.seq.0)), membership.at);
                membership.at = None;
                stats.dropped += 1;
            }
            ToClient::Retracted { .. } => panic!("nobody retracts"),
            ToClient::Published { request, result } => {
                let (_, data) = self.publishes.remove(&request).expect("answered once");
                match result {
                    Ok(published) => {
                        let at = (published.position.epoch, published.position.seq.0);
                        assert_eq!(truth.get(&at), Some(&data), "acknowledged at {at:?}");
                        stats.acknowledged += 1;
                    }
                    Err(error) if error.code == 1000 => stats.unknown += 1,
                    Err(error) => {
                        assert_eq!(error.code, 100);
                        stats.never_taken += 1;
                        never.push(data);
                    }
                }
            }
            ToClient::History { .. } | ToClient::Presence { .. } | ToClient::Order(_) => unreachable!("nobody asked"),
        }
    }

    fn pushed(&mut self, bytes: &[u8], truth: &BTreeMap<(Epoch, u64), Bytes>, stats: &mut Stats) {
        let push: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let push = &push["push"];
        let name = push["channel"].as_str().unwrap();
        let membership = self.rooms.get_mut(name).unwrap();
        let Some(at) = &mut membership.at else { panic!("{} is not in {name}: {push}", self.client.id) };
        let Some(publication) = push.get("pub") else {
            let joined = push.get("join").is_some();
            let event = if joined { &push["join"] } else { &push["leave"] };
            let who = event["info"]["client"].as_str().unwrap().to_owned();
            assert!(joined || who != self.client.id, "told of its own leave");
            // Its own leave is not shown to a client that came right back.
            if who == self.client.id {
                membership.present.remove(&who);
            }
            let before = membership.present.insert(who, joined);
            assert_ne!(before, Some(joined), "{} in {name}: {push}", self.client.id);
            stats.joins += u32::from(joined);
            return;
        };
        at.1 += 1;
        assert_eq!(publication["offset"].as_u64(), Some(at.1), "{} in {name}", self.client.id);
        assert_eq!(
            truth.get(at).map(|d| String::from_utf8_lossy(d).into_owned()),
            Some(publication["data"].to_string())
        );
        membership.last = Some(*at);
    }
}

fn run(seed: u64) -> Stats {
    let mut world = World::new(seed);
    world.follow();
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
    world.check_end();
    Stats { repeats: world.model.repeats, replayed: world.model.replayed, ..world.stats }
}

#[test]
fn clients_are_served_right_whatever_happens_to_links_and_primaries() {
    let mut rare = BTreeMap::new();
    for seed in 0..300 {
        let stats = match std::panic::catch_unwind(|| run(seed)) {
            Ok(stats) => stats,
            Err(panic) => {
                eprintln!("failed with seed {seed}");
                std::panic::resume_unwind(panic);
            }
        };
        for (what, count) in stats.all() {
            *rare.entry(what).or_default() += count;
        }
    }
    eprintln!("{rare:?}");
    assert!(rare.values().all(|count: &usize| *count > 20), "trouble that hardly ever came: {rare:?}");
}
