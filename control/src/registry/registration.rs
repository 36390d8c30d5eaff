//! This process's entry in the registry, as its owner sees it.

use std::time::Duration;

use roomring_proto::{Incarnation, NodeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::DropGuard;

use crate::home::Home;

use super::Registry;
use super::claim::{Record, describe};
use super::client::EtcdError;
use super::keeper::{Command, Keeper};

/// Commands under way to the keeper: a caller waits for each, so more would only be callers who gave up.
const COMMANDS: usize = 4;

/// How long a command may take: time for a few requests, and for a stopping process to stop without etcd.
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// What a node tells of itself.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its configured name.
    pub id: NodeId,
    /// host:port of its gRPC server, as others reach it.
    pub grpc_addr: String,
    /// Failure zone, may be empty.
    pub zone: String,
    /// Relative share of slots in percent.
    pub weight: u32,
    /// host:port of its watch service, as others reach it; may be empty.
    pub watch_addr: String,
}

/// What a router tells of itself.
#[derive(Debug, Clone)]
pub struct RouterSpec {
    /// Its configured name.
    pub id: NodeId,
    /// host:port of its gRPC server, as others reach it.
    pub grpc_addr: String,
    /// host:port of its client-facing HTTP server.
    pub http_addr: String,
    /// host:port of its watch service, as others reach it; may be empty.
    pub watch_addr: String,
}

/// Why a process could not register.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A live process of that name exists elsewhere.
    #[error(
        "{what} is in use by {held_by}; stop that process or choose another --id (a dead process frees its id within {})",
        humantime::format_duration(*ttl)
    )]
    InUse {
        /// "node id node-1".
        what: String,
        /// Its address.
        held_by: String,
        /// What was waited for.
        ttl: Duration,
    },
    /// The registry was stopped meanwhile.
    #[error("stopped before the registration was done")]
    Stopped,
}

/// A later process has this one's name: stop at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} was taken over by {held_by} while this process was out of contact with etcd; stopping")]
pub struct Superseded {
    /// "node id node-1".
    pub what: String,
    /// The other's address.
    pub held_by: String,
}

/// How a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationState {
    /// Who this process is. It changes only when the placement got a new uid, on which everything held is to be dropped.
    pub incarnation: Incarnation,
    /// Set once, at the end.
    pub superseded: Option<Superseded>,
}

/// A process's entry in the registry, kept alive until it is revoked. When this is dropped the entry is left to expire.
#[derive(Debug)]
pub struct Registration {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<RegistrationState>,
    _stop_on_drop: DropGuard,
}

impl Registry {
    /// Registers this process as a node. A key left by a dead process with the same home is replaced at once; one of another
    /// home is given one lease to go away. Waits for etcd as long as it takes.
    ///
    /// # Errors
    /// If another live process has the id.
    pub async fn register_node(&self, spec: NodeSpec, home: &Home) -> Result<Registration, RegisterError> {
        let key = self.shared.keys.node(&spec.id);
        self.register(key, Record::node(&spec, home.id()), spec.id).await
    }

    /// Registers this process as a router. A key left by a dead process is given one lease to go away.
    ///
    /// # Errors
    /// If another live process has the id.
    pub async fn register_router(&self, spec: RouterSpec) -> Result<Registration, RegisterError> {
        let key = self.shared.keys.router(&spec.id);
        self.register(key, Record::router(&spec), spec.id).await
    }

    async fn register(&self, key: String, record: Record, id: NodeId) -> Result<Registration, RegisterError> {
        let what = describe(&record, &id);
        let mut keeper = Keeper::new(self.shared.clone(), key, record, what);
        let incarnation = match self.stop.run_until_cancelled(keeper.register()).await {
            Some(registered) => registered?,
            None => return Err(RegisterError::Stopped),
        };
        let (state, states) = watch::channel(RegistrationState { incarnation, superseded: None });
        let (commands, queue) = mpsc::channel(COMMANDS);
        let stop = self.stop.child_token();
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(keeper.run(queue, state)));
        Ok(Registration { commands, state: states, _stop_on_drop: stop.drop_guard() })
    }
}

impl Registration {
    /// Who this process is now; see [`RegistrationState::incarnation`].
    pub fn incarnation(&self) -> Incarnation {
        self.state.borrow().incarnation
    }

    /// How the registration stands, now and whenever that changes.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Returns once a later process has this one's name; never otherwise.
    pub async fn superseded(&self) -> Superseded {
        let mut states = self.state.clone();
        let found = states.wait_for(|s| s.superseded.is_some()).await.ok().and_then(|s| s.superseded.clone());
        match found {
            Some(superseded) => superseded,
            // The registry was stopped: nobody will tell any more.
            None => std::future::pending().await,
        }
    }

    /// Says, or takes back, that this node is about to stop, so that the ring leaves it out.
    ///
    /// # Errors
    /// If etcd does not answer: the caller may try again.
    pub async fn set_draining(&self, draining: bool) -> Result<(), EtcdError> {
        self.ask(|done| Command::SetDraining { draining, done }).await
    }

    /// Ends the registration now: the process must have stopped serving. If etcd does not answer the key expires by itself.
    ///
    /// # Errors
    /// If etcd does not answer.
    pub async fn revoke(self) -> Result<(), EtcdError> {
        self.ask(|done| Command::Revoke { done }).await
    }

    async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<(), EtcdError> {
        let ended = || EtcdError::new("(none)", "the registration has ended");
        let (done, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(command(done)).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        // While etcd is away the keeper is busy waiting for it.
        let late = |_| EtcdError::new("(any)", "no answer in time");
        tokio::time::timeout(COMMAND_DEADLINE, asked).await.map_err(late)?
    }
}

/// Where a command's outcome goes.
pub(super) type Answer = oneshot::Sender<Result<(), EtcdError>>;
