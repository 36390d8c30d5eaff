//! The task that keeps a registration: its lease, its key, its incarnation.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Error, PutOptions, Txn, TxnOp, TxnOpResponse};
use roomring_proto::{Incarnation, Uid};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Shared;
use super::backoff::Backoff;
use super::claim::{Goal, Holder, Record, Verdict, incarnation_at};
use super::client::{self, EtcdError};
use super::registration::{Answer, RegisterError, RegistrationState, Superseded};
use super::state::OwnKey;

/// On top of a lease's time before its holder is taken to be alive: etcd looks for expired leases twice a second.
const EXPIRY_SLACK: Duration = Duration::from_secs(2);

/// How often a key that should go away is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the owner of a registration wants.
#[derive(Debug)]
pub(super) enum Command {
    SetDraining { draining: bool, done: Answer },
    Revoke { done: Answer },
}

/// One try to get hold of the key.
enum Attempt {
    Held(Incarnation),
    HeldByOther(String),
    Superseded(String),
}

/// Somebody else holds the key and may be dead.
struct Waiting {
    until: Instant,
    ttl: Duration,
}

#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    key: String,
    record: Record,
    /// How people know this process, for messages.
    what: String,
    lease: Option<i64>,
    incarnation: Incarnation,
    /// Placement history in which the incarnation was taken.
    uid: Option<Uid>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, key: String, record: Record, what: String) -> Self {
        Self { shared, key, record, what, lease: None, incarnation: Incarnation(0), uid: None }
    }

    /// Takes the key for the first time, however long etcd is away.
    pub(super) async fn register(&mut self) -> Result<Incarnation, RegisterError> {
        self.uid = self.seen_uid();
        match self.obtain(Goal::Register).await {
            Ok(incarnation) => {
                self.incarnation = incarnation;
                tracing::info!(%incarnation, "registered as {}", self.what);
                Ok(incarnation)
            }
            Err(Lost { held_by, ttl, .. }) => Err(RegisterError::InUse { what: self.what.clone(), held_by, ttl }),
        }
    }

    /// Keeps it until revoked or superseded.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, state: watch::Sender<RegistrationState>) {
        let mut view = self.shared.view.subscribe();
        let mut next = Instant::now() + self.keep_alive_interval();
        let shared = self.shared.clone();
        loop {
            let step = tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    let (step, wait) = self.on_keep_alive(&state).await;
                    next = Instant::now() + wait;
                    step
                }
                () = shared.own_key_lost.notified() => self.take_back(&state).await,
                // An error means that the registry is gone, and this task with it.
                Ok(()) = view.changed() => self.on_view(&state).await,
                command = commands.recv() => match command {
                    Some(Command::SetDraining { draining, done }) => {
                        self.record.set_draining(draining);
                        let _ = done.send(self.rewrite().await);
                        ControlFlow::Continue(())
                    }
                    Some(Command::Revoke { done }) => {
                        let _ = done.send(self.revoke().await);
                        ControlFlow::Break(())
                    }
                    None => ControlFlow::Break(()),
                },
            };
            if step.is_break() {
                break;
            }
        }
        self.shared.update(|s| s.set_own(None));
    }

    fn keep_alive_interval(&self) -> Duration {
        self.shared.lease_ttl / 3
    }

    /// Returns how long to wait before the next one.
    async fn on_keep_alive(&mut self, state: &watch::Sender<RegistrationState>) -> (ControlFlow<()>, Duration) {
        let Some(lease) = self.lease else { return (self.take_back(state).await, self.keep_alive_interval()) };
        // A stream of one request: a broken one is noticed at once and the next goes to another server.
        let kept = self.shared.etcd.call(|c| async move {
            match c.lease_client().keep_alive(lease).await {
                Ok(_) => Ok(true),
                Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        });
        match kept.await {
            Ok(true) => (ControlFlow::Continue(()), self.keep_alive_interval()),
            Ok(false) => {
                tracing::warn!("{}: the lease ran out, registering again", self.what);
                self.lease = None;
                (self.take_back(state).await, self.keep_alive_interval())
            }
            Err(error) => {
                let again = self.keep_alive_interval().min(Duration::from_millis(500));
                self.shared.outage.failed(&error, again);
                (ControlFlow::Continue(()), again)
            }
        }
    }

    async fn on_view(&mut self, state: &watch::Sender<RegistrationState>) -> ControlFlow<()> {
        let seen = self.seen_uid();
        if seen.is_none() || seen == self.uid {
            return ControlFlow::Continue(());
        }
        let first = self.uid.is_none();
        self.uid = seen;
        if first {
            return ControlFlow::Continue(());
        }
        // The revisions that incarnations are named after may have begun again with it.
        tracing::warn!("{}: the placement has a new uid, taking a new incarnation", self.what);
        self.hold(Goal::StartAnew, state).await
    }

    async fn take_back(&mut self, state: &watch::Sender<RegistrationState>) -> ControlFlow<()> {
        self.hold(Goal::Renew(self.incarnation), state).await
    }

    async fn hold(&mut self, goal: Goal, state: &watch::Sender<RegistrationState>) -> ControlFlow<()> {
        match self.obtain(goal).await {
            Ok(incarnation) => {
                self.incarnation = incarnation;
                state.send_if_modified(|s| std::mem::replace(&mut s.incarnation, incarnation) != incarnation);
                ControlFlow::Continue(())
            }
            Err(Lost { held_by, .. }) => {
                let superseded = Superseded { what: self.what.clone(), held_by };
                tracing::error!("{superseded}");
                state.send_modify(|s| s.superseded = Some(superseded));
                ControlFlow::Break(())
            }
        }
    }

    /// Gets hold of the key, or finds that somebody else keeps it.
    async fn obtain(&mut self, goal: Goal) -> Result<Incarnation, Lost> {
        let mut backoff = Backoff::default();
        let mut waiting: Option<Waiting> = None;
        loop {
            match self.attempt(goal, &mut waiting).await {
                Ok(Attempt::Held(incarnation)) => return Ok(incarnation),
                Ok(Attempt::Superseded(held_by)) => return Err(Lost { held_by, ttl: Duration::ZERO }),
                Ok(Attempt::HeldByOther(held_by)) => {
                    if let Some(w) = waiting.as_ref().filter(|w| Instant::now() >= w.until) {
                        return Err(Lost { held_by, ttl: w.ttl });
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(error) if error.lease_gone => self.lease = None,
                Err(error) => {
                    let wait = backoff.next();
                    self.shared.outage.failed(&error, wait);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn attempt(&mut self, goal: Goal, waiting: &mut Option<Waiting>) -> Result<Attempt, EtcdError> {
        let lease = self.lease().await?;
        let own = match goal {
            Goal::Renew(incarnation) => Some(incarnation),
            Goal::Register | Goal::StartAnew => None,
        };
        let mut expected = 0;
        // Twice: to look, and to replace what was seen. A third would mean that others write it all the time.
        for _ in 0..3 {
            let holder = match self.write(own, lease, expected).await? {
                Written::At(revision) => {
                    self.holds(lease);
                    return Ok(Attempt::Held(own.unwrap_or_else(|| incarnation_at(revision))));
                }
                Written::Absent => {
                    expected = 0;
                    continue;
                }
                Written::HeldBy(holder) => holder,
            };
            match self.record.judge(goal, lease, &holder) {
                Verdict::Mine(incarnation) => {
                    self.holds(lease);
                    return Ok(Attempt::Held(incarnation));
                }
                Verdict::Replace => expected = holder.mod_revision,
                Verdict::Superseded { held_by } => return Ok(Attempt::Superseded(held_by)),
                Verdict::Wait { held_by } => {
                    if waiting.is_none() {
                        *waiting = Some(self.wait_for(&holder, &held_by).await);
                    }
                    return Ok(Attempt::HeldByOther(held_by));
                }
            }
        }
        Err(EtcdError::new(self.shared.etcd.url(), format!("{} changes all the time", self.key)))
    }

    /// The lease in use, or a new one.
    async fn lease(&mut self) -> Result<i64, EtcdError> {
        if let Some(lease) = self.lease {
            return Ok(lease);
        }
        let ttl = seconds(self.shared.lease_ttl);
        let granted = self.shared.etcd.call(|c| async move { c.lease_client().grant(ttl, None).await }).await?;
        self.lease = Some(granted.id());
        Ok(granted.id())
    }

    /// From now on reads that return this key on this lease count as contact.
    fn holds(&self, lease: i64) {
        let own = OwnKey { key: self.key.clone(), lease };
        self.shared.update(|s| s.set_own(Some(own)));
        // At once: slots may come to this process within milliseconds, and without contact it serves none.
        self.shared.check_soon.notify_one();
    }

    /// How long somebody else's key may take to go away if its process is dead.
    async fn wait_for(&self, holder: &Holder, held_by: &str) -> Waiting {
        let lease = holder.lease;
        let asked = self.shared.etcd.call(|c| async move { c.lease_client().time_to_live(lease, None).await }).await;
        let theirs = asked.ok().and_then(|a| u64::try_from(a.granted_ttl()).ok()).unwrap_or(0);
        let ttl = Duration::from_secs(theirs).max(self.shared.lease_ttl);
        tracing::info!(
            "{} is held by {held_by}: waiting up to {} for its lease to run out",
            self.what,
            humantime::format_duration(ttl)
        );
        Waiting { until: Instant::now() + ttl + EXPIRY_SLACK, ttl }
    }

    /// Writes the key if its mod_revision is `expected` (0 = it is absent).
    async fn write(&self, incarnation: Option<Incarnation>, lease: i64, expected: i64) -> Result<Written, EtcdError> {
        let key = self.key.as_str();
        let put = TxnOp::put(key, self.record.encode(incarnation), Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then([put])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.shared.etcd.call(|c| async move { client::kv(&c).txn(txn).await }).await?;
        if answer.succeeded() {
            return Ok(Written::At(answer.header().map_or(0, etcd_client::ResponseHeader::revision)));
        }
        let holder = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(range) => range.kvs().first().map(|kv| Holder {
                value: kv.value().to_vec(),
                mod_revision: kv.mod_revision(),
                lease: kv.lease(),
            }),
            _ => None,
        });
        Ok(holder.map_or(Written::Absent, Written::HeldBy))
    }

    /// Writes the key anew, with what changed in the record.
    async fn rewrite(&mut self) -> Result<(), EtcdError> {
        let lease = self.lease().await?;
        let mut expected = 0;
        for _ in 0..3 {
            match self.write(Some(self.incarnation), lease, expected).await? {
                Written::At(_) => {
                    self.holds(lease);
                    return Ok(());
                }
                Written::Absent => expected = 0,
                Written::HeldBy(holder) => {
                    let goal = Goal::Renew(self.incarnation);
                    match self.record.judge(goal, lease, &holder) {
                        Verdict::Mine(_) | Verdict::Replace => expected = holder.mod_revision,
                        Verdict::Wait { held_by } | Verdict::Superseded { held_by } => {
                            let reason = format!("{} is held by {held_by}", self.what);
                            return Err(EtcdError::new(self.shared.etcd.url(), reason));
                        }
                    }
                }
            }
        }
        Err(EtcdError::new(self.shared.etcd.url(), format!("{} changes all the time", self.key)))
    }

    async fn revoke(&mut self) -> Result<(), EtcdError> {
        self.shared.update(|s| s.set_own(None));
        let Some(lease) = self.lease.take() else { return Ok(()) };
        match self.shared.etcd.call(|c| async move { c.lease_client().revoke(lease).await }).await {
            Ok(_) => Ok(()),
            Err(error) if error.lease_gone => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn seen_uid(&self) -> Option<Uid> {
        self.shared.view.borrow().placement.as_ref().map(|p| p.uid)
    }
}

/// Somebody else keeps the key.
struct Lost {
    held_by: String,
    ttl: Duration,
}

enum Written {
    At(i64),
    Absent,
    HeldBy(Holder),
}

/// etcd's unit for leases.
fn seconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1)
}
