//! Heartbeats: a thread of its own in each node and router that tells others that this process runs, and listens to them.
//!
//! It has its own port, connections and runtime, so that load on the data plane delays nothing here. What is heard goes through
//! the pure [`Detector`]; what comes of it is published as [`Evidence`]. Every process listens to every node; routers are not
//! listened to, but give second opinions.

mod ask;
mod ear;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use roomring_proto::{Incarnation, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::Time;
use crate::detector::{Detector, Effect, Event, Evidence, LOOK, Timing};
use crate::load::{Loads, NodeLoad, SAMPLE};
use crate::placement::Placement;
use crate::view::ClusterView;
use crate::wire::Wire;
use ask::Asker;
use ear::Ears;
use service::WatchService;

/// Between two beats: several fit into the shortest silence that counts, and fifty nodes cost each other little.
const BEAT: Duration = Duration::from_millis(150);

/// Events from connections under way to the detector, which takes each in microseconds.
const EVENTS: usize = 1024;

/// How long the thread may take to end; it waits for nobody.
const END: Duration = Duration::from_millis(500);

/// What this process does as primary.
pub type LoadNow = Arc<dyn Fn() -> NodeLoad + Send + Sync>;

/// Whose heartbeats these are.
#[derive(Debug, Clone)]
pub struct HeartbeatConfig {
    /// The cluster's name.
    pub cluster: NodeId,
    /// This process's name.
    pub id: NodeId,
    /// This process.
    pub me: Incarnation,
    /// How it speaks with the others.
    pub wire: Wire,
    /// What counts as silence.
    pub timing: Timing,
}

/// The thread. It ends when this is dropped, and has ended after [`Heartbeats::stop`].
#[derive(Debug)]
pub struct Heartbeats {
    evidence: watch::Receiver<Evidence>,
    loads: watch::Receiver<Loads>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What every task of the thread shares.
#[derive(Debug)]
struct Shared {
    config: HeartbeatConfig,
    detector: Mutex<Detector>,
    events: mpsc::Sender<Event>,
    wants_loads: bool,
    /// What nodes say that they do, this one too.
    loads: watch::Sender<Loads>,
    stop: CancellationToken,
}

/// The address at which others reach a watch service that listens at `bound`: on the host at which they reach the rest of the
/// process, `advertised` as host:port.
pub fn watch_address(advertised: &str, bound: SocketAddr) -> String {
    let host = advertised.rsplit_once(':').map_or(advertised, |(host, _)| host);
    format!("{host}:{}", bound.port())
}

impl Heartbeats {
    /// Beats and listens from now on. `view` says to whom; `worker_age` how long ago the slowest worker of this process came
    /// round, `load` what it does, if it has slots: then it also learns the loads of others. The listener's socket stays open when this ends if the caller keeps a clone.
    ///
    /// # Errors
    /// If the thread or its runtime can't be had, or the listener not be used.
    pub fn start(
        listener: TcpListener,
        config: HeartbeatConfig,
        view: watch::Receiver<ClusterView>,
        worker_age: impl Fn() -> Duration + Send + Sync + 'static,
        load: Option<LoadNow>,
    ) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = CancellationToken::new();
        let (evidence_to, evidence) = watch::channel(Evidence::default());
        let (events, queue) = mpsc::channel(EVENTS);
        let detector = Mutex::new(Detector::new(config.me, config.timing));
        let (loads_to, loads) = watch::channel(Loads::default());
        let shared = Arc::new(Shared {
            config,
            detector,
            events,
            wants_loads: load.is_some(),
            loads: loads_to,
            stop: stop.clone(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _in_runtime = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let thread = std::thread::Builder::new().name("heartbeats".to_owned()).spawn(move || {
            let service = WatchService::new(Arc::clone(&shared), view.clone(), Arc::new(worker_age), load.clone());
            runtime.block_on(async {
                let watch = Watcher::new(Arc::clone(&shared), view, queue, evidence_to);
                tokio::select! {
                    () = shared.stop.cancelled() => {}
                    served = service.serve(listener) => if let Err(error) = served {
                        tracing::error!(%error, "heartbeats of this process have ended");
                    },
                    () = watch.run() => {}
                    () = own_load(&shared, load) => {}
                }
            });
            runtime.shutdown_timeout(END);
        })?;
        Ok(Self { evidence, loads, stop, thread: Some(thread) })
    }

    /// What nodes did lately, this one too; empty if that was not wanted.
    pub fn loads(&self) -> watch::Receiver<Loads> {
        self.loads.clone()
    }

    /// What is held of the others, now and whenever it changes.
    pub fn evidence(&self) -> watch::Receiver<Evidence> {
        self.evidence.clone()
    }

    /// Ends the thread and waits for its end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join().is_ok());
            if !joined.await.unwrap_or(false) {
                tracing::error!("the thread of heartbeats had panicked");
            }
        }
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn detector(&self) -> MutexGuard<'_, Detector> {
        // What is known of the others holds also after a panic in one of the tasks.
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts this process among the others that tell their load.
async fn own_load(shared: &Shared, load: Option<LoadNow>) {
    let Some(load) = load else { return std::future::pending().await };
    let mut ticks = interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let told = (load(), Time::now());
        shared.loads.send_modify(|loads| _ = loads.0.insert(shared.config.me, told));
    }
}

/// Feeds the detector and does what it says.
struct Watcher {
    shared: Arc<Shared>,
    view: watch::Receiver<ClusterView>,
    events: mpsc::Receiver<Event>,
    evidence: watch::Sender<Evidence>,
    ears: Ears,
    asker: Asker,
    known: Option<ClusterView>,
}

impl Watcher {
    fn new(
        shared: Arc<Shared>,
        view: watch::Receiver<ClusterView>,
        events: mpsc::Receiver<Event>,
        evidence: watch::Sender<Evidence>,
    ) -> Self {
        let (ears, asker) = (Ears::new(Arc::clone(&shared)), Asker::new(Arc::clone(&shared)));
        Self { shared, view, events, evidence, ears, asker, known: None }
    }

    async fn run(mut self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.view.mark_changed();
        loop {
            tokio::select! {
                changed = self.view.changed() => match changed {
                    Ok(()) => self.on_view(),
                    // The registry has ended: this process is about to.
                    Err(_) => return,
                },
                Some(event) = self.events.recv() => self.feed(event),
                _ = ticks.tick() => {
                    let contact_age = self.view.borrow().contact.map(|at| Time::now().since(at));
                    self.feed(Event::Tick { contact_age });
                }
            }
        }
    }

    fn on_view(&mut self) {
        let view = self.view.borrow_and_update().clone();
        if self.known.as_ref().is_some_and(|known| same_processes(known, &view)) {
            return;
        }
        let Some(placement) = view.placement.clone() else { return };
        let active: BTreeSet<Incarnation> =
            placement.members.iter().filter(|(_, m)| m.active).map(|(i, _)| *i).collect();
        let others = view.nodes.values().map(|n| n.incarnation).filter(|i| !active.contains(i)).collect();
        if self.known.is_none() {
            let members = active.len() + lately_evicted(&placement, self.shared.config.timing.window);
            self.shared.detector().start_with(Time::now(), members);
        }
        let me = self.shared.config.me;
        let members = placement.members.iter().filter(|(_, m)| m.active).map(|(i, m)| (*i, m.watch_addr.as_str()));
        let registered = view.nodes.values().map(|n| (n.incarnation, n.watch_addr.as_str()));
        // What is registered now is newer than what the placement has of it.
        let wanted: BTreeMap<Incarnation, &str> =
            members.chain(registered).filter(|(i, addr)| *i != me && !addr.is_empty()).collect();
        self.ears.listen_to(&wanted);
        self.shared.loads.send_if_modified(|loads| {
            let before = loads.0.len();
            loads.0.retain(|i, _| *i == me || wanted.contains_key(i));
            loads.0.len() != before
        });
        let routers = view.routers.values().filter(|r| r.incarnation != me && !r.watch_addr.is_empty());
        self.asker.may_ask(&wanted, routers.map(|r| r.watch_addr.as_str()));
        let fence_after = placement.settings.fence_after;
        self.known = Some(view);
        self.feed(Event::Members { active, others, fence_after });
    }

    fn feed(&mut self, event: Event) {
        let now = Time::now();
        let mut effects = Vec::new();
        let evidence = {
            let mut detector = self.shared.detector();
            detector.handle(now, event, &mut effects);
            detector.evidence(now)
        };
        for Effect::Ask(about) in effects {
            self.asker.ask(about);
        }
        self.evidence.send_if_modified(|held| {
            let changed = *held != evidence;
            if changed {
                tell(held, &evidence);
                *held = evidence;
            }
            changed
        });
    }
}

/// Says in the log what changed for an operator to know.
fn tell(before: &Evidence, now: &Evidence) {
    for (incarnation, death) in now.dead.iter().filter(|(i, _)| !before.dead.contains_key(i)) {
        tracing::info!(%incarnation, cause = %death.cause, "a node is taken for dead");
    }
    for incarnation in now.suspects.difference(&before.suspects) {
        tracing::debug!(%incarnation, "a node is under suspicion");
    }
    for incarnation in now.cut_off.difference(&before.cut_off) {
        tracing::warn!(%incarnation, "a node has lost contact with etcd while this process has it");
    }
}

/// Evictions that the placement records within the last `window`, by the clocks of those who wrote them.
fn lately_evicted(placement: &Placement, window: Duration) -> usize {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(unix.saturating_sub(window).as_millis()).unwrap_or(u64::MAX);
    placement.recent.evictions().filter(|(r, e)| e.cause.is_by_evidence() && r.time_ms >= since).count()
}

/// Whether two views name the same processes at the same addresses.
fn same_processes(a: &ClusterView, b: &ClusterView) -> bool {
    let placement = match (&a.placement, &b.placement) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    placement && Arc::ptr_eq(&a.nodes, &b.nodes) && Arc::ptr_eq(&a.routers, &b.routers)
}
