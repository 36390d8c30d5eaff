//! Listening: one stream to each other node, opened again whenever it ends.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use roomring_proto::v1::watch_client::WatchClient;
use roomring_proto::{Incarnation, LINK_VERSION, v1};
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tonic::Status;

use super::Shared;
use crate::clock::Time;
use crate::detector::Event;
use crate::load::NodeLoad;

/// First wait after a failed attempt; the first attempt after a break comes at once.
const BACK_OFF_LEAST: Duration = Duration::from_millis(10);

/// Longest wait between attempts: a node that comes back is heard within this.
const BACK_OFF_MOST: Duration = Duration::from_millis(500);

/// How long opening a stream may take; within a cluster it takes milliseconds.
const OPEN_DEADLINE: Duration = Duration::from_secs(1);

/// A stream without a beat for so long is given up for a new one: a connection through a machine that is gone says nothing.
const GIVE_UP: Duration = Duration::from_secs(2);

/// The nodes listened to.
#[derive(Debug)]
pub(super) struct Ears {
    shared: Arc<Shared>,
    /// Where each is; its ear ends when the guard is dropped.
    open: BTreeMap<Incarnation, (String, DropGuard)>,
}

impl Ears {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: BTreeMap::new() }
    }

    /// Listens to these from now on, and to no others.
    pub(super) fn listen_to(&mut self, wanted: &BTreeMap<Incarnation, &str>) {
        self.open.retain(|peer, (addr, _)| wanted.get(peer) == Some(&addr.as_str()));
        for (peer, addr) in wanted {
            if self.open.contains_key(peer) {
                continue;
            }
            let stop = self.shared.stop.child_token();
            let ear = Ear { shared: Arc::clone(&self.shared), peer: *peer, addr: (*addr).to_owned() };
            tokio::spawn(stop.clone().run_until_cancelled_owned(ear.keep()));
            self.open.insert(*peer, ((*addr).to_owned(), stop.drop_guard()));
        }
    }
}

/// The stream from one node.
struct Ear {
    shared: Arc<Shared>,
    peer: Incarnation,
    addr: String,
}

/// Why a stream ended, or was not to be had.
enum End {
    /// Nobody listens there, or somebody else does.
    Gone(String),
    /// Anything else.
    Broken(String),
}

impl Ear {
    async fn keep(self) {
        let mut wait = Duration::ZERO;
        let mut last_problem = String::new();
        loop {
            let mut heard = false;
            let end = self.listen(&mut heard).await;
            if heard {
                wait = Duration::ZERO;
                last_problem.clear();
                self.tell(Event::Broken(self.peer)).await;
            }
            let problem = match end {
                End::Gone(problem) => {
                    self.tell(Event::Refused(self.peer)).await;
                    problem
                }
                End::Broken(problem) => problem,
            };
            if problem != last_problem {
                tracing::debug!(incarnation = %self.peer, addr = self.addr, problem, "no heartbeats from a node");
                last_problem = problem;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).clamp(BACK_OFF_LEAST, BACK_OFF_MOST);
        }
    }

    async fn tell(&self, event: Event) {
        // The detector ends last.
        let _ = self.shared.events.send(event).await;
    }

    async fn listen(&self, heard: &mut bool) -> End {
        let endpoint = match self.shared.config.wire.endpoint(&self.addr) {
            Ok(endpoint) => endpoint.connect_timeout(OPEN_DEADLINE).tcp_nodelay(true),
            Err(e) => return End::Broken(format!("address {:?}: {e}", self.addr)),
        };
        let config = &self.shared.config;
        let request = v1::ListenRequest {
            version: Some(LINK_VERSION),
            cluster: config.cluster.to_string(),
            id: config.id.to_string(),
            incarnation: config.me.0,
            loads: self.shared.wants_loads,
        };
        let open = async {
            let channel = endpoint.connect().await.map_err(|e| match is_refused(&e) {
                true => End::Gone("connection refused".to_owned()),
                false => End::Broken(e.to_string()),
            })?;
            WatchClient::new(channel).listen(request).await.map_err(|s| End::Broken(s.message().to_owned()))
        };
        let mut beats = match timeout(OPEN_DEADLINE * 2, open).await {
            Ok(Ok(beats)) => beats.into_inner(),
            Ok(Err(end)) => return end,
            Err(_) => return End::Broken("the stream was not opened in time".to_owned()),
        };
        loop {
            let beat = match timeout(GIVE_UP, beats.message()).await {
                Ok(Ok(Some(beat))) => beat,
                Ok(Ok(None)) => return End::Broken("ended by the node".to_owned()),
                Ok(Err(status)) => return End::Broken(status.message().to_owned()),
                Err(_) => return End::Broken(format!("nothing came for {GIVE_UP:?}")),
            };
            match self.check(&beat) {
                Ok(()) if beat.incarnation == self.peer.0 => {}
                Ok(()) => return End::Gone(format!("another process, i{}, is there", beat.incarnation)),
                Err(status) => return End::Broken(status.message().to_owned()),
            }
            *heard = true;
            if let Some(load) = &beat.load {
                let told = (NodeLoad::read(load), Time::now());
                self.shared.loads.send_modify(|loads| _ = loads.0.insert(self.peer, told));
            }
            let worker_age = Duration::from_millis(beat.worker_age_ms);
            let contact_age = Duration::from_millis(beat.contact_age_ms);
            self.tell(Event::Heard { from: self.peer, worker_age, contact_age }).await;
        }
    }

    fn check(&self, beat: &v1::Beat) -> Result<(), Status> {
        check(beat.version, &beat.cluster, &self.shared)
    }
}

/// Whether the other speaks our protocol and belongs to our cluster.
pub(super) fn check(version: Option<v1::Version>, cluster: &str, shared: &Shared) -> Result<(), Status> {
    let major = version.map(|v| v.major);
    if major != Some(LINK_VERSION.major) {
        let ours = LINK_VERSION.major;
        return Err(Status::failed_precondition(format!("watch protocol {major:?} is not spoken here, only {ours}")));
    }
    if cluster != shared.config.cluster.as_str() {
        let ours = &shared.config.cluster;
        let theirs: String = cluster.chars().take(64).collect();
        return Err(Status::failed_precondition(format!("this process belongs to cluster {ours}, not {theirs:?}")));
    }
    Ok(())
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}
