//! Keeps a stream open to every other process that the placement names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use roomring_control::view::ClusterView;
use roomring_proto::v1::peer_client::PeerClient;
use roomring_proto::{Incarnation, limits};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::inbox::{Inbox, greet};
use super::{batch, hello};
use crate::greeting::HELLO_DEADLINE;
use crate::outbox::Outbox;
use crate::server::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::shell::Shell;
use crate::worker::Mail;

/// First wait after a stream ended: a node whose process merely dropped a connection is back at once.
const BACK_OFF_LEAST: Duration = Duration::from_millis(20);

/// Longest wait between attempts: a node that comes back is reached within this.
const BACK_OFF_MOST: Duration = Duration::from_secs(1);

/// How long a TCP connection may take; within a cluster it takes milliseconds.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Follows the placement and dials.
#[derive(Debug)]
pub(crate) struct Dialer {
    shell: Arc<Shell>,
    /// By process: where it is dialled, and how to stop that.
    calls: BTreeMap<Incarnation, (String, CancellationToken)>,
}

impl Dialer {
    pub(crate) fn new(shell: Arc<Shell>) -> Self {
        Self { shell, calls: BTreeMap::new() }
    }

    /// Runs until the node stops.
    pub(crate) async fn run(mut self, mut view: watch::Receiver<ClusterView>) {
        let stop = self.shell.stop.clone();
        loop {
            let wanted = self.wanted(&view.borrow_and_update());
            self.dial(&wanted);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Where the other processes are. An address has one process, the latest: those that it replaced, this process's own
    /// predecessors too, are dead although they may still hold seats.
    fn wanted(&self, view: &ClusterView) -> BTreeMap<Incarnation, String> {
        let members = view.placement.iter().flat_map(|p| &p.members);
        let latest: BTreeMap<&str, Incarnation> = members.map(|(i, m)| (m.grpc_addr.as_str(), *i)).collect();
        let others = latest.into_iter().filter(|(addr, _)| *addr != self.shell.advertised);
        others.map(|(addr, incarnation)| (incarnation, addr.to_owned())).collect()
    }

    fn dial(&mut self, wanted: &BTreeMap<Incarnation, String>) {
        self.calls.retain(|peer, (addr, stop)| {
            let keep = wanted.get(peer) == Some(addr);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (peer, addr) in wanted {
            if self.calls.contains_key(peer) {
                continue;
            }
            let stop = self.shell.stop.child_token();
            self.calls.insert(*peer, (addr.clone(), stop.clone()));
            let call = Call { shell: Arc::clone(&self.shell), peer: *peer, addr: addr.clone() };
            self.shell.tasks.spawn(call.keep(stop));
        }
    }
}

/// The stream to one process.
struct Call {
    shell: Arc<Shell>,
    peer: Incarnation,
    addr: String,
}

impl Call {
    /// Opens the stream again whenever it ends, until `stop`.
    async fn keep(self, stop: CancellationToken) {
        let mut wait = BACK_OFF_LEAST;
        let mut last_problem = String::new();
        while !stop.is_cancelled() {
            let mut greeted = false;
            let end = self.session(&stop, &mut greeted).await;
            if stop.is_cancelled() {
                return;
            }
            let problem = end.err().map_or_else(|| "ended by the node".to_owned(), |s| s.message().to_owned());
            if greeted {
                wait = BACK_OFF_LEAST;
                last_problem.clear();
            }
            // A node that stays away says so once.
            if problem == last_problem {
                tracing::debug!(incarnation = %self.peer, addr = self.addr, problem, "no stream to a node");
            } else {
                tracing::info!(incarnation = %self.peer, addr = self.addr, problem, "no stream to a node, trying again");
                last_problem = problem;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(BACK_OFF_MOST);
        }
    }

    async fn session(&self, stop: &CancellationToken, greeted: &mut bool) -> Result<(), Status> {
        let endpoint = self
            .shell
            .wire
            .endpoint(&self.addr)
            .map_err(|e| Status::invalid_argument(format!("address {:?}: {e}", self.addr)))?
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let outbox = Outbox::new();
        let vitals = self.shell.vitals.clone();
        let outbound = outbox.stream(batch, move || vitals.peer_heartbeat());
        // An error of ours ends the stream; the other side need not know which.
        let outbound =
            outbound.take_while(|b| std::future::ready(b.is_ok())).filter_map(|b| std::future::ready(b.ok()));
        outbox.push([hello(&self.shell)]);

        let open = async {
            let channel = endpoint.connect().await.map_err(|e| Status::unavailable(chain(&e)))?;
            let mut client = PeerClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
            Ok::<_, Status>(client.open(outbound).await?.into_inner())
        };
        let mut inbound = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = timeout(CONNECT_DEADLINE + HELLO_DEADLINE, open) => {
                opened.map_err(|_| Status::deadline_exceeded("the stream was not opened in time"))??
            }
        };
        let callee = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            callee = greet(&self.shell, &mut inbound) => callee?,
        };
        if callee.incarnation != self.peer {
            let (node, found) = (callee.node, callee.incarnation);
            return Err(Status::failed_precondition(format!("{node} is another process there: {found}")));
        }
        *greeted = true;
        let peer = self.peer;
        tracing::info!(node = %callee.node, incarnation = %peer, "stream to a node open");
        self.shell.workers.broadcast(|| Mail::PeerUp { peer, outbox: outbox.clone() }).await?;
        let mut inbox = Inbox::new(&self.shell, &outbox, &callee);
        let end = tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = inbox.run(&mut inbound) => end,
        };
        outbox.close(None);
        self.shell.workers.broadcast(|| Mail::PeerDown(peer)).await?;
        end
    }
}

/// An error with its causes; tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
