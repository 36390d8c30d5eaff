//! A node from its start to its end: registered once, it lives one life for each history of the placement, usually one.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use roomring_control::coordinator::{Coordinator, CoordinatorConfig};
use roomring_control::daemon::Invalid;
use roomring_control::daemon::admin::Admin;
use roomring_control::detector::Timing;
use roomring_control::heartbeat::{HeartbeatConfig, Heartbeats, LoadNow, watch_address};
use roomring_control::home::{Home, HomeError};
use roomring_control::rebalance;
use roomring_control::registry::{
    ConnectError, EtcdConfig, NodeSpec, RegisterError, Registration, Registry, Superseded,
};
use roomring_control::wire::Wire;
use roomring_proto::{Incarnation, NodeId};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

use crate::config::Config;
use crate::counters::Counters;
use crate::drain::free_to_go;
use crate::follower::Follower;
use crate::metrics::NodeMetrics;
use crate::peer::Dialer;
use crate::server::{self, ServerError};
use crate::sessions::Sessions;
use crate::shell::Shell;
use crate::site::NodeSite;
use crate::vitals::{LastTick, Vitals};
use crate::worker::{Part, Report, Worker, Workers, load_of};

/// How long connections may take to wind up once they are told to; they only hand over what they have.
const WIND_UP: Duration = Duration::from_secs(3);

/// A stopping node that can't tell etcd so tries again after this.
const DRAIN_AGAIN: Duration = Duration::from_secs(1);

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting can't be used.
    #[error(transparent)]
    Setting(#[from] Invalid),
    /// Its directory can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// It can't serve.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The URLs of etcd can't be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It can't register.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// Another process has its name.
    #[error(transparent)]
    Superseded(#[from] Superseded),
    /// The thread of the admin port can't be had.
    #[error("admin port: {0}")]
    Admin(std::io::Error),
    /// The thread of the heartbeats can't be had.
    #[error("heartbeats: {0}")]
    Heartbeats(std::io::Error),
    /// A fault of ours.
    #[error("{0} ended unexpectedly; this is a bug")]
    Broken(&'static str),
}

/// What a node says once it is registered, a member, and serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Its name.
    pub id: NodeId,
    /// Where it listens.
    pub grpc: SocketAddr,
    /// Where it tells how it is, over HTTP.
    pub admin: SocketAddr,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready id={} grpc={} admin={}", self.id, self.grpc, self.admin)
    }
}

/// Runs a node until `stop` is cancelled and its rooms have moved away, or `stop_grace` is over. Says once on `ready` that
/// it serves. Waits for etcd as long as it takes.
///
/// # Errors
/// If it can't start, another process has its name, or something in it broke. It has stopped serving then.
pub async fn run(config: Config, stop: CancellationToken, ready: oneshot::Sender<Ready>) -> Result<(), Error> {
    let wire = config.wire()?;
    let home = Home::open(&config.home_dir())?;
    let listener = server::bind(config.listen).await?;
    let grpc = listener.local_addr().map_err(ServerError::Listener)?;
    let watch_listener = server::bind(config.watch_listen()).await?;
    let watch = watch_listener.local_addr().map_err(ServerError::Listener)?;
    let admin_listener = server::bind(config.admin).await?;
    let admin = admin_listener.local_addr().map_err(ServerError::Listener)?;
    let counters = Arc::<Counters>::default();
    let site = Arc::new(NodeSite::new(config.id.clone(), Arc::clone(&counters)));
    // From now on: whoever waits for etcd is asked how it is, too.
    let _admin = Admin::start(admin_listener, Arc::<NodeSite>::clone(&site), NodeMetrics(Arc::clone(&site)))
        .map_err(Error::Admin)?;
    tracing::info!(id = %config.id, cluster = %config.cluster, %grpc, %watch, %admin, home = %config.home_dir().display(), "starting");

    let etcd = EtcdConfig {
        urls: config.etcd.clone(),
        access: config.etcd_access(),
        cluster: config.cluster.clone(),
        lease_ttl: config.lease_ttl.0,
    };
    let id = config.id.clone();
    let advertised = config.advertise.clone().unwrap_or_else(|| grpc.to_string());
    let spec = NodeSpec {
        id: id.clone(),
        grpc_addr: advertised.clone(),
        zone: config.zone.clone(),
        weight: config.weight,
        watch_addr: watch_address(&advertised, watch),
    };
    let register = async {
        let registry = Registry::connect(etcd, CancellationToken::new()).await?;
        let registration = registry.register_node(spec, &home).await?;
        Ok::<_, Error>((registry, registration))
    };
    let Some(registered) = stop.run_until_cancelled(register).await else { return Ok(()) };
    let (registry, registration) = registered?;
    site.cluster.follow(registry.view());

    let node = Node {
        config,
        listener,
        watch_listener,
        ready: Ready { id, grpc, admin },
        advertised,
        wire,
        registry: registry.clone(),
        registration,
        counters,
        site,
        started: Instant::now(),
    };
    let end = node.live(&stop, ready).await;
    // Nothing is served any more: others may take over at once. The home stays locked until then.
    if let Err(e) = node.registration.revoke().await {
        tracing::warn!(error = %e, "the registration is left to expire");
    }
    registry.stop().await;
    drop(home);
    end
}

/// What lasts from life to life.
struct Node {
    config: Config,
    listener: std::net::TcpListener,
    watch_listener: std::net::TcpListener,
    ready: Ready,
    advertised: String,
    wire: Wire,
    registry: Registry,
    registration: Registration,
    counters: Arc<Counters>,
    site: Arc<NodeSite>,
    started: Instant,
}

/// How a life ended.
enum Ended {
    Stopped,
    /// The placement began anew: everything held is void.
    OtherHistory,
}

impl Node {
    async fn live(&self, stop: &CancellationToken, ready: oneshot::Sender<Ready>) -> Result<(), Error> {
        let mut ready = Some(ready);
        loop {
            let incarnation = self.registration.incarnation();
            match self.life(incarnation, stop, &mut ready).await? {
                Ended::Stopped => return Ok(()),
                Ended::OtherHistory => {
                    tracing::warn!(%incarnation, "the placement began anew in etcd: dropping everything held here");
                }
            }
            let mut state = self.registration.state();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                superseded = self.registration.superseded() => return Err(superseded.into()),
                next = state.wait_for(|s| s.incarnation != incarnation) => {
                    next.map_err(|_| Error::Broken("the registration"))?;
                }
            }
        }
    }

    /// Serves as `incarnation` until something ends it, and winds up.
    async fn life(
        &self,
        incarnation: Incarnation,
        stop: &CancellationToken,
        ready: &mut Option<oneshot::Sender<Ready>>,
    ) -> Result<Ended, Error> {
        let stop_workers = CancellationToken::new();
        let coordination =
            CoordinatorConfig { settings: self.config.cluster_settings(), lease_ttl: self.config.lease_ttl.0 };
        let count = self.config.threads();
        let (workers, mailboxes) = Workers::new(count);
        let ticks: Vec<_> = mailboxes.iter().map(|_| Arc::new(LastTick::default())).collect();
        let vitals = Vitals::new(self.registry.view(), ticks.clone());
        let reports: Arc<[Report]> = mailboxes.iter().map(|_| Report::default()).collect();
        let heartbeats = self.heartbeats(incarnation, vitals.clone(), Arc::clone(&reports))?;
        let (coordinator, coordinator_handle) =
            Coordinator::new(self.registry.clone(), incarnation, coordination, heartbeats.evidence());
        let mut pool = JoinSet::new();
        for (index, (mailbox, tick)) in mailboxes.into_iter().zip(&ticks).enumerate() {
            let part = Part { index, of: count };
            let (counters, tick) = (Arc::clone(&self.counters), Arc::clone(tick));
            let (words, report) = (coordinator_handle.words().clone(), reports[index].clone());
            let worker = Worker::new(mailbox, part, incarnation, words, counters, report, tick);
            pool.spawn(worker.run(stop_workers.clone()));
        }
        let shell = Arc::new(Shell {
            cluster: self.config.cluster.clone(),
            node: self.config.id.clone(),
            incarnation,
            advertised: self.advertised.clone(),
            wire: self.wire.clone(),
            registry: self.registry.clone(),
            vitals,
            workers,
            counters: Arc::clone(&self.counters),
            reports,
            links: Sessions::default(),
            callers: Sessions::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            next_number: AtomicU64::new(1),
        });

        self.site.live_as(Some(Arc::clone(&shell)));
        let (health, health_service) = tonic_health::server::health_reporter();
        server::set_serving(&health, false).await;
        let listener = self.listener.try_clone().map_err(ServerError::Listener)?;
        let stopped = shell.stop.clone().cancelled_owned();
        let mut server =
            tokio::spawn(server::serve(Arc::clone(&shell), listener, health_service, self.started, stopped));
        let (joined, mut is_joined) = oneshot::channel();
        let mut follower = tokio::spawn(Follower::new(Arc::clone(&shell), joined).run());
        let mut coordinator = tokio::spawn(coordinator.run());
        let (loads, evidence) = (heartbeats.loads(), heartbeats.evidence());
        let rebalance = rebalance::run(self.registry.clone(), self.config.id.clone(), incarnation, loads, evidence);
        shell.tasks.spawn(shell.stop.clone().run_until_cancelled_owned(rebalance));
        shell.tasks.spawn(Dialer::new(Arc::clone(&shell)).run(self.registry.view()));

        let mut told = pin!(async {
            stop.cancelled().await;
            self.site.set_serving(false);
            server::set_serving(&health, false).await;
            self.drain(incarnation).await;
        });
        let mut superseded = pin!(self.registration.superseded());
        let mut waiting = true;
        let end = loop {
            tokio::select! {
                () = &mut told => break Ok(Ended::Stopped),
                superseded = &mut superseded => break Err(superseded.into()),
                _ = &mut follower => break Ok(Ended::OtherHistory),
                _ = &mut coordinator => break Err(Error::Broken("the coordinator")),
                _ = pool.join_next() => break Err(Error::Broken("a worker")),
                served = &mut server => break Err(served.map_or(Error::Broken("the server"), |s| match s {
                    Ok(()) => Error::Broken("the server"),
                    Err(e) => e.into(),
                })),
                joined = &mut is_joined, if waiting => {
                    waiting = false;
                    self.say_what_is_overruled();
                    if joined.is_ok() && !stop.is_cancelled() {
                        self.serving(&health, ready).await;
                    }
                }
            }
        };

        self.site.live_as(None);
        follower.abort();
        coordinator.abort();
        shell.stop.cancel();
        shell.tasks.close();
        if timeout(WIND_UP, shell.tasks.wait()).await.is_err() {
            tracing::warn!("connections took longer than {WIND_UP:?} to end");
        }
        stop_workers.cancel();
        while pool.join_next().await.is_some() {}
        if !server.is_finished() && timeout(WIND_UP, &mut server).await.is_err() {
            tracing::warn!("calls took longer than {WIND_UP:?} to end");
            server.abort();
        }
        heartbeats.stop().await;
        end
    }

    fn heartbeats(&self, me: Incarnation, vitals: Vitals, reports: Arc<[Report]>) -> Result<Heartbeats, Error> {
        let config = HeartbeatConfig {
            cluster: self.config.cluster.clone(),
            id: self.config.id.clone(),
            me,
            wire: self.wire.clone(),
            timing: Timing { window: self.config.eviction_window.0, ..Timing::default() },
        };
        // The socket stays open for the next life.
        let listener = self.watch_listener.try_clone().map_err(ServerError::Listener)?;
        let worker_age = move || Duration::from_millis(vitals.worker_age_ms());
        let load: LoadNow = Arc::new(move || load_of(&reports));
        Heartbeats::start(listener, config, self.registry.view(), worker_age, Some(load)).map_err(Error::Heartbeats)
    }

    /// Warns of settings given to this node that the cluster has otherwise.
    fn say_what_is_overruled(&self) {
        let placement = self.registry.view().borrow().placement.clone();
        for setting in placement.iter().flat_map(|p| self.config.overruled(&p.settings)) {
            tracing::warn!("{setting}: settings of the cluster are fixed when it is formed");
        }
    }

    async fn serving(&self, health: &HealthReporter, ready: &mut Option<oneshot::Sender<Ready>>) {
        server::set_serving(health, true).await;
        self.site.set_serving(true);
        tracing::info!(incarnation = %self.registration.incarnation(), "serving");
        if let Some(ready) = ready.take() {
            // Whoever started us may not want to know.
            let _ = ready.send(self.ready.clone());
        }
    }

    /// Has the rooms moved away, for as long as `stop_grace` allows. Serves on meanwhile.
    async fn drain(&self, incarnation: Incarnation) {
        let grace = self.config.stop_grace.0;
        let mut view = self.registry.view();
        let tell = async {
            while let Err(e) = self.registration.set_draining(true).await {
                tracing::warn!(error = %e, "etcd does not know yet that this node stops");
                tokio::time::sleep(DRAIN_AGAIN).await;
            }
            std::future::pending().await
        };
        let left = async {
            let free = view.wait_for(|v| free_to_go(v, incarnation).is_some()).await;
            free.ok().and_then(|v| free_to_go(&v, incarnation))
        };
        let leave = timeout(grace, async {
            tokio::select! {
                left = left => left,
                () = tell => None,
            }
        });
        match leave.await {
            Ok(why) => tracing::info!(?why, "drained"),
            Err(_) => tracing::warn!("some rooms are still here after {grace:?}"),
        }
    }
}
