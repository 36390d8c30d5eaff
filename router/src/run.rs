//! A router's life: from its settings to its end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use roomring_control::daemon::Invalid;
use roomring_control::daemon::admin::Admin;
use roomring_control::detector::Timing;
use roomring_control::heartbeat::{HeartbeatConfig, Heartbeats, watch_address};
use roomring_control::registry::{
    ConnectError, EtcdConfig, RegisterError, Registration, Registry, RouterSpec, Superseded,
};
use roomring_control::wire::Wire;
use roomring_proto::NodeId;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::auth::Tokens;
use crate::cluster::{Cluster, EdgeService};
use crate::config::Config;
use crate::grpc::{self, AdminService, ServerError};
use crate::http::{self, App, AppConfig, Readiness};
use crate::hub::{Hub, HubConfig};
use crate::limits::{Addresses, Bucket, Guards, Memory, Origins, Proxies, Rates, most_memory};
use crate::metrics::RouterMetrics;
use crate::roster::Roster;
use crate::session::{Limits, Policy};
use crate::site::RouterSite;
use crate::webhook::Webhook;

/// How often the memory of token buckets that are full is given back.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// The router serves. Displays as the line that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The router's name.
    pub id: NodeId,
    /// Where clients connect.
    pub http: SocketAddr,
    /// Where they do within TLS.
    pub https: Option<SocketAddr>,
    /// Where roomctl connects.
    pub grpc: SocketAddr,
    /// Where it tells how it is, over HTTP.
    pub admin: SocketAddr,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready id={} http={} grpc={} admin={}", self.id, self.http, self.grpc, self.admin)?;
        self.https.map_or(Ok(()), |https| write!(f, " https={https}"))
    }
}

/// Why a router ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address can't be listened on.
    #[error("{field}: {address}: {source}")]
    Bind {
        /// The setting.
        field: &'static str,
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A setting can't be used.
    #[error(transparent)]
    Setting(#[from] Invalid),
    /// The gRPC server failed.
    #[error(transparent)]
    Grpc(#[from] ServerError),
    /// The thread of the admin port can't be had.
    #[error("admin port: {0}")]
    Admin(std::io::Error),
    /// The thread of the heartbeats can't be had.
    #[error("heartbeats: {0}")]
    Heartbeats(std::io::Error),
    /// There is no registry.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The name can't be had.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The name was lost.
    #[error(transparent)]
    Superseded(#[from] Superseded),
    /// A part of the router failed; the log says how.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

/// Runs a router until `stop` is cancelled, and then at most `config.stop_grace` longer: it takes no new clients and sends those
/// it has away, spread over some time. `ready` is told once it serves.
///
/// # Errors
/// Why it ended by itself.
pub async fn run(config: Config, stop: CancellationToken, ready: oneshot::Sender<Ready>) -> Result<(), Error> {
    let roster = Arc::new(Roster::new(some(config.connections_per_user).and_then(|most| usize::try_from(most).ok())));
    let rates = Arc::new(Rates::new(config.commands_per_user, config.publishes_per_room));
    let memory = Arc::new(Memory::default());
    let policy = Policy {
        auth: config.auth()?,
        namespaces: config.namespaces(),
        router: config.id.to_string(),
        roster: roster.clone(),
        rates: rates.clone(),
        memory: memory.clone(),
    };
    let guards = Guards {
        addresses: Arc::new(Addresses::new(some(config.connections_per_address))),
        accepts: Bucket::new(config.accept_rate),
        origins: Origins::new(&config.allowed_origins),
        proxies: Proxies::new(config.trusted_proxies.clone()),
        proxy_protocol: config.proxy_protocol,
    };
    let most = config.memory_limit.map_or_else(most_memory, |most| most.0);
    // These end when they are dropped.
    let _memory = AbortOnDropHandle::new(tokio::spawn(async move { memory.watch(most).await }));
    let _rates = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            rates.forget_full();
        }
    }));
    let api = config.api_keys()?;
    let webhook = config.webhook()?.map(Arc::new);
    let proxy = config.proxy()?.map(Arc::new);
    let http = bind("http", &config.http).await?;
    let tls = config.tls()?.map(Arc::new);
    let https = match (&config.https, &tls) {
        (Some(address), Some(tls)) => Some((bind("https", address).await?, tls.clone())),
        _ => None,
    };
    let wire = config.wire()?;
    let grpc = bind("grpc", &config.grpc).await?;
    let watch = match &config.watch_listen {
        Some(address) => bind("watch_listen", address).await?,
        None => bind("grpc", &any_port(&config.grpc)).await?,
    };
    let admin = bind("admin", &config.admin).await?;
    let bound = Ready {
        id: config.id.clone(),
        http: address(&http, &config.http)?,
        https: https.as_ref().map(|(https, _)| address(https, "https")).transpose()?,
        grpc: address(&grpc, &config.grpc)?,
        admin: address(&admin, &config.admin)?,
    };

    let app = Arc::new(App::new(AppConfig {
        limits: limits(&config),
        policy: Arc::new(policy),
        max_message: usize::try_from(config.max_message_bytes.0).unwrap_or(usize::MAX),
        handshake_timeout: config.handshake_timeout.0,
        page: config.page,
        api,
        proxy,
        guards: Arc::new(guards),
    }));
    let site = Arc::new(RouterSite::new(app.clone(), wire.clone()));
    let metrics = RouterMetrics(site.clone(), webhook.clone());
    // From now on: whoever waits for etcd is asked how it is, too.
    let _admin = admin.into_std().and_then(|admin| Admin::start(admin, site.clone(), metrics)).map_err(Error::Admin)?;
    // Ends with `app.stop`.
    let server = tokio::spawn(http::serve(http, app.clone()));
    let _https =
        https.map(|(https, tls)| AbortOnDropHandle::new(tokio::spawn(http::serve_tls(https, app.clone(), tls))));
    let _certificate = tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(async move { tls.follow().await })));
    let keys = app.policy.auth.tokens.as_ref().and_then(Tokens::jwks).cloned();
    // Ends when it is dropped.
    let _keys = keys.map(|keys| AbortOnDropHandle::new(tokio::spawn(async move { keys.follow().await })));
    let admin = AdminService::new(config.id.clone(), app.clone());
    let grpc_stop = CancellationToken::new();
    let (health, grpc) = grpc::server(
        grpc,
        admin.clone(),
        EdgeService { roster: roster.clone(), emulated: app.emulated.clone() },
        wire.clone(),
        grpc_stop.clone(),
    );
    let mut grpc = tokio::spawn(grpc);

    let telling = webhook.map(|webhook| {
        let stop = CancellationToken::new();
        let telling = AbortOnDropHandle::new(tokio::spawn(webhook.clone().run(stop.clone())));
        Telling { webhook, stop, telling }
    });
    let mut parts = Parts { webhook: telling, ..Parts::default() };
    let lived = tokio::select! {
        lived = live((&config, &wire), (&bound, watch), &app, (&admin, &site), &mut parts, || health.serve(), ready) => lived,
        served = &mut grpc => served.unwrap_or(Ok(())).map_err(Error::from).and(Err(Error::Ended("the gRPC server"))),
        () = stop.cancelled() => Ok(()),
    };

    app.set_readiness(Readiness::Stopping);
    let by = Instant::now() + config.stop_grace.0;
    let stopping = async {
        health.stop().await;
        app.closing.cancel();
        if let Some(hub) = &parts.hub {
            hub.hand_over();
        }
        app.send_away(config.drain_spread.map_or(config.stop_grace.0 / 2, |spread| spread.0)).await;
        app.stop.cancel();
        app.tasks.close();
        app.tasks.wait().await;
        parts.stop().await;
        grpc_stop.cancel();
    };
    if timeout_at(by, stopping).await.is_err() {
        tracing::warn!(connections = app.connections(), tasks = app.tasks.len(), "not everything ended in time");
    }
    grpc_stop.cancel();
    // Long-lived calls, such as a watched health check, need not end by themselves.
    grpc.abort();
    server.abort();
    lived
}

/// What is to be stopped in its turn.
#[derive(Default)]
struct Parts {
    registry: Option<Registry>,
    registration: Option<Registration>,
    hub: Option<Hub>,
    heartbeats: Option<Heartbeats>,
    /// Ends when it is dropped.
    denials: Option<AbortOnDropHandle<()>>,
    webhook: Option<Telling>,
}

/// The task that tells the business server what happens in rooms.
struct Telling {
    webhook: Arc<Webhook>,
    stop: CancellationToken,
    /// Ends when it is dropped.
    telling: AbortOnDropHandle<()>,
}

impl Parts {
    async fn stop(self) {
        if let Some(hub) = self.hub {
            hub.stop().await;
        }
        if let Some(Telling { stop, telling, .. }) = self.webhook {
            // Nothing more comes: what waits is told.
            stop.cancel();
            let _ = telling.await;
        }
        if let Some(heartbeats) = self.heartbeats {
            heartbeats.stop().await;
        }
        if let Some(registration) = self.registration
            && let Err(e) = registration.revoke().await
        {
            tracing::warn!(error = %e, "the registration is left to expire");
        }
        if let Some(registry) = self.registry {
            registry.stop().await;
        }
    }
}

/// Brings the router up and returns when a part of it has failed.
async fn live<F: Future<Output = ()>>(
    (config, wire): (&Config, &Wire),
    (bound, watch): (&Ready, TcpListener),
    app: &App<Hub>,
    (admin, site): (&AdminService, &RouterSite),
    parts: &mut Parts,
    serving: impl Fn() -> F,
    ready: oneshot::Sender<Ready>,
) -> Result<(), Error> {
    let etcd = EtcdConfig {
        urls: config.etcd.clone(),
        access: config.etcd_access(),
        cluster: config.cluster.clone(),
        lease_ttl: config.lease_ttl.0,
    };
    let registry = parts.registry.insert(Registry::connect(etcd, CancellationToken::new()).await?);

    site.cluster.follow(registry.view());
    app.set_readiness(Readiness::Starting("waiting to be registered"));
    let grpc_addr = config.advertise.clone().unwrap_or_else(|| bound.grpc.to_string());
    let watch = watch.into_std().map_err(Error::Heartbeats)?;
    let spec = RouterSpec {
        id: config.id.clone(),
        watch_addr: watch_address(&grpc_addr, watch.local_addr().map_err(Error::Heartbeats)?),
        grpc_addr,
        http_addr: bound.http.to_string(),
    };
    let registration = parts.registration.insert(registry.register_router(spec).await?);
    let heartbeat = HeartbeatConfig {
        cluster: config.cluster.clone(),
        id: config.id.clone(),
        me: registration.incarnation(),
        wire: wire.clone(),
        timing: Timing::default(),
    };
    // A router is asked what it hears; it decides nothing, and nobody listens to it.
    let heartbeats = Heartbeats::start(watch, heartbeat, registry.view(), || Duration::ZERO, None);
    parts.heartbeats = Some(heartbeats.map_err(Error::Heartbeats)?);

    app.set_readiness(Readiness::Starting("waiting for what is denied to users"));
    let roster = app.policy.roster.clone();
    let (known, is_known) = oneshot::channel();
    let following = {
        let (registry, roster, mut known) = (registry.clone(), roster.clone(), Some(known));
        async move {
            let told = |change| {
                roster.follow(change);
                known.take().map(|known| known.send(()));
            };
            registry.follow_denials(told).await;
        }
    };
    parts.denials = Some(AbortOnDropHandle::new(tokio::spawn(following)));
    if is_known.await.is_err() {
        return Err(Error::Ended("the watch of denials"));
    }
    app.set_cluster(Cluster::new(config.id.clone(), registry.clone(), roster, wire.clone()));

    app.set_readiness(Readiness::Starting("waiting for a placement"));
    let hub = parts.hub.insert(Hub::start(
        HubConfig {
            cluster: config.cluster.clone(),
            router_id: config.id.clone(),
            wire: wire.clone(),
            registration: registration.state(),
            publish_deadline: config.publish_deadline.0,
            namespaces: Arc::new(config.namespaces()),
            webhook: parts.webhook.as_ref().map(|telling| telling.webhook.clone()),
            queue_bytes: queue_bytes(config),
            workers: None,
        },
        registry,
        &CancellationToken::new(),
    ));
    site.started(hub.clone());
    admin.started(registry.view(), registration.state(), hub.clone());

    let mut view = registry.view();
    if view.wait_for(|view| view.placement.is_some()).await.is_err() {
        return Err(Error::Ended("the registry"));
    }
    app.set_backend(Arc::new(hub.clone()));
    app.set_readiness(Readiness::Ready);
    serving().await;
    tracing::info!(http = %bound.http, grpc = %bound.grpc, admin = %bound.admin, "serving");
    // Whoever started us may not want to know.
    let _ = ready.send(bound.clone());

    tokio::select! {
        superseded = registration.superseded() => Err(superseded.into()),
        () = hub.stopped() => Err(Error::Ended("the hub")),
    }
}

/// 0 stands for any number.
fn some(most: u32) -> Option<u32> {
    Some(most).filter(|most| *most > 0)
}

fn limits(config: &Config) -> Limits {
    Limits {
        ping: config.ping.0,
        pong_timeout: config.pong_timeout.0,
        connect_timeout: config.connect_timeout.0,
        queue_bytes: queue_bytes(config),
        rooms: usize::try_from(config.rooms_per_connection).unwrap_or(usize::MAX),
        commands: config.commands_per_connection,
    }
}

fn queue_bytes(config: &Config) -> usize {
    usize::try_from(config.client_queue_bytes.0).unwrap_or(usize::MAX)
}

async fn bind(field: &'static str, address: &str) -> Result<TcpListener, Error> {
    /// Names are resolved by the system, which may wait for servers that are not there.
    const RESOLVE: Duration = Duration::from_secs(10);
    let bound = tokio::time::timeout(RESOLVE, http::bind(address)).await;
    let bound = bound.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut)));
    bound.map_err(|source| Error::Bind { field, address: address.to_owned(), source })
}

/// The same host with a free port.
fn any_port(address: &str) -> String {
    format!("{}:0", address.rsplit_once(':').map_or(address, |(host, _)| host))
}

fn address(listener: &TcpListener, configured: &str) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Bind { field: "address", address: configured.to_owned(), source };
    listener.local_addr().map_err(failed)
}
