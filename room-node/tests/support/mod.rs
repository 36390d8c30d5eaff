//! Real etcd, a node in this process, and a router's link written by hand.
// Every test program uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use roomring_control::daemon::telemetry::LogFormat;
use roomring_node::config::{Config, Flags};
use roomring_node::{Error, Ready};
use roomring_proto::v1::link_client::LinkClient;
use roomring_proto::v1::node_message::Kind as FromNode;
use roomring_proto::v1::router_message::Kind as FromRouter;
use roomring_proto::{LINK_VERSION, RoomId, v1};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Far above what anything here takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SLOTS: u32 = 8;

/// An etcd server of its own; ends when dropped.
pub(crate) struct Etcd {
    child: Child,
    pub(crate) url: String,
    peer: String,
    dir: TempDir,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        // Shown with the output of tests that fail, if wanted: `ROOMRING_TEST_LOG=info`.
        if let Ok(filter) = std::env::var("ROOMRING_TEST_LOG") {
            roomring_control::daemon::telemetry::start(&filter, LogFormat::Text).unwrap();
        }
        let [url, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let dir = tempfile::tempdir().unwrap();
        Self { child: spawn(dir.path(), &url, &peer), url, peer, dir }
    }

    /// Loses all data: the process dies and another starts empty at the same address.
    #[allow(dead_code, reason = "not every test binary does this")]
    pub(crate) fn wipe(&mut self) {
        self.kill();
        self.dir = tempfile::tempdir().unwrap();
        self.child = spawn(self.dir.path(), &self.url, &self.peer);
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Path, url: &str, peer: &str) -> Child {
    Command::new("etcd")
        .args(["--data-dir", dir.to_str().unwrap(), "--log-level=error", "--unsafe-no-fsync"])
        .args(["--listen-client-urls", url, "--advertise-client-urls", url])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is installed (Debian: etcd-server)")
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A node in this process.
pub(crate) struct Node {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), Error>>,
    pub(crate) addr: SocketAddr,
}

/// Settings of a test node; later flags win.
pub(crate) fn config(etcd: &Etcd, id: &str, home: &Path, flags: &[&str]) -> Config {
    let (id, etcd) = (format!("--id={id}"), format!("--etcd={}", etcd.url));
    let (home, slots) = (format!("--home={}", home.display()), format!("--slots={SLOTS}"));
    // One copy: where a slot is shows in who serves it. Two workers, wherever this runs.
    let common = ["--threads=2", "--replication=1", "--listen=127.0.0.1:0", "--presence-grace=1s"];
    let args = ["roomring-node", &id, &etcd, &home, &slots].into_iter().chain(common);
    let args: Vec<&str> = args.chain(flags.iter().copied()).collect();
    roomring_control::daemon::config::parse::<Flags, Config>(args).unwrap()
}

impl Node {
    pub(crate) async fn start(config: Config) -> Self {
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(roomring_node::run(config, stop.clone(), ready));
        match timeout(PATIENCE, is_ready).await.expect("ready in time") {
            Ok(Ready { grpc, .. }) => Self { stop, task, addr: grpc },
            Err(_) => panic!("the node ended: {:?}", task.await),
        }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("ends in time").unwrap().unwrap();
    }
}

/// A router's link.
pub(crate) struct Link {
    outbound: mpsc::Sender<v1::RouterBatch>,
    inbound: Streaming<v1::NodeBatch>,
    waiting: Vec<FromNode>,
    /// Slots that were attached whole before.
    attached: BTreeSet<u32>,
}

/// The hello of a router process whose incarnation is `router`.
pub(crate) fn hello(router: u64, session: u64) -> v1::RouterHello {
    v1::RouterHello {
        version: Some(LINK_VERSION),
        cluster: "roomring".to_owned(),
        router_id: format!("router-{router}"),
        router,
        session,
        placement: None,
        visits: false,
    }
}

impl Link {
    /// A stream on which nothing was sent yet.
    pub(crate) async fn silent(addr: SocketAddr) -> Self {
        let (outbound, batches) = mpsc::channel(64);
        let mut client = LinkClient::connect(format!("http://{addr}")).await.unwrap();
        let inbound = client.open(ReceiverStream::new(batches)).await.unwrap().into_inner();
        Self { outbound, inbound, waiting: Vec::new(), attached: BTreeSet::new() }
    }

    /// A link whose hello was answered.
    pub(crate) async fn open(addr: SocketAddr, hello: v1::RouterHello) -> (Self, v1::NodeHello) {
        let mut link = Self::silent(addr).await;
        link.send(FromRouter::Hello(hello)).await;
        match link.next().await {
            FromNode::Hello(hello) => (link, hello),
            other => panic!("instead of a hello: {other:?}"),
        }
    }

    pub(crate) async fn send(&self, kind: FromRouter) {
        self.send_batch(vec![kind]).await;
    }

    pub(crate) async fn send_batch(&self, kinds: Vec<FromRouter>) {
        let messages = kinds.into_iter().map(|kind| v1::RouterMessage { kind: Some(kind) }).collect();
        // A closed link shows when it is read.
        let _ = self.outbound.send(v1::RouterBatch { messages }).await;
    }

    /// The next message that is no heartbeat and no placement; meanwhile the link is kept alive.
    pub(crate) async fn next(&mut self) -> FromNode {
        timeout(PATIENCE, self.try_next()).await.expect("a message in time").expect("an open link")
    }

    /// As [`Link::next`], or how the link ended.
    pub(crate) async fn try_next(&mut self) -> Result<FromNode, Status> {
        let mut beats = tokio::time::interval(Duration::from_millis(250));
        loop {
            if !self.waiting.is_empty() {
                match self.waiting.remove(0) {
                    FromNode::Heartbeat(_) | FromNode::Placement(_) => continue,
                    kind => return Ok(kind),
                }
            }
            // A hello must be the first thing sent, so a beat comes after the first wait only.
            tokio::select! {
                biased;
                batch = self.inbound.message() => {
                    let batch = batch?.ok_or_else(|| Status::ok("ended"))?;
                    self.waiting.extend(batch.messages.into_iter().filter_map(|m| m.kind));
                }
                _ = beats.tick() => {
                    self.send(FromRouter::Heartbeat(v1::RouterHeartbeat { placement: None })).await;
                }
            }
        }
    }

    /// Reads and keeps the link alive for this long.
    pub(crate) async fn idle(&mut self, time: Duration) {
        let reading = async {
            loop {
                self.try_next().await.expect("an open link");
            }
        };
        let _ = timeout(time, reading).await;
    }

    /// The next raw message, heartbeats and placements too; nothing is sent.
    pub(crate) async fn raw(&mut self) -> Result<Option<v1::NodeBatch>, Status> {
        timeout(PATIENCE, self.inbound.message()).await.expect("something in time")
    }

    /// How the link ends.
    pub(crate) async fn end(&mut self) -> Status {
        let end = async {
            loop {
                match self.raw().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("ended"),
                    Err(status) => return status,
                }
            }
        };
        timeout(PATIENCE, end).await.expect("the link ends")
    }

    /// Attaches `room` with these members, at the position after `from`.
    pub(crate) async fn attach(
        &mut self,
        room: &str,
        members: &[&str],
        from: Option<(v1::Epoch, u64, u64)>,
    ) -> v1::RoomAttached {
        let (epoch, seq, lsn) = from.map_or((None, 0, 0), |(e, s, l)| (Some(e), s, l));
        let members = members.iter().map(|m| client(m)).collect();
        let rooms = vec![v1::RoomAttach { room: room.to_owned(), epoch, seq, lsn, members, keeps: None }];
        // As routers do: the slot as a whole first, then what is added to it.
        let whole = self.attached.insert(slot(room));
        let attach = v1::Attach { slot: slot(room), attach_id: 7, rooms, whole, ..Default::default() };
        self.send(FromRouter::Attach(attach)).await;
        loop {
            match self.next().await {
                FromNode::Attached(mut a) => {
                    assert_eq!((a.attach_id, a.refused, a.rooms.len()), (7, None, 1));
                    return a.rooms.remove(0);
                }
                FromNode::Deliver(_) => {}
                other => panic!("instead of an attached: {other:?}"),
            }
        }
    }

    /// The next delivery.
    pub(crate) async fn deliver(&mut self) -> v1::Deliver {
        match self.next().await {
            FromNode::Deliver(d) => d,
            other => panic!("instead of a delivery: {other:?}"),
        }
    }
}

pub(crate) fn slot(room: &str) -> u32 {
    RoomId::new(room).unwrap().slot(SLOTS).0
}

pub(crate) fn client(id: &str) -> v1::ClientInfo {
    v1::ClientInfo { user: format!("user of {id}"), client: id.to_owned(), ..Default::default() }
}

/// A publish of `data`, the router's `number`th to the room's slot.
pub(crate) fn publish(room: &str, number: u64, data: &str) -> v1::Publish {
    v1::Publish {
        slot: slot(room),
        room: room.to_owned(),
        number,
        settled_below: 0,
        generation: 0,
        data: data.to_owned().into(),
        info: client("a").packed(),
        id: String::new(),
        keeps: None,
    }
}
