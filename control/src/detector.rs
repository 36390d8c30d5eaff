//! What is heard of other processes -> suspicion -> evidence.
//!
//! Pure. [`crate::heartbeat`] says what it hears; [`Detector::handle`] says whom to ask for a second opinion, and
//! [`Detector::evidence`] whom the [`crate::planner`] may evict at once. A wrong eviction costs a change of primary and loses
//! nothing, since the evicted is fenced by its term; what must not happen is that overload makes everybody evict everybody.
//! Hence the second opinion for all that is only silence, the limit on fast evictions, and no word from a process that was
//! itself held up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use roomring_proto::Incarnation;

use crate::clock::Time;
use crate::placement::Cause;

/// What counts as silence, and how many may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// No heartbeat for so long is a suspicion: five missed in a row.
    pub silence: Duration,
    /// A worker that has not come round for so long is one. Longer, since a worker that waits for a core on a busy machine
    /// still works.
    pub hang: Duration,
    /// A detector that is ticked this much later than it asked to be was itself held up: it starts listening anew.
    pub lateness: Duration,
    /// Fast evictions leave at least half of the members listed this long ago.
    pub window: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            silence: Duration::from_millis(800),
            hang: Duration::from_secs(2),
            lateness: Duration::from_millis(250),
            window: Duration::from_secs(60),
        }
    }
}

/// How often [`Event::Tick`] is due.
pub const LOOK: Duration = Duration::from_millis(100);

/// A suspicion that nobody confirmed is put to the others again after this.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// This process is in contact with etcd while its last one is younger than this: three of its longest checks.
const IN_CONTACT: Duration = Duration::from_millis(1500);

/// A member without contact for this long, while this process had it all the time, is cut off from etcd: six of its
/// longest checks. Shorter gaps are an etcd that is slow, or that is electing a leader.
const CUT_OFF: Duration = Duration::from_secs(3);

/// What the connections say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Whom the view names, this process included.
    Members {
        /// The active members of the placement.
        active: BTreeSet<Incarnation>,
        /// Registered processes that are none: what is heard of them says whether they may become members.
        others: BTreeSet<Incarnation>,
        /// How long a primary may serve without contact.
        fence_after: Duration,
    },
    /// A heartbeat came in: the process runs.
    Heard {
        /// From whom.
        from: Incarnation,
        /// Age of its slowest worker's last turn.
        worker_age: Duration,
        /// Age of its contact with etcd.
        contact_age: Duration,
    },
    /// The stream from it broke.
    Broken(Incarnation),
    /// After the stream broke a new connection was refused at once, or another process answered: it is gone.
    Refused(Incarnation),
    /// Another process said how long ago it heard of it; `None` if it can't tell.
    Opinion {
        /// Whom it is about.
        about: Incarnation,
        /// Silence as the other sees it.
        silent_for: Option<Duration>,
    },
    /// Time passed.
    Tick {
        /// Age of this process's own contact with etcd; `None` if there was none.
        contact_age: Option<Duration>,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask every other process what it hears of this one.
    Ask(Incarnation),
}

/// A member that may be evicted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// How it is known.
    pub cause: Cause,
    /// When it was last heard here.
    pub heard: Option<Time>,
}

/// What one process holds of the others. It changes only when something happens, not with time alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Processes that answer heartbeats: a lapsed registration alone does not evict them.
    pub answering: BTreeSet<Incarnation>,
    /// Members that may be evicted at once.
    pub dead: BTreeMap<Incarnation, Death>,
    /// Members that are silent, hung or dead, whether or not they may be evicted at once.
    pub suspects: BTreeSet<Incarnation>,
    /// Members that have lost etcd while this process has it.
    pub cut_off: BTreeSet<Incarnation>,
    /// Members that say that they have no contact with etcd, whether or not this process has it: nothing for them to lead.
    pub contactless: BTreeSet<Incarnation>,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    active: bool,
    heard: Option<Time>,
    /// When it was heard for the first time.
    met: Option<Time>,
    worker_age: Duration,
    contact_age: Duration,
    broken: bool,
    asked: Option<Time>,
    dead: Option<Cause>,
}

/// Follows what is heard of the other processes.
#[derive(Debug, Clone)]
pub struct Detector {
    me: Incarnation,
    timing: Timing,
    peers: BTreeMap<Incarnation, Peer>,
    /// Number of active members, with the time from which it held.
    sizes: VecDeque<(Time, usize)>,
    cut_off_after: Duration,
    looked: Option<Time>,
    /// Since when this process has been in contact with etcd.
    in_contact: Option<Time>,
}

impl Detector {
    /// Knows nobody yet.
    pub fn new(me: Incarnation, timing: Timing) -> Self {
        Self {
            me,
            timing,
            peers: BTreeMap::new(),
            sizes: VecDeque::new(),
            cut_off_after: CUT_OFF,
            looked: None,
            in_contact: None,
        }
    }

    /// So many members were listed within the window, as others recorded, before this detector began.
    pub fn start_with(&mut self, now: Time, members: usize) {
        self.sizes.push_back((now, members));
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Members { active, others, fence_after } => {
                // The rooms should be elsewhere before it has to stop serving them.
                self.cut_off_after = CUT_OFF.min(fence_after / 2);
                self.on_members(now, &active, &others);
            }
            Event::Heard { from, worker_age, contact_age } => {
                let hang = self.timing.hang;
                if let Some(peer) = self.peers.get_mut(&from) {
                    let asked = peer.asked.filter(|_| worker_age >= hang);
                    let dead = peer.dead.filter(|cause| *cause == Cause::Hung && worker_age >= hang);
                    let (heard, met) = (Some(now), peer.met.unwrap_or(now));
                    // One that has just registered has yet to get contact: that is no loss of it.
                    let contact_age = contact_age.min(now.since(met));
                    let (active, met) = (peer.active, Some(met));
                    *peer = Peer { active, heard, met, worker_age, contact_age, broken: false, asked, dead };
                }
            }
            Event::Broken(who) => {
                if let Some(peer) = self.peers.get_mut(&who) {
                    peer.broken = true;
                }
            }
            Event::Refused(who) => {
                if let Some(peer) = self.peers.get_mut(&who).filter(|p| p.broken) {
                    peer.dead = Some(Cause::Refused);
                }
            }
            Event::Opinion { about, silent_for } => self.on_opinion(now, about, silent_for),
            Event::Tick { contact_age } => self.on_tick(now, contact_age, effects),
        }
    }

    /// How long ago `who` was heard of: this process's opinion when another asks. `None` if it can't tell.
    pub fn silent_for(&self, now: Time, who: Incarnation) -> Option<Duration> {
        let peer = self.peers.get(&who).filter(|_| !self.is_late(now))?;
        let hung = if peer.worker_age >= self.timing.hang { peer.worker_age } else { Duration::ZERO };
        Some(peer.heard.map(|at| now.since(at))?.max(hung))
    }

    /// What is held of the others now.
    pub fn evidence(&self, now: Time) -> Evidence {
        let suspect = |p: &Peer| p.dead.is_some() || p.is_suspect(now, &self.timing);
        let names =
            |holds: &dyn Fn(&Peer) -> bool| self.peers.iter().filter(|(_, p)| holds(p)).map(|(i, _)| *i).collect();
        let watched = self.in_contact.is_some_and(|since| now.since(since) >= self.cut_off_after);
        let contactless =
            |p: &Peer| p.active && !suspect(p) && p.heard.is_some() && p.contact_age >= self.cut_off_after;
        let dead = self.peers.iter().filter(|(_, p)| p.active);
        let dead = dead.filter_map(|(i, p)| Some((*i, Death { cause: p.dead?, heard: p.heard })));
        Evidence {
            answering: names(&|p| p.heard.is_some() && !p.broken && !suspect(p)),
            dead: dead.take(self.spare(now)).collect(),
            suspects: names(&|p| p.active && suspect(p)),
            cut_off: names(&|p| watched && contactless(p)),
            contactless: names(&contactless),
        }
    }

    /// How many members may be evicted at once.
    fn spare(&self, now: Time) -> usize {
        let active = self.sizes.back().map_or(0, |(_, n)| *n);
        // The entry that held when the window began counts too.
        let start = Time(now.0.saturating_sub(self.timing.window));
        let from = self.sizes.iter().rposition(|(since, _)| *since <= start).unwrap_or(0);
        let before = self.sizes.range(from..).map(|(_, n)| *n).max().unwrap_or(0);
        active.saturating_sub(before.div_ceil(2))
    }

    fn on_members(&mut self, now: Time, active: &BTreeSet<Incarnation>, others: &BTreeSet<Incarnation>) {
        self.peers.retain(|i, _| active.contains(i) || others.contains(i));
        for member in active.union(others).filter(|i| **i != self.me) {
            self.peers.entry(*member).or_default().active = active.contains(member);
        }
        if self.sizes.back().is_none_or(|(_, n)| *n != active.len()) {
            self.sizes.push_back((now, active.len()));
        }
        let start = Time(now.0.saturating_sub(self.timing.window));
        while self.sizes.get(1).is_some_and(|(since, _)| *since <= start) {
            self.sizes.pop_front();
        }
    }

    fn on_opinion(&mut self, now: Time, about: Incarnation, silent_for: Option<Duration>) {
        if self.is_late(now) {
            return;
        }
        let Timing { silence, hang, .. } = self.timing;
        let Some(peer) = self.peers.get_mut(&about).filter(|p| p.asked.is_some()) else { return };
        // The other listens at other moments: half of the silence confirms it.
        if silent_for.is_none_or(|s| s < silence / 2) {
            return;
        }
        if peer.heard.is_some_and(|at| now.since(at) >= silence) {
            peer.dead.get_or_insert(Cause::Silent);
        } else if peer.worker_age >= hang {
            peer.dead.get_or_insert(Cause::Hung);
        }
    }

    fn on_tick(&mut self, now: Time, contact_age: Option<Duration>, effects: &mut Vec<Effect>) {
        let late = self.is_late(now);
        self.looked = Some(now);
        if late || contact_age.is_none_or(|age| age > IN_CONTACT) {
            self.in_contact = None;
        } else {
            self.in_contact.get_or_insert(now);
        }
        if late {
            // Heartbeats may lie unread: whoever was heard before the pause counts as heard now.
            for peer in self.peers.values_mut().filter(|p| p.dead.is_none()) {
                peer.heard = peer.heard.map(|_| now);
                peer.worker_age = Duration::ZERO;
                peer.asked = None;
            }
            return;
        }
        for (who, peer) in &mut self.peers {
            let asks = peer.active && peer.dead.is_none() && peer.is_suspect(now, &self.timing);
            if asks && peer.asked.is_none_or(|at| now.since(at) >= ASK_AGAIN) {
                peer.asked = Some(now);
                effects.push(Effect::Ask(*who));
            }
        }
    }

    fn is_late(&self, now: Time) -> bool {
        self.looked.is_some_and(|at| now.since(at) > LOOK + self.timing.lateness)
    }
}

impl Peer {
    fn is_suspect(&self, now: Time, timing: &Timing) -> bool {
        // Of one never heard nothing is known: its lease says whether it lives.
        self.heard.is_some_and(|at| now.since(at) >= timing.silence) || self.worker_age >= timing.hang
    }
}

#[cfg(test)]
mod tests;
