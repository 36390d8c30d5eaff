//! The publishing that never stops, and what moves make of it.
//!
//! The pause of a room is measured in two ways. All rooms of a slot move together, so one room stands for its slot.
//!
//! - Of every slot that moves: a publish is sent in the moment in which the write that moves it is seen in etcd, which is when
//!   the processes see it too, and again a moment later, should they see it later. The time to the acknowledgement, less the
//!   usual one, is the pause. All other publishes that were under way then or followed soon count as well; the longest is taken.
//! - Of a few rooms that will move: they are published to every few milliseconds all the time. The longest gap between two
//!   acknowledgements around the move is the pause and one interval at most: it can't hide anything, but only a few rooms can
//!   be watched so closely.
//!
//! All clients are in this process, which shares the cores with the servers and is late itself. So what publishes to rooms took
//! that did not move meanwhile is told too, and how late this process came to what was due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use roomring_tests::{Client, Switch, Times};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::audience::{room, slot_of};

/// Around a move: what is answered no longer than this before it is seen here, or is sent no longer after, may have met it. A
/// process that sees it late is not that late.
const BEFORE: Duration = Duration::from_millis(20);
const AFTER: Duration = Duration::from_millis(300);

/// After the first publish in the moment of a move comes a second one.
const ECHO: Duration = Duration::from_millis(10);

/// A publish that was refused with a temporary error is said again after this, as an application would.
const AGAIN: Duration = Duration::from_millis(20);

/// Payloads are unlike each other over the whole run.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One publish that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Said {
    room: usize,
    slot: usize,
    at: Instant,
    took: Duration,
}

/// Publishes that failed, by kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Failed {
    /// Refused with a temporary error, and said again.
    pub(crate) refused: usize,
    /// Of unknown outcome.
    pub(crate) unknown: usize,
}

/// How fast, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Publishes a second over all rooms in turn.
    pub(crate) a_second: u32,
    /// Between two publishes to a room that is watched closely.
    pub(crate) interval: Duration,
}

/// The publishing.
pub(crate) struct Voice {
    stop: watch::Sender<bool>,
    close: watch::Sender<Vec<usize>>,
    task: JoinHandle<Spoken>,
    speakers: Arc<Vec<Option<Arc<Client>>>>,
    slots: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Spoken {
    said: Vec<Said>,
    /// When a publish was to be sent, and how late this process came to it.
    late: Vec<(Instant, Duration)>,
    switches: Vec<Switch>,
    close: Vec<usize>,
    pub(crate) failed: Failed,
}

/// Pauses of rooms that moved.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// One a moved room.
    pub(crate) rooms: Times,
    /// Longest gaps between acknowledgements, less the interval; one for each move of a room that is watched closely.
    pub(crate) gaps: Times,
    /// Times of all publishes.
    pub(crate) usual: Times,
    /// Of those that were sent while some slots moved, to rooms that did not.
    pub(crate) elsewhere: Times,
    /// Of those that were sent while none did: when, and how long it took beyond the usual time.
    pub(crate) between: Vec<(Instant, usize, Duration)>,
    /// How late this process itself was meanwhile: part of all that it measures.
    pub(crate) late: Times,
    /// Slots that moved.
    pub(crate) slots: usize,
    /// Each of them: when, which, and its pause.
    pub(crate) each: Vec<(Instant, usize, Duration)>,
}

impl Voice {
    pub(crate) fn start(
        speakers: Vec<Option<Arc<Client>>>,
        slots: usize,
        pace: Pace,
        news: mpsc::Receiver<Vec<Switch>>,
    ) -> Self {
        let speakers = Arc::new(speakers);
        let stop = watch::Sender::new(false);
        let close = watch::Sender::new(Vec::new());
        let mouth = Mouth { speakers: speakers.clone(), slots, spoken: mpsc::channel(1 << 16).0 };
        let task = tokio::spawn(speak(mouth, pace, news, close.subscribe(), stop.subscribe()));
        Self { stop, close, task, speakers, slots }
    }

    /// Watches `count` rooms closely from now on, each of another slot that fits.
    pub(crate) fn watch(&self, count: usize, fits: impl Fn(usize) -> bool) {
        let mut chosen = BTreeMap::new();
        for n in (0..self.speakers.len()).filter(|n| self.speakers[*n].is_some()) {
            let slot = slot_of(n, self.slots);
            if chosen.len() < count && fits(slot) {
                chosen.entry(slot).or_insert(n);
            }
        }
        self.close.send_replace(chosen.into_values().collect());
    }

    /// Ends it and waits for the answers under way.
    pub(crate) async fn stop(self) -> Spoken {
        self.stop.send_replace(true);
        self.task.await.expect("the publishing has not panicked")
    }
}

/// What every publish needs.
#[derive(Clone)]
struct Mouth {
    speakers: Arc<Vec<Option<Arc<Client>>>>,
    slots: usize,
    spoken: mpsc::Sender<(Option<Said>, Failed)>,
}

impl Mouth {
    /// Says something in a room, in a task of its own.
    fn say(&self, n: usize) {
        self.say_after(n, Duration::ZERO);
    }

    fn say_after(&self, n: usize, wait: Duration) {
        let Some(client) = self.speakers[n].clone() else { return };
        let (spoken, slot) = (self.spoken.clone(), slot_of(n, self.slots));
        tokio::spawn(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let at = Instant::now();
            let mut failed = Failed::default();
            let said = loop {
                let text = format!("steady {}", NUMBER.fetch_add(1, Ordering::Relaxed));
                match client.publish(&room(n), text).await {
                    Ok(()) => break Some(Said { room: n, slot, at, took: at.elapsed() }),
                    Err(e) if e.temporary => failed.refused += 1,
                    Err(_) => {
                        failed.unknown += 1;
                        break None;
                    }
                }
                tokio::time::sleep(AGAIN).await;
            };
            // Ends only after everybody who speaks.
            let _ = spoken.send((said, failed)).await;
        });
    }
}

async fn speak(
    mut mouth: Mouth,
    pace: Pace,
    mut news: mpsc::Receiver<Vec<Switch>>,
    mut close: watch::Receiver<Vec<usize>>,
    mut stop: watch::Receiver<bool>,
) -> Spoken {
    let (spoken, mut answers) = mpsc::channel(1 << 16);
    mouth.spoken = spoken;
    let tick = |every: Duration| {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        ticks
    };
    let (mut steady, mut closely) = (tick(Duration::from_secs(1) / pace.a_second), tick(pace.interval));
    closely.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut by_slot: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for n in (0..mouth.speakers.len()).filter(|n| mouth.speakers[*n].is_some()) {
        by_slot.entry(slot_of(n, mouth.slots)).or_default().push(n);
    }
    let mut turns = (0..mouth.speakers.len()).cycle();
    let mut all = Spoken::default();
    let mut watched = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(switches) = news.recv() => {
                for switch in &switches {
                    if let Some(rooms) = by_slot.get(&switch.slot) {
                        mouth.say(rooms[0]);
                        mouth.say_after(rooms[rooms.len() - 1], ECHO);
                    }
                }
                all.switches.extend(switches);
            }
            Ok(()) = close.changed() => {
                watched = close.borrow_and_update().clone();
                all.close.extend(&watched);
            }
            _ = closely.tick() => watched.iter().for_each(|n| mouth.say(*n)),
            due = steady.tick() => {
                all.late.push((due.into_std(), due.elapsed()));
                mouth.say(turns.next().expect("endless"));
            }
            Some(answer) = answers.recv() => all.take(answer),
        }
    }
    drop(mouth);
    while let Some(answer) = answers.recv().await {
        all.take(answer);
    }
    all
}

impl Spoken {
    fn take(&mut self, (said, failed): (Option<Said>, Failed)) {
        self.said.extend(said);
        self.failed.refused += failed.refused;
        self.failed.unknown += failed.unknown;
    }

    /// The pauses of the slots that moved between two moments.
    pub(crate) fn pauses(&self, from: Instant, to: Instant, interval: Duration) -> Pauses {
        let mut by_slot: BTreeMap<usize, Vec<&Said>> = BTreeMap::new();
        let mut rooms: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for said in &self.said {
            by_slot.entry(said.slot).or_default().push(said);
            rooms.entry(said.slot).or_default().insert(said.room);
        }
        let mut pauses = Pauses { usual: self.said.iter().map(|s| s.took).collect(), ..Pauses::default() };
        let usual = pauses.usual.percentile(50.0);
        let moves = Moves::new(self.switches.iter().filter(|s| s.at >= from && s.at < to));
        let elsewhere = self.said.iter().filter(|s| moves.at(s.at) && !moves.near(s.slot, s.at));
        pauses.elsewhere = elsewhere.map(|s| s.took.saturating_sub(usual)).collect();
        let within = self.said.iter().filter(|s| s.at >= from && s.at < to);
        let between = within.filter(|s| !moves.at(s.at) && !moves.near(s.slot, s.at));
        pauses.between = between.map(|s| (s.at, s.slot, s.took.saturating_sub(usual))).collect();
        pauses.late = self.late.iter().filter(|(at, _)| moves.at(*at)).map(|(_, late)| *late).collect();
        for switch in self.switches.iter().filter(|s| s.at >= from && s.at < to) {
            pauses.slots += 1;
            let around = |said: &&&Said| said.at + said.took + BEFORE >= switch.at && said.at < switch.at + AFTER;
            let near: Vec<&&Said> = by_slot.get(&switch.slot).into_iter().flatten().filter(around).collect();
            let Some(longest) = near.iter().map(|s| s.took).max() else { continue };
            pauses.each.push((switch.at, switch.slot, longest.saturating_sub(usual)));
            let count = rooms.get(&switch.slot).map_or(1, BTreeSet::len);
            pauses.rooms.extend(std::iter::repeat_n(longest.saturating_sub(usual), count));
            for n in rooms.get(&switch.slot).into_iter().flatten().filter(|n| self.close.contains(n)) {
                let mut acks: Vec<Instant> = near.iter().filter(|s| s.room == *n).map(|s| s.at + s.took).collect();
                acks.sort();
                let gap = acks.windows(2).map(|w| w[1] - w[0]).max();
                pauses.gaps.extend(gap.map(|g| g.saturating_sub(interval)));
            }
        }
        pauses
    }
}

/// When slots moved.
struct Moves {
    all: BTreeSet<Instant>,
    by_slot: BTreeMap<usize, Vec<Instant>>,
}

impl Moves {
    fn new<'a>(switches: impl Iterator<Item = &'a Switch>) -> Self {
        let mut moves = Self { all: BTreeSet::new(), by_slot: BTreeMap::new() };
        for switch in switches {
            moves.all.insert(switch.at);
            moves.by_slot.entry(switch.slot).or_default().push(switch.at);
        }
        moves
    }

    /// Whether what was sent then may have met the move of some slot.
    fn at(&self, sent: Instant) -> bool {
        self.all.range(..=sent + BEFORE).next_back().is_some_and(|at| sent < *at + BEFORE)
    }

    /// Whether this one was moving about then.
    fn near(&self, slot: usize, sent: Instant) -> bool {
        let near = |at: &Instant| sent + AFTER >= *at && sent < *at + AFTER;
        self.by_slot.get(&slot).is_some_and(|moves| moves.iter().any(near))
    }
}
