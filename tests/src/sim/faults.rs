//! What goes wrong, and when.

use std::time::Duration;

use rand::Rng;
use roomring_control::clock::Time;
use roomring_proto::SlotId;

use super::node::{Judge, SILENCE};
use super::world::{Event, Who, World};
use super::{FENCE, SLOTS, TTL};

/// Everything that goes wrong in a run, or only what may not cost anything: nothing that leaves a slot without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harshness {
    Gentle,
    Harsh,
}

impl World {
    /// One fault.
    pub(super) fn fault(&mut self) {
        let harsh = self.harshness == Harshness::Harsh;
        match self.rng.random_range(0..100) {
            0..30 => self.break_a_stream(),
            30..50 => self.crash_a_node(),
            50..55 => self.crash_a_router(),
            55..70 => self.pause(if harsh { FENCE.as_millis() as u64 * 2 } else { 900 }),
            70..78 => self.cut_off(),
            78..84 => self.etcd_away(if harsh { FENCE.as_millis() as u64 * 2 } else { 1500 }),
            84..88 if harsh => self.cut_from_etcd(),
            88..92 if harsh => self.split(),
            _ => self.drain_or_not(),
        }
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(1..below))
    }

    fn some_node(&mut self) -> usize {
        self.rng.random_range(0..self.nodes.len())
    }

    fn break_a_stream(&mut self) {
        let open: Vec<u64> = self.net.conns.iter().filter(|(_, c)| c.cut == [None; 2]).map(|(id, _)| *id).collect();
        if !open.is_empty() {
            let conn = open[self.rng.random_range(0..open.len())];
            self.say("fault: stream breaks", || format!("{conn}"));
            for end in 0..2 {
                let after = self.millis(60);
                self.cut(conn, end, after, true);
            }
        }
    }

    /// Whether a node may die without a slot losing its last copy.
    fn is_redundant(&self) -> bool {
        let calm = self.nodes.iter().all(|n| n.paused_until <= self.now) && !self.etcd.away && !self.takes_living();
        let Some(placement) = &self.etcd.now.placement else { return false };
        let wanted = usize::try_from(placement.settings.replication).unwrap_or(usize::MAX);
        calm && (0..SLOTS).map(SlotId).all(|slot| {
            let Some(record) = placement.slot(slot) else { return false };
            let alive = |i| self.nodes.iter().any(|n| n.up && n.me == Some(i));
            record.in_sync.len() >= wanted.max(2) && record.in_sync.iter().all(|s| alive(s.incarnation))
        })
    }

    /// Whether one node that does not hear another may put it out by its word alone, though it lives: that is a death, too.
    fn takes_living(&self) -> bool {
        let lasts = |until: Time| until + SILENCE > self.now;
        let apart = |a, b, until| matches!((a, b), (Who::Node(_), Who::Node(_))) && lasts(until);
        self.judge == Judge::Haste && self.partitions.iter().any(|(a, b, until)| apart(*a, *b, *until))
    }

    fn crash_a_node(&mut self) {
        let node = self.some_node();
        let may = self.harshness == Harshness::Harsh || self.is_redundant();
        if self.nodes[node].up && may {
            let down = if self.rng.random_bool(0.5) { self.millis(500) } else { self.millis(9_000) };
            self.say("fault: node crashes", || format!("{node} for {down:?}"));
            self.crash(Who::Node(node));
            self.after(down, Event::Restart(Who::Node(node)));
        }
    }

    fn crash_a_router(&mut self) {
        let router = self.rng.random_range(0..self.routers.len());
        if self.routers[router].up && !self.options.routers_stay {
            let down = self.millis(3_000);
            self.say("fault: router crashes", || format!("{router} for {down:?}"));
            self.crash(Who::Router(router));
            self.after(down, Event::Restart(Who::Router(router)));
        }
    }

    fn pause(&mut self, below: u64) {
        let pause = self.millis(below);
        let until = self.now + pause;
        let node = self.some_node();
        if self.rng.random_bool(0.8) {
            self.say("fault: node hangs", || format!("{node} for {pause:?}"));
            let known = &mut self.nodes[node].paused_until;
            *known = until.max(*known);
        } else {
            let router = self.rng.random_range(0..self.routers.len());
            self.say("fault: router hangs", || format!("{router} for {pause:?}"));
            let clients_first = self.rng.random_bool(0.5);
            let (now, known) = (self.now, &mut self.routers[router]);
            if known.paused_until <= now {
                // What clients sent in one hang stays in its order, however long it takes.
                known.clients_first = clients_first;
            }
            known.paused_until = until.max(known.paused_until);
        }
    }

    /// Two processes do not reach each other for a while, and find out by silence.
    fn cut_off(&mut self) {
        let a = Who::Node(self.some_node());
        let routers = self.routers.len();
        let b = if self.rng.random_bool(0.5) {
            Who::Node(self.some_node())
        } else {
            Who::Router(self.rng.random_range(0..routers))
        };
        let time = self.millis(5_000);
        // By haste that is a death.
        let dies = self.judge == Judge::Haste && matches!(b, Who::Node(_));
        let may = self.harshness == Harshness::Harsh || !dies || self.is_redundant();
        if a != b && may {
            self.say("fault: partition", || format!("{a:?} and {b:?} for {time:?}"));
            self.part(a, b, time);
        }
    }

    /// The copies of some slot, and a router, are on the side of a parted network where etcd is not.
    fn split(&mut self) {
        let slot = SlotId(self.rng.random_range(0..SLOTS));
        let router = Who::Router(self.rng.random_range(0..self.routers.len()));
        let time = self.millis(TTL.as_millis() as u64 + FENCE.as_millis() as u64 * 3);
        let Some(record) = self.etcd.now.placement.as_ref().and_then(|p| p.slot(slot)) else { return };
        let holds = |n: &usize| record.in_sync.iter().any(|s| Some(s.incarnation) == self.nodes[*n].me);
        let (here, there): (Vec<usize>, Vec<usize>) = (0..self.nodes.len()).partition(holds);
        let here: Vec<Who> = here.into_iter().map(Who::Node).chain([router]).collect();
        let routers = (0..self.routers.len()).map(Who::Router).filter(|r| *r != router);
        let there: Vec<Who> = there.into_iter().map(Who::Node).chain(routers).collect();
        self.say("fault: the network parts", || format!("{here:?} and {there:?} for {time:?}"));
        for who in &here {
            self.no_etcd.insert(*who, self.now + time);
            there.iter().for_each(|other| self.part(*who, *other, time));
        }
    }

    fn part(&mut self, a: Who, b: Who, time: Duration) {
        self.partitions.push((a, b, self.now + time));
        let between = |ends: &[(Who, u64); 2]| ends.iter().all(|(w, _)| *w == a || *w == b);
        let conns: Vec<u64> = self.net.conns.iter().filter(|(_, c)| between(&c.ends)).map(|(id, _)| *id).collect();
        for conn in conns {
            for end in 0..2 {
                self.cut(conn, end, Duration::ZERO, false);
            }
        }
    }

    fn etcd_away(&mut self, below: u64) {
        if !self.etcd.away {
            let time = self.millis(below);
            self.say("fault: etcd away", || format!("for {time:?}"));
            self.etcd.away = true;
            self.after(time, Event::EtcdBack);
        }
    }

    fn cut_from_etcd(&mut self) {
        let node = self.some_node();
        let time = self.millis(TTL.as_millis() as u64 * 4);
        self.say("fault: node cut from etcd", || format!("{node} for {time:?}"));
        self.no_etcd.insert(Who::Node(node), self.now + time);
    }

    fn drain_or_not(&mut self) {
        if self.etcd.away {
            return;
        }
        let name = self.nodes[self.rng.random_range(0..self.nodes.len())].name.clone();
        let drained = self.etcd.now.intents.drained.clone();
        let intents = std::sync::Arc::make_mut(&mut self.etcd.now.intents);
        if !intents.drained.remove(&name) && drained.len() < 2 {
            intents.drained.insert(name.clone());
        }
        self.say("fault: drained, or not any more", || format!("{name}"));
        self.etcd.rise();
        self.publish_etcd();
    }

    /// Nothing is wrong any more.
    pub(super) fn heal(&mut self) {
        let now: Time = self.now;
        self.partitions.clear();
        self.no_etcd.clear();
        // Who hangs goes on when its time has come: what waits for it is queued for then.
        if self.etcd.away {
            self.etcd.come_back(now);
        }
        std::sync::Arc::make_mut(&mut self.etcd.now.intents).drained.clear();
        self.etcd.rise();
        self.publish_etcd();
        for node in 0..self.nodes.len() {
            if !self.nodes[node].up {
                self.restart(Who::Node(node));
            }
        }
        for router in 0..self.routers.len() {
            if !self.routers[router].up {
                self.restart(Who::Router(router));
            }
        }
    }
}
