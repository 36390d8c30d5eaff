//! The task by which a node changes the placement: plan, propose, and again whenever something is new.
//!
//! Every node runs one and they all plan alike, so there is no leader to lose. Each waits its rank's turn before it writes;
//! whoever writes first wins, by compare-and-swap, and the others plan anew on what was written. What to write is the
//! [`planner`]'s business, whether it may be written the [`registry`](crate::registry)'s and etcd's.

mod account;
mod ready;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomring_proto::{Incarnation, NodeId, Uid};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::clock::{Time, unix_ms};
use crate::detector::Evidence;
use crate::metrics;
use crate::placement::{Cause, Change, Eviction, Placement, RingParams, Settings};
use crate::planner::{self, History, ReadySeat, Situation, Word};
use crate::registry::{Proposal, Proposed, Registry};
use crate::view::ClusterView;
use ready::ReadySeats;

/// Before a write, so that what happens together goes into one: many slots become ready in the same moment.
const BATCH: Duration = Duration::from_millis(5);

/// The same before an eviction.
const EVICTION: Duration = Duration::from_millis(1);

/// Between the turns of two ranks: a write of the one before is seen by then.
const RANK: Duration = Duration::from_millis(50);

/// Between the turns of those with a word of their own slots: most writes of the one before are on their way by then, and as few
/// take turns as there are to gain from it.
const WORD: Duration = Duration::from_millis(4);
const WORDS_APART: usize = 4;

/// Before a cluster is formed: nodes that are started together should all be in its first placement.
const FORMATION: Duration = Duration::from_millis(500);

/// Without contact with etcd for so long nothing is planned: the view may be far behind.
const CONTACT: Duration = Duration::from_secs(2);

/// Between attempts while there is no contact, or after a write of unknown outcome.
const RETRY: Duration = Duration::from_millis(500);

/// Longest time between attempts that keep losing although nothing new is seen: somebody wrote what this release can't read.
const LOSING: Duration = Duration::from_secs(5);

/// Words of slots under way to the coordinator: a node's share of a common cluster. Whoever finds it full says it again later.
const WORDS: usize = 1024;

/// What was said of a process that does not answer holds for this long: slots say it again four times a second.
const UNANSWERED: Duration = Duration::from_secs(1);

/// What a coordinator is told at its start.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// For a cluster that does not exist yet.
    pub settings: Settings,
    /// How long registrations live without being renewed.
    pub lease_ttl: Duration,
}

/// One node's part in changing the placement.
#[derive(Debug)]
pub struct Coordinator {
    registry: Registry,
    me: Incarnation,
    config: CoordinatorConfig,
    views: watch::Receiver<ClusterView>,
    /// Slots of this node hold the other end.
    words: mpsc::Receiver<Word>,
    /// The heartbeats hold the other end.
    evidence: watch::Receiver<Evidence>,
    /// The evidence last planned on.
    held: Evidence,
    seats: ReadySeats,
    /// Processes that do not answer slots of this node, and when that was said last.
    unanswered: BTreeMap<Incarnation, Time>,
    history: History,
    /// The view last planned on.
    view: ClusterView,
    /// When to write, if there is something to write.
    due: Option<Instant>,
    /// When time alone will bring something to write.
    deadline: Option<Instant>,
    /// Writes lost in a row without any news.
    lost: u32,
}

/// What the rest of a node tells its coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CoordinatorHandle {
    words: mpsc::Sender<Word>,
}

impl CoordinatorHandle {
    /// Where slots say what they know of the others. Bounded: a slot that finds it full says it again later.
    pub fn words(&self) -> &mpsc::Sender<Word> {
        &self.words
    }
}

impl Coordinator {
    /// A coordinator for the process `me`, which is registered. It is for one history of the placement: with a new uid comes
    /// a new incarnation, and another coordinator. `evidence` is what its heartbeats say of the others.
    pub fn new(
        registry: Registry,
        me: Incarnation,
        config: CoordinatorConfig,
        evidence: watch::Receiver<Evidence>,
    ) -> (Self, CoordinatorHandle) {
        let (words_to, words) = mpsc::channel(WORDS);
        let coordinator = Self {
            views: registry.view(),
            registry,
            me,
            config,
            words,
            evidence,
            held: Evidence::default(),
            seats: ReadySeats::default(),
            unanswered: BTreeMap::new(),
            history: History::default(),
            view: ClusterView::default(),
            due: None,
            deadline: None,
            lost: 0,
        };
        (coordinator, CoordinatorHandle { words: words_to })
    }

    /// Runs until dropped. Dropping it in the middle of a write leaves that write's outcome to etcd.
    pub async fn run(mut self) {
        self.views.mark_changed();
        loop {
            tokio::select! {
                Ok(()) = self.views.changed() => self.on_view(),
                Some(word) = self.words.recv() => self.on_word(word),
                Ok(()) = self.evidence.changed() => self.on_evidence(),
                () = at(self.due) => self.on_due().await,
                () = at(self.deadline) => {
                    self.deadline = None;
                    self.schedule(if self.seats.is_empty() { self.turn() } else { self.own_turn() });
                }
            }
        }
    }

    fn on_view(&mut self) {
        let view = self.views.borrow_and_update().clone();
        if same(&view, &self.view) {
            // Contact alone.
            self.view = view;
            return;
        }
        let written = view.placement_revision != self.view.placement_revision;
        self.history.observe(&view, Time::now());
        self.view = view;
        self.lost = 0;
        if written {
            // Whoever wrote planned on the same view: after it everybody's turn begins again.
            self.due = None;
        }
        self.seats.outdated_by(self.view.placement.as_deref());
        self.schedule(self.turn());
        self.plan_deadline();
    }

    fn on_evidence(&mut self) {
        self.held = self.evidence.borrow_and_update().clone();
        self.schedule(self.turn());
        self.plan_deadline();
    }

    fn on_word(&mut self, word: Word) {
        if self.note(word) {
            self.schedule(self.own_turn());
        }
    }

    /// Takes note of what a slot says. False if it is no news.
    fn note(&mut self, word: Word) -> bool {
        match word {
            Word::Ready(seat) => {
                self.seats.add(seat);
                true
            }
            Word::Unanswered(process) => {
                let now = Time::now();
                let before = self.unanswered.insert(process, now);
                before.is_none_or(|at| now.since(at) >= UNANSWERED)
            }
        }
    }

    async fn on_due(&mut self) {
        self.due = None;
        if self.views.has_changed().unwrap_or(false) {
            self.on_view();
            if self.due.is_some() {
                // Something new: its turn is yet to come.
                return;
            }
        }
        while let Ok(word) = self.words.try_recv() {
            self.note(word);
        }
        let now = Time::now();
        self.unanswered.retain(|_, at| now.since(*at) < UNANSWERED);
        if self.view.contact.is_none_or(|at| now.since(at) > CONTACT) {
            self.schedule(RETRY);
            return;
        }
        let Some(proposal) = self.next_write(now) else {
            self.plan_deadline();
            return;
        };
        let base = self.view.placement.clone();
        match self.write(&proposal).await {
            Proposed::Won => {
                metrics::count_write(base.as_deref(), &proposal.placement);
                report(&proposal.placement);
            }
            Proposed::Lost => {
                // The news of what was written instead usually comes before this time is over.
                self.schedule((RETRY * 2u32.saturating_pow(self.lost)).min(LOSING));
                self.lost = self.lost.saturating_add(1).min(8);
                tracing::debug!("placement {} was written by others", proposal.placement.version);
            }
            Proposed::Unknown => {
                tracing::warn!("placement {}: etcd did not say whether it is written", proposal.placement.version);
                self.schedule(RETRY);
            }
        }
    }

    /// Writes, and goes on looking meanwhile: what comes and goes between two looks is missing from the history.
    async fn write(&mut self, proposal: &Proposal) -> Proposed {
        let registry = self.registry.clone();
        let mut write = std::pin::pin!(registry.propose(proposal));
        loop {
            tokio::select! {
                outcome = &mut write => return outcome,
                Ok(()) = self.views.changed() => self.on_view(),
            }
        }
    }

    /// What should be written now.
    fn next_write(&self, now: Time) -> Option<Proposal> {
        let base_revision = self.view.placement_revision;
        let base = match &self.view.placement {
            Some(base) if !self.view.etcd_regressed => base,
            known => {
                let registered = self.view.nodes.values().any(|n| n.incarnation == self.me);
                let (settings, ring) = match known {
                    Some(lost) => (lost.settings.clone(), lost.ring),
                    None => (self.config.settings.clone(), RingParams::for_slots(self.config.settings.slots)),
                };
                let uid = Uid(rand::random_range(1..=u64::MAX));
                let mut placement = registered.then(|| planner::form(&self.view, settings, ring, uid)).flatten()?;
                let record = account::of_formation(&placement, known.is_some(), self.written(&placement));
                placement.recent.push(record);
                return Some(Proposal { base_revision, placement: Arc::new(placement), counts_on: BTreeMap::new() });
            }
        };
        let ready = self.seats.based_on(base.version);
        let unanswered = self.unanswered.keys().copied().collect();
        let situation = self.situation(now, &ready, &unanswered);
        let changes = planner::plan(&situation);
        if changes.is_empty() {
            return None;
        }
        match base.with(&changes) {
            Ok(mut next) => {
                let counts_on = self.relied_on(&changes);
                let evictions = self.evictions(&situation, &changes);
                let record = account::of_changes(base, &changes, evictions, self.written(&next));
                next.recent.push(record);
                Some(Proposal { base_revision, placement: Arc::new(next), counts_on })
            }
            Err(rejected) => {
                tracing::error!(%rejected, "the plan does not fit the placement it was made for; this is a bug");
                None
            }
        }
    }

    /// Whom `changes` evict, and why.
    fn evictions(&self, situation: &Situation<'_>, changes: &[Change]) -> Vec<Eviction> {
        let evicted = changes
            .iter()
            .filter_map(|c| if let Change::Evict { incarnation } = c { Some(*incarnation) } else { None });
        let eviction = |incarnation| {
            let member = situation.view.placement.as_ref()?.members.get(&incarnation)?;
            let heard = situation.evidence.dead.get(&incarnation).and_then(|death| death.heard);
            Some(Eviction {
                node: member.node.clone(),
                incarnation,
                cause: planner::cause_of_eviction(situation, incarnation)?,
                silent_for: heard.map(|at| situation.now.since(at)),
            })
        };
        evicted.filter_map(eviction).collect()
    }

    /// By whom and when `placement` is written.
    fn written(&self, placement: &Placement) -> account::Written {
        let by = self.view.nodes.iter().find(|(_, n)| n.incarnation == self.me).map(|(id, _)| id.clone());
        account::Written {
            version: placement.version,
            time_ms: unix_ms(),
            // It is registered, or it would not write.
            by: by.unwrap_or_else(|| NodeId::new("unknown").expect("follows the rules")),
        }
    }

    /// Revisions of the node keys that `changes` count on, as the view that they were planned on has them.
    fn relied_on(&self, changes: &[Change]) -> BTreeMap<NodeId, i64> {
        let base = self.view.placement.as_deref();
        let nodes = base.map(|base| planner::relied_on(base, changes)).unwrap_or_default();
        let with_revision = |node| {
            let revision = self.view.node_revisions.get(&node).copied().unwrap_or(0);
            (node, revision)
        };
        nodes.into_iter().map(with_revision).collect()
    }

    fn plan_deadline(&mut self) {
        let now = Time::now();
        let next = planner::next_deadline(&self.situation(now, &BTreeSet::new(), &BTreeSet::new()));
        // Never in the past, so this can't spin.
        self.deadline = next.map(|at| Instant::now() + at.since(now).max(BATCH));
    }

    fn situation<'a>(
        &'a self,
        now: Time,
        ready: &'a BTreeSet<ReadySeat>,
        unanswered: &'a BTreeSet<Incarnation>,
    ) -> Situation<'a> {
        Situation {
            view: &self.view,
            history: &self.history,
            now,
            me: self.me,
            ttl: self.config.lease_ttl,
            ready,
            unanswered,
            evidence: &self.held,
        }
    }

    /// How long to wait for those before this node.
    fn turn(&self) -> Duration {
        let rank = u32::try_from(planner::rank(&self.view, &self.held.suspects, self.me)).unwrap_or(u32::MAX);
        let formed = self.view.placement.is_some() && !self.view.etcd_regressed;
        let first = match formed {
            // The rooms of the dead wait for every millisecond.
            true if !self.held.dead.is_empty() => EVICTION,
            true => BATCH,
            false => FORMATION,
        };
        first + RANK.saturating_mul(rank.min(1000))
    }

    /// How long to wait with what nobody else can propose: for hardly anyone.
    fn own_turn(&self) -> Duration {
        let turn = planner::turn(&self.view, &self.held.suspects, self.me) % WORDS_APART;
        BATCH + WORD * u32::try_from(turn).unwrap_or(0)
    }

    fn schedule(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// Says in the log what was written.
fn report(placement: &Placement) {
    let Some(recent) = placement.recent.iter().next_back() else { return };
    for e in &recent.evictions {
        let silent_ms = e.silent_for.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let cause = e.cause;
        match e.cause {
            Cause::Left => tracing::info!(node = %e.node, incarnation = %e.incarnation, "left the cluster"),
            _ => tracing::warn!(node = %e.node, incarnation = %e.incarnation, %cause, silent_ms, "evicted"),
        }
    }
    tracing::info!("placement {}: {}", placement.version, recent.text);
}

/// Sleeps until `when`; for ever if there is none.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Whether two views give the same plan: contact and routers do not matter to it.
fn same(a: &ClusterView, b: &ClusterView) -> bool {
    let placement = match (&a.placement, &b.placement) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    placement
        && Arc::ptr_eq(&a.nodes, &b.nodes)
        && Arc::ptr_eq(&a.node_revisions, &b.node_revisions)
        && Arc::ptr_eq(&a.intents, &b.intents)
        && a.placement_revision == b.placement_revision
        && a.unbroken_since == b.unbroken_since
        && a.answers_since == b.answers_since
        && a.etcd_regressed == b.etcd_regressed
}
