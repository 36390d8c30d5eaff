//! How one state follows from another.

use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::placement::Change;
use roomring_node::slot::{Env, Input, Output, Slot};
use roomring_proto::{Incarnation, Lsn, Seat, Version, v1};

use super::action::{Action, Ready};
use super::register::{SLOT, member};
use super::router::{Off, ROUTER};
use super::shared::Shared;
use super::streams::Item;
use super::world::{Process, Said, World};
use super::{Mutant, SlotModel};
use crate::invariants::{self, silent_until_promoted};

impl World {
    /// The state after `action`; `None` if it cannot happen here, or changes nothing.
    pub fn step(&self, model: &SlotModel, action: Action) -> Option<Self> {
        let mut next = self.clone();
        if !next.perform(model, action) {
            return None;
        }
        next.clean(model);
        (next != *self).then_some(next)
    }

    /// Does it. False if it cannot happen.
    pub(super) fn perform(&mut self, model: &SlotModel, action: Action) -> bool {
        match action {
            Action::Deliver { opener, other, back } => self.deliver(model, opener, other, back),
            Action::View(process, version) => self.show(model, process, version),
            Action::Renew(process) => self.renew(model, process),
            Action::Expire(process) => {
                self.used.expiries += 1;
                self.processes.get_mut(&process).is_some_and(|p| p.contact.take().is_some())
            }
            Action::Tick(process) => self.input(model, process, Input::Tick, true),
            Action::Crash(process) => self.crash(model, process),
            Action::Restart(node) => self.restart(model, node),
            Action::Break(opener, other) => {
                self.used.breaks += 1;
                self.streams.lose(opener, other, model.bounds.linger)
                    && self.input(model, opener, Input::PeerDown(other), false)
                    && self.input(model, opener, Input::PeerUp(other), false)
            }
            Action::Late(opener, other) => {
                let Some(message) = self.streams.late(opener, other) else { return false };
                self.input(model, other, Input::Peer((*message).clone()), false)
            }
            Action::Publish => {
                self.used.publishes += 1;
                let messages = self.router.publish(off(model));
                self.tell(model, messages);
                true
            }
            Action::Attach(version) => self.attach(model, version),
            Action::Hear => {
                let Some(message) = self.router.seen.inbox.pop_front() else { return false };
                let Some(link) = self.router.seen.link else { return true };
                let answers = self.router.hear(link, &message, off(model));
                self.tell(model, answers);
                true
            }
            Action::Lose => {
                self.used.lost_words += 1;
                self.router.seen.inbox.pop_front().is_some()
            }
            Action::Overhear(link) => {
                let Some((node, message)) = self.router.overheard(link) else { return false };
                let answers = self.router.hear((node, link), &message, off(model));
                self.tell(model, answers);
                true
            }
            Action::Wait => {
                self.used.waits += 1;
                let messages = self.router.wait(off(model));
                self.tell(model, messages);
                true
            }
            Action::Admit(_)
            | Action::Land(_)
            | Action::Switch(_)
            | Action::Remove(_)
            | Action::Evict(_)
            | Action::Recreate(_) => self.write(model, action),
        }
    }

    fn deliver(&mut self, model: &SlotModel, opener: Incarnation, other: Incarnation, back: bool) -> bool {
        let receiver = if back { opener } else { other };
        match self.streams.take(opener, other, back) {
            Some(Item::Message(message)) => self.input(model, receiver, Input::Peer((*message).clone()), false),
            Some(Item::End) => self.input(model, receiver, Input::PeerDown(other), false),
            None => false,
        }
    }

    /// A process adopts a placement.
    pub(super) fn show(&mut self, model: &SlotModel, process: Incarnation, version: Version) -> bool {
        let Some(record) = self.register.record_at(version).cloned() else { return false };
        let latest = self.register.latest().version;
        let Some(p) = self.processes.get_mut(&process) else { return false };
        if version == latest {
            p.contact = Some(latest);
        }
        self.input(model, process, Input::Placement { version, record }, false)
    }

    /// A process reads etcd and finds nothing new.
    fn renew(&mut self, model: &SlotModel, process: Incarnation) -> bool {
        let latest = self.register.latest().version;
        let Some(p) = self.processes.get_mut(&process) else { return false };
        if p.contact.is_some() || p.view() != latest {
            return false;
        }
        p.contact = Some(latest);
        self.input(model, process, Input::Tick, false)
    }

    pub(super) fn connect(&mut self, model: &SlotModel, opener: Incarnation, other: Incarnation) {
        self.streams.open(opener, other);
        self.input(model, opener, Input::PeerUp(other), false);
    }

    fn crash(&mut self, model: &SlotModel, process: Incarnation) -> bool {
        self.used.crashes += 1;
        self.dead.insert(process);
        self.streams.crash(process);
        if self.router.seen.link.is_some_and(|(at, _)| at == process) {
            self.router.cut(model.bounds.late_words);
        }
        self.processes.remove(&process).is_some()
    }

    fn restart(&mut self, model: &SlotModel, node: u64) -> bool {
        self.used.restarts += 1;
        let Some(dead) = self.dead.iter().copied().find(|i| i.0 % 10 == node) else { return false };
        self.dead.remove(&dead);
        let successor = if model.has(Mutant::IncarnationKept) { dead } else { Incarnation(dead.0 + 10) };
        self.start(model, successor);
        true
    }

    fn attach(&mut self, model: &SlotModel, version: Version) -> bool {
        self.used.attaches += 1;
        let Some(record) = self.register.record_at(version) else { return false };
        let (node, term) = (record.primary.incarnation, record.term);
        if !self.processes.contains_key(&node) {
            return false;
        }
        if let Some((old, link)) = self.router.seen.hang_up(model.bounds.late_words) {
            self.input(model, old, Input::LinkDown(link), false);
        }
        let (link, messages) = self.router.attach(node, version, term, off(model));
        self.input(model, node, Input::LinkUp { link, router: ROUTER }, false);
        self.tell(model, messages);
        true
    }

    /// What the router sends is there at once: that it is late is as if it were sent late.
    fn tell(&mut self, model: &SlotModel, messages: impl IntoIterator<Item = v1::router_message::Kind>) {
        for message in messages {
            if let Some((node, link)) = self.router.seen.link {
                self.input(model, node, Input::Router { link, message }, false);
            }
        }
    }

    fn write(&mut self, model: &SlotModel, action: Action) -> bool {
        self.used.writes += 1;
        let changes = match action {
            Action::Admit(incarnation) => {
                let join = Change::Join { incarnation, member: member(incarnation.0) };
                let join = (!self.register.is_active(incarnation)).then_some(join);
                let seat = self.register.record().seat_of(incarnation);
                let add = seat.is_none().then_some(Change::AddLearner { slot: SLOT, incarnation });
                join.into_iter().chain(add).collect()
            }
            Action::Land(Ready { seat, term, base }) => {
                if base != self.register.latest().version && !model.has(Mutant::BaseIgnored) {
                    return false;
                }
                vec![Change::IntoSync { slot: SLOT, seat, term }]
            }
            Action::Switch(to) => vec![Change::Switch { slot: SLOT, to }],
            Action::Remove(seat) => vec![Change::RemoveSeat { slot: SLOT, seat }],
            Action::Evict(incarnation) => {
                self.used.wrong_evictions += u8::from(self.processes.contains_key(&incarnation));
                vec![Change::Evict { incarnation }]
            }
            Action::Recreate(on) => {
                if !self.may_recreate(model) {
                    return false;
                }
                vec![Change::Recreate { slot: SLOT, term: self.register.record().term, on }]
            }
            _ => return false,
        };
        if changes.is_empty() {
            return false;
        }
        let Some(mut next) = self.register.next(&changes) else { return false };
        super::mutant::spoil(model, action, self.register.record(), &mut next);
        self.broken = self.broken.or(invariants::judge_write(self.register.latest(), &next));
        self.register.write(next);
        true
    }

    /// Lets a process take an input. False if it is dead.
    pub(super) fn input(&mut self, model: &SlotModel, process: Incarnation, input: Input, due: bool) -> bool {
        let Some(p) = self.processes.get(&process) else { return false };
        let mut slot = Slot::clone(&p.slot);
        let now = if due { Self::due() } else { Self::now() };
        let env = Self::env_at(now, model, p);
        let before = slot.held().map(|h| (h.seat(), h.commit(), h.last()));
        let mut out = Vec::new();
        slot.handle(&env, input, &mut out);
        slot.blur(Self::due());
        self.learn(&slot, before.map(|(seat, commit, _)| (seat, commit)));
        slot.trim(Self::retention(model.bounds.kept_bytes));
        let slot = Shared::new(slot);
        if let Some(p) = self.processes.get_mut(&process) {
            p.slot = slot.clone();
        }
        let last = before.map_or(Lsn(0), |(_, _, last)| last);
        if !invariants::min_in_sync_held::judge(&slot, last, &out, model.bounds.min_in_sync) {
            self.broken = self.broken.or(Some(invariants::MIN_IN_SYNC_HELD));
        }
        for output in out {
            self.carry(process, &slot, output);
        }
        true
    }

    /// The world as a process meets it.
    pub fn env(&self, model: &SlotModel, process: &Process) -> Env {
        Self::env_at(Self::now(), model, process)
    }

    fn env_at(now: Time, model: &SlotModel, process: &Process) -> Env {
        let fresh = process.has_contact() || model.has(Mutant::ContactIgnored);
        Env {
            now,
            wall_ms: 1_000_000,
            contact: fresh.then_some(now),
            fence_after: Duration::from_secs(60),
            min_in_sync: model.bounds.min_in_sync,
        }
    }

    /// Notes what was committed.
    fn learn(&mut self, slot: &Slot, before: Option<(Seat, Lsn)>) {
        let Some(held) = slot.held() else { return };
        let from = before.filter(|(seat, _)| *seat == held.seat()).map_or(Lsn(0), |(_, commit)| commit);
        if held.commit() < from {
            self.broken = self.broken.or(Some(invariants::COMMITTED_NEVER_TRUNCATED));
        }
        self.ghost.learn(held, from);
    }

    fn carry(&mut self, process: Incarnation, slot: &Slot, output: Output) {
        match output {
            Output::Peer { to, mut message } => {
                message.placement = None;
                self.streams.send(process, to, message);
            }
            Output::Router { link, message } => {
                if let (Some(said), None) = (&message.kind, self.broken) {
                    let is_current = self.router.seen.link == Some((process, link));
                    self.broken = invariants::judge(self, &Said { process, slot, message: said, is_current });
                }
                self.router.said((process, link), message);
            }
            Output::Ready { seat, term, base, .. } => {
                if !silent_until_promoted::is_promoted(slot) {
                    self.broken = self.broken.or(Some(invariants::SILENT_UNTIL_PROMOTED));
                }
                self.ready.insert(Ready { seat, term, base });
            }
            // Any seat may be removed at any time here.
            Output::Unanswered { .. } => {}
        }
    }

    /// Forgets what can have no effect any more, so that states that differ in nothing else are one.
    pub(super) fn clean(&mut self, model: &SlotModel) {
        let latest = self.register.latest().version;
        if !model.has(Mutant::BaseIgnored) {
            self.ready.retain(|r| r.base == latest);
        }
        let behind = self.processes.values().map(|p| p.view().next()).min().unwrap_or(latest);
        if !model.bounds.attach_behind {
            self.register.forget_before(behind.min(self.router.seen.view).min(latest));
        }
        let processes = &self.processes;
        self.streams.forget(|i| processes.contains_key(&i));
    }

    /// Everything that may happen next.
    pub(super) fn actions(&self, model: &SlotModel, actions: &mut Vec<Action>) {
        let (bounds, used) = (&model.bounds, &self.used);
        let latest = self.register.latest().version;
        actions.extend(self.streams.lingering().map(|(opener, other)| Action::Late(opener, other)));
        actions.extend(self.streams.busy().map(|(opener, other, back)| Action::Deliver { opener, other, back }));
        if !self.router.seen.inbox.is_empty() {
            actions.push(Action::Hear);
            if used.lost_words < bounds.lost_words {
                actions.push(Action::Lose);
            }
        }
        actions.extend(self.router.seen.late.keys().map(|link| Action::Overhear(*link)));
        if used.waits < bounds.waits && self.router.waits() {
            actions.push(Action::Wait);
        }
        if used.publishes < bounds.publishes {
            actions.push(Action::Publish);
        }
        for (incarnation, process) in &self.processes {
            let seen = process.view();
            actions.extend((seen.0 + 1..=latest.0).map(|v| Action::View(*incarnation, Version(v))));
            if process.contact.is_none() && seen == latest {
                actions.push(Action::Renew(*incarnation));
            }
            if process.contact.is_some() && used.expiries < bounds.expiries {
                actions.push(Action::Expire(*incarnation));
            }
            if process.slot.next_deadline().is_some() {
                actions.push(Action::Tick(*incarnation));
            }
            if used.crashes < bounds.crashes {
                actions.push(Action::Crash(*incarnation));
            }
        }
        if used.restarts < bounds.restarts {
            actions.extend(self.dead.iter().map(|i| Action::Restart(i.0 % 10)));
        }
        if used.breaks < bounds.breaks {
            actions.extend(self.streams.loaded().map(|(opener, other)| Action::Break(opener, other)));
        }
        if used.attaches < bounds.attaches {
            let at_rest = |v| v == self.router.seen.view.0 && self.router.is_at_rest();
            let oldest = if bounds.attach_behind { 1 } else { self.router.seen.view.0 };
            let versions = (oldest..=latest.0).filter(|v| !at_rest(*v));
            actions.extend(versions.map(|v| Action::Attach(Version(v))));
        }
        if used.writes < bounds.writes {
            self.writes(model, actions);
        }
    }

    fn writes(&self, model: &SlotModel, actions: &mut Vec<Action>) {
        let (bounds, record) = (&model.bounds, self.register.record());
        actions.extend(self.ready.iter().map(|r| Action::Land(*r)));
        if model.has(Mutant::IntoSyncUnasked) {
            let base = self.register.latest().version;
            actions.extend(
                record.learners.iter().map(|seat| Action::Land(Ready { seat: *seat, term: record.term, base })),
            );
        }
        let alive = self.processes.keys().copied();
        if bounds.admit {
            let lacks = |i: &Incarnation| !self.register.is_active(*i) || record.seat_of(*i).is_none();
            actions.extend(alive.clone().filter(lacks).map(Action::Admit));
        }
        let others = || record.seats().filter(|s| *s != record.primary);
        if bounds.switch {
            actions.extend(others().filter(|s| record.in_sync.contains(s)).map(Action::Switch));
        }
        if bounds.remove {
            actions.extend(others().map(Action::Remove));
        }
        let wrong = self.used.wrong_evictions < bounds.wrong_evictions;
        let members = self.register.latest().members.iter().filter(|(_, m)| m.active).map(|(i, _)| *i);
        let holds = |i: &Incarnation| record.seat_of(*i).is_some();
        let may_evict = |i: &Incarnation| holds(i) && (wrong || !self.processes.contains_key(i));
        actions.extend(members.filter(may_evict).map(Action::Evict));
        if bounds.recreate && self.may_recreate(model) {
            actions.extend(alive.filter(|i| self.register.is_active(*i)).map(Action::Recreate));
        }
    }
}

fn off(model: &SlotModel) -> Off {
    Off {
        position: model.has(Mutant::PositionNotSent),
        generation: model.has(Mutant::GenerationNotSent),
        numbers: model.has(Mutant::NumbersNotKept),
    }
}
