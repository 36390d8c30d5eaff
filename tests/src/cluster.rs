//! A whole cluster: etcd, nodes and routers as processes of their own, on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use prost::Message;
use roomring_control::placement::RingParams;
use roomring_control::ring::{Ring, RingNode};
use roomring_control::tls::TlsFiles;
use roomring_control::wire::{self, Wire};
use roomring_proto::keys::Keys;
use roomring_proto::v1::admin_client::AdminClient;
use roomring_proto::{NodeId, RoomId, v1};

use crate::authority::Authority;
use crate::etcd::Etcd;
use crate::expect::{eventually, within};
use crate::net::{Net, Ports};
use crate::process::{Process, Ran, binary, run};
use crate::turn::{Turn, Weight};

/// From the start of a process to its `ready` line, on a busy machine, debug build.
const READY: Duration = Duration::from_secs(60);
/// Until a change of membership has settled.
const SETTLE: Duration = Duration::from_secs(60);
/// Time a stopped process is given: more than its own grace.
const STOP: Duration = Duration::from_secs(40);
/// One call of a command.
const COMMAND: Duration = Duration::from_secs(30);
/// One call of the admin service.
const ADMIN: Duration = Duration::from_secs(10);

/// How a test wants its cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Turns that it takes on this machine.
    pub weight: Weight,
    /// Nodes `node-1` ... at the start.
    pub nodes: usize,
    /// Routers `router-1` ... at the start.
    pub routers: usize,
    /// Slots of the cluster.
    pub slots: u32,
    /// Copies of each slot. With the 1 that is the default here a crash loses rooms, and that is what many tests are about.
    pub replication: u32,
    /// Short, so that a crash is mended while a test waits.
    pub fence_after: &'static str,
    /// etcd's own minimum is 2 s.
    pub lease_ttl: &'static str,
    /// The processes find each other and etcd over a network that can be cut: [`Cluster::net`].
    pub net: bool,
    /// Its etcd lets in only whoever has a certificate and a password, and its processes only those with a certificate.
    pub secured: bool,
    /// Slots may be moved where the load wants them: away from where the ring does, which [`Cluster::settled`] waits for.
    pub rebalancing: bool,
    /// Routers believe clients' names.
    pub insecure_names: bool,
    /// More flags for nodes.
    pub node_flags: Vec<&'static str>,
    /// More flags for routers.
    pub router_flags: Vec<&'static str>,
}

/// A router's flag by which whoever has joined no room may publish there.
pub const ANYONE_PUBLISHES: &str = concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/configs/anyone-publishes.toml");

impl Default for Options {
    fn default() -> Self {
        Self {
            weight: Weight::Light,
            nodes: 3,
            routers: 2,
            slots: 64,
            replication: 1,
            fence_after: "2s",
            lease_ttl: "2s",
            net: false,
            secured: false,
            rebalancing: false,
            insecure_names: true,
            node_flags: Vec::new(),
            router_flags: Vec::new(),
        }
    }
}

/// A running room node.
#[derive(Debug)]
pub struct Node {
    /// Its process.
    pub process: Process,
    /// Its gRPC server.
    pub grpc: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
}

/// A running router.
#[derive(Debug)]
pub struct Router {
    /// Its process.
    pub process: Process,
    /// Where clients connect.
    pub http: SocketAddr,
    /// Its gRPC server.
    pub grpc: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
}

/// The cluster. Everything in it ends when it is dropped; of a failed test the logs are shown.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    /// Running nodes by id.
    pub nodes: BTreeMap<String, Node>,
    /// Running routers by id.
    pub routers: BTreeMap<String, Router>,
    /// Its etcd.
    pub etcd: Etcd,
    /// Signs the processes' certificates for each other.
    authority: Option<Authority>,
    net: Option<Net>,
    dir: tempfile::TempDir,
    // Last: the turn ends when all the rest has.
    _turn: Turn,
}

impl Cluster {
    /// Starts everything and waits until every slot is where the ring wants it.
    pub async fn start(options: Options) -> Self {
        let mut cluster = Self::prepare(options);
        cluster.etcd.start().await;
        cluster.start_all().await;
        if !cluster.options.rebalancing {
            cluster.roomctl_json(&["rebalance", "--off"]).await;
        }
        cluster
    }

    /// Reserves addresses and directories; nothing runs yet.
    pub fn prepare(options: Options) -> Self {
        let turn = Turn::wait(options.weight);
        let dir = tempfile::Builder::new().prefix("roomring-test-").tempdir().expect("a temporary directory");
        let etcd = if options.secured { Etcd::reserve_secured(dir.path()) } else { Etcd::reserve(dir.path()) };
        let net = options.net.then(|| Net::new(etcd.address()));
        let authority = options.secured.then(|| Authority::new(&dir.path().join("peers")));
        authority.iter().for_each(|authority| authority.issue("process", &[wire::NAME]));
        Self { options, nodes: BTreeMap::new(), routers: BTreeMap::new(), etcd, authority, net, dir, _turn: turn }
    }

    /// Starts the nodes and routers that the options name, and waits until the cluster has settled.
    pub async fn start_all(&mut self) {
        // All begin before the first is waited for: they come up side by side.
        let nodes: Vec<String> = (1..=self.options.nodes).map(|n| format!("node-{n}")).collect();
        let routers: Vec<String> = (1..=self.options.routers).map(|n| format!("router-{n}")).collect();
        let mut starting: Vec<Process> = nodes.iter().map(|id| self.spawn_node(id)).collect();
        starting.extend(routers.iter().map(|id| self.spawn_router(id, "127.0.0.1:0")));
        let mut starting = starting.into_iter();
        for id in nodes {
            let process = starting.next().expect("one each");
            self.adopt_node(&id, process).await;
        }
        for id in routers {
            let process = starting.next().expect("one each");
            self.adopt_router(&id, process).await;
        }
        self.settled().await;
    }

    /// Starts a node, in the directory that a node of this id had before, and waits for its `ready` line.
    pub async fn start_node(&mut self, id: &str) {
        let process = self.spawn_node(id);
        self.adopt_node(id, process).await;
    }

    /// Starts a router on a free port and waits for its `ready` line.
    pub async fn start_router(&mut self, id: &str) {
        self.start_router_at(id, "127.0.0.1:0").await;
    }

    /// As [`Cluster::start_router`], on a given address; gives the address.
    pub async fn start_router_at(&mut self, id: &str, http: &str) -> SocketAddr {
        let process = self.spawn_router(id, http);
        self.adopt_router(id, process).await;
        self.routers[id].http
    }

    /// Starts a node's process; does not wait.
    pub fn spawn_node(&self, id: &str) -> Process {
        self.spawn_node_with(id, &[])
    }

    /// As [`Cluster::spawn_node`], listening elsewhere than on loopback.
    pub fn spawn_node_at(&self, id: &str, listen: &str) -> Process {
        self.spawn_node_with(id, &["--listen", listen])
    }

    /// As [`Cluster::spawn_node`], with more flags (a flag given twice would be refused).
    pub fn spawn_node_with(&self, id: &str, flags: &[&str]) -> Process {
        let options = &self.options;
        let mut args = self.common_args(id);
        let (slots, replication) = (options.slots.to_string(), options.replication.to_string());
        let cluster = ["--slots", &slots, "--replication", &replication, "--fence-after", options.fence_after];
        args.extend(cluster.map(String::from));
        let mut defaults = vec![("--home", self.path(id).display().to_string())];
        match self.ports(id) {
            Some(ports) => defaults.extend([
                ("--listen", format!("127.0.0.1:{}", ports.grpc)),
                ("--watch-listen", format!("127.0.0.1:{}", ports.watch)),
                ("--advertise", Net::advertised(ports)),
            ]),
            None => defaults.push(("--listen", "127.0.0.1:0".to_owned())),
        }
        for (flag, value) in defaults {
            if !flags.contains(&flag) {
                args.extend([flag.to_owned(), value]);
            }
        }
        args.extend(options.node_flags.iter().chain(flags).map(|&f| f.to_owned()));
        let process = Process::start(id, &binary("roomring-node"), &args, &self.log(id));
        self.adopt_pid(&process, id);
        process
    }

    /// Starts a router's process; does not wait.
    pub fn spawn_router(&self, id: &str, http: &str) -> Process {
        self.spawn_router_with(id, http, &[])
    }

    /// As [`Cluster::spawn_router`], with more flags.
    pub fn spawn_router_with(&self, id: &str, http: &str, flags: &[&str]) -> Process {
        let mut args = self.common_args(id);
        args.extend(["--http", http].map(String::from));
        match self.ports(id) {
            Some(ports) => {
                let (grpc, watch) = (format!("127.0.0.1:{}", ports.grpc), format!("127.0.0.1:{}", ports.watch));
                let advertised = Net::advertised(ports);
                args.extend(["--grpc", &grpc, "--watch-listen", &watch, "--advertise", &advertised].map(String::from));
            }
            None => args.extend(["--grpc", "127.0.0.1:0"].map(String::from)),
        }
        args.push(format!("--insecure-names={}", self.options.insecure_names));
        args.extend(self.options.router_flags.iter().chain(flags).map(|&f| f.to_owned()));
        let process = Process::start(id, &binary("roomring-router"), &args, &self.log(id));
        self.adopt_pid(&process, id);
        process
    }

    /// Waits for the `ready` line of a node's process and takes it in.
    pub async fn adopt_node(&mut self, id: &str, mut process: Process) {
        let line = process.line("its ready line", READY).await;
        let (grpc, admin) = (address(&line, "grpc"), address(&line, "admin"));
        assert_eq!(line, format!("ready id={id} grpc={grpc} admin={admin}"), "the ready line of a node");
        assert!(self.nodes.insert(id.to_owned(), Node { process, grpc, admin }).is_none(), "{id} runs already");
    }

    /// Waits for the `ready` line of a router's process and takes it in.
    pub async fn adopt_router(&mut self, id: &str, mut process: Process) {
        let line = process.line("its ready line", READY).await;
        let (http, grpc, admin) = (address(&line, "http"), address(&line, "grpc"), address(&line, "admin"));
        let expected = format!("ready id={id} http={http} grpc={grpc} admin={admin}");
        assert_eq!(line, expected, "the ready line of a router");
        let router = Router { process, http, grpc, admin };
        assert!(self.routers.insert(id.to_owned(), router).is_none(), "{id} runs already");
    }

    fn common_args(&self, id: &str) -> Vec<String> {
        let etcd = self.ports(id).map_or_else(|| self.etcd.url().to_owned(), Net::etcd_url);
        let args = ["--id", id, "--etcd", &etcd, "--lease-ttl", self.options.lease_ttl, "--log", "info"];
        args.map(String::from).into_iter().chain(self.access_flags()).collect()
    }

    /// The flags with which a process is let in by etcd and by the others.
    pub fn access_flags(&self) -> Vec<String> {
        let peers = self.authority.iter().flat_map(|authority| authority.flags("peer", "process"));
        self.etcd.access_flags().into_iter().chain(peers).collect()
    }

    /// The network between the processes.
    ///
    /// # Panics
    /// If the options do not ask for one.
    pub fn net(&self) -> &Net {
        self.net.as_ref().expect("a network that can be cut")
    }

    fn ports(&self, id: &str) -> Option<Ports> {
        self.net.as_ref().map(|net| net.ports(id))
    }

    fn adopt_pid(&self, process: &Process, id: &str) {
        if let Some(net) = &self.net {
            net.adopt(process.pid(), id);
        }
    }

    /// A running node.
    pub fn node(&self, id: &str) -> &Node {
        self.nodes.get(id).unwrap_or_else(|| panic!("{id} runs"))
    }

    /// Addresses of the running routers, for clients.
    pub fn http(&self) -> Vec<SocketAddr> {
        self.routers.values().map(|r| r.http).collect()
    }

    /// SIGKILL to a node.
    pub fn kill_node(&mut self, id: &str) {
        self.nodes.remove(id).unwrap_or_else(|| panic!("{id} runs")).process.kill();
    }

    /// SIGKILL to a router.
    pub fn kill_router(&mut self, id: &str) -> SocketAddr {
        let mut router = self.routers.remove(id).unwrap_or_else(|| panic!("{id} runs"));
        router.process.kill();
        router.http
    }

    /// SIGTERM to a node, and waits for it to end with exit code 0.
    pub async fn stop_node(&mut self, id: &str) {
        let mut node = self.nodes.remove(id).unwrap_or_else(|| panic!("{id} runs"));
        node.process.signal(Signal::SIGTERM);
        let status = node.process.exit(STOP).await;
        assert_eq!(status.code(), Some(0), "{id} ends well:\n{}", node.process.tail());
    }

    /// SIGTERM to a router, and waits for it to end with exit code 0.
    pub async fn stop_router(&mut self, id: &str) {
        self.routers.get(id).unwrap_or_else(|| panic!("{id} runs")).process.signal(Signal::SIGTERM);
        self.stopped_router(id).await;
    }

    /// Waits for a router that was told to stop to end with exit code 0.
    pub async fn stopped_router(&mut self, id: &str) {
        let mut router = self.routers.remove(id).unwrap_or_else(|| panic!("{id} runs"));
        let status = router.process.exit(STOP).await;
        assert_eq!(status.code(), Some(0), "{id} ends well:\n{}", router.process.tail());
    }

    /// Where a test may leave files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The log of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// Runs a verb of `roomctl` on this cluster.
    pub async fn roomctl(&self, args: &[&str]) -> Ran {
        let mut all = args.to_vec();
        let access = self.access_flags();
        all.extend(["--etcd", self.etcd.url()]);
        all.extend(access.iter().map(String::as_str));
        run(&binary("roomctl"), &all, COMMAND).await
    }

    /// Runs a verb of `roomctl` that gives JSON and must succeed.
    pub async fn roomctl_json(&self, args: &[&str]) -> serde_json::Value {
        let ran = self.roomctl(&[args, &["-o", "json"]].concat()).await;
        assert_eq!(ran.code, Some(0), "roomctl {args:?}: {}{}", ran.stdout, ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("roomctl {args:?}: {e} in {:?}", ran.stdout))
    }

    /// The placement as it stands in etcd.
    pub async fn placement(&self) -> Option<v1::Placement> {
        let (value, _) = self.etcd.get(&keys().placement()).await?;
        Some(v1::Placement::decode(value.as_slice()).expect("a placement in etcd"))
    }

    /// The key of the placement in etcd, and the placement as it stands there.
    pub async fn placement_key(&self) -> Option<(String, v1::Placement)> {
        Some((keys().placement(), self.placement().await?))
    }

    /// A node's registration as it stands in etcd.
    pub async fn registration(&self, id: &str) -> Option<v1::NodeInfo> {
        let key = keys().node(&NodeId::new(id).expect("a node id"));
        let (value, revision) = self.etcd.get(&key).await?;
        let mut info = v1::NodeInfo::decode(value.as_slice()).expect("a registration in etcd");
        if info.incarnation == 0 {
            info.incarnation = revision.cast_unsigned();
        }
        Some(info)
    }

    /// Waits until a node's key is gone from etcd.
    pub async fn expired(&self, id: &str) {
        eventually(&format!("the key of {id} to go"), SETTLE, async || {
            self.registration(id).await.is_none().then_some(())
        })
        .await;
        crate::evidence(format!("the key of {id} is gone from etcd"));
    }

    /// Waits until every slot has just the in-sync seats that the ring wants, of processes that run, the first as primary.
    pub async fn settled(&self) -> v1::Placement {
        let wanted: BTreeSet<&str> = self.nodes.keys().map(String::as_str).collect();
        eventually(&format!("slots to settle on {wanted:?}"), SETTLE, async || {
            let placement = self.placement().await?;
            let mut incarnations = BTreeMap::new();
            for id in self.nodes.keys() {
                incarnations.insert(id.as_str(), self.registration(id).await?.incarnation);
            }
            let wish = self.wish(&placement);
            let members = |seats: &[v1::Seat]| -> Vec<&v1::Member> {
                seats.iter().map(|seat| &placement.members[seat.member as usize]).collect()
            };
            let runs = |m: &v1::Member| incarnations.get(m.node_id.as_str()) == Some(&m.incarnation);
            let settled = |(number, (slot, wanted)): (usize, (&v1::Slot, &Vec<NodeId>))| {
                let seats = members(&slot.in_sync);
                let names: BTreeSet<&str> = seats.iter().map(|m| m.node_id.as_str()).collect();
                let wanted_names: BTreeSet<&str> = wanted.iter().map(NodeId::as_str).collect();
                slot.learners.is_empty()
                    && seats.iter().all(|m| runs(m))
                    && names == wanted_names
                    && primary(&placement, number) == wanted[0].as_str()
            };
            placement.slots.iter().zip(&wish).enumerate().all(settled).then_some(placement)
        })
        .await
    }

    /// Waits until some slot that `id` was primary of, in `before`, has a higher generation, and gives how many do.
    pub async fn recreated(&self, before: &v1::Placement, id: &str) -> usize {
        let lost: Vec<usize> = (0..before.slots.len()).filter(|&s| primary(before, s) == id).collect();
        assert!(!lost.is_empty(), "{id} held no slot, so its loss would show nothing");
        eventually(&format!("the slots of {id} to be made anew"), SETTLE, async || {
            let now = self.placement().await?;
            lost.iter().all(|&s| now.slots[s].generation > before.slots[s].generation).then_some(())
        })
        .await;
        crate::evidence(format!("the generation of {} slots of {id} rose", lost.len()));
        lost.len()
    }

    /// The nodes where the ring of the running nodes wants each slot, computed here and not by the processes.
    pub fn wish(&self, placement: &v1::Placement) -> Vec<Vec<NodeId>> {
        self.wish_of(placement, self.nodes.keys())
    }

    /// As [`Cluster::wish`], with a node that does not run yet.
    pub fn wish_with(&self, placement: &v1::Placement, newcomer: &str) -> Vec<Vec<NodeId>> {
        self.wish_of(placement, self.nodes.keys().chain([&newcomer.to_owned()]))
    }

    fn wish_of<'a>(&self, placement: &v1::Placement, nodes: impl Iterator<Item = &'a String>) -> Vec<Vec<NodeId>> {
        let params = placement.ring.expect("ring parameters");
        let params = RingParams { vnodes: params.vnodes, bound_percent: params.bound_percent };
        let node = |id: &String| (NodeId::new(id).expect("a node id"), RingNode { zone: String::new(), weight: 100 });
        let ring = Ring::new(params, &nodes.map(node).collect());
        let slots = u32::try_from(placement.slots.len()).expect("few slots");
        let none = BTreeMap::new();
        let replication = placement.settings.expect("settings").replication;
        ring.wish(slots, &none, &none, replication)
    }

    /// What a node says of itself.
    pub async fn node_status(&self, id: &str) -> v1::NodeStatusReply {
        let mut client = self.admin(self.node(id).grpc).await;
        let reply = within("a node's status", ADMIN, client.node_status(v1::NodeStatusRequest { slots: true })).await;
        reply.unwrap_or_else(|e| panic!("status of {id}: {e}")).into_inner()
    }

    /// What a router says of itself.
    pub async fn router_status(&self, id: &str) -> v1::RouterStatusReply {
        let mut client = self.admin(self.routers[id].grpc).await;
        let reply = within("a router's status", ADMIN, client.router_status(v1::RouterStatusRequest {})).await;
        reply.unwrap_or_else(|e| panic!("status of {id}: {e}")).into_inner()
    }

    async fn admin(&self, address: SocketAddr) -> AdminClient<tonic::transport::Channel> {
        let files = self.authority.as_ref().map(|authority| TlsFiles {
            ca_file: Some(authority.file("ca.pem")),
            certificate_file: Some(authority.file("process.pem")),
            key_file: Some(authority.file("process-key.pem")),
        });
        let wire = Wire::new(&files.unwrap_or_default()).expect("files of ours");
        let endpoint = wire.endpoint(&address.to_string()).expect("an address");
        let channel = within("the admin service", ADMIN, endpoint.connect()).await;
        AdminClient::new(channel.unwrap_or_else(|e| panic!("admin of {address}: {e}")))
    }
}

/// Keys of the cluster that every test uses: each has an etcd of its own.
fn keys() -> Keys {
    Keys::new(&NodeId::new("roomring").expect("a cluster's name"))
}

/// The node that is primary of a slot.
pub fn primary(placement: &v1::Placement, slot: usize) -> &str {
    let slot = &placement.slots[slot];
    let seat = &slot.in_sync[slot.primary as usize];
    &placement.members[seat.member as usize].node_id
}

/// The node that holds a room.
pub fn holder<'a>(placement: &'a v1::Placement, room: &str) -> &'a str {
    let slots = u32::try_from(placement.slots.len()).expect("few slots");
    primary(placement, RoomId::new(room).expect("a room's name").slot(slots).0 as usize)
}

/// `name=HOST:PORT` in a ready line.
fn address(line: &str, name: &str) -> SocketAddr {
    let field = line.split(' ').find_map(|f| f.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    field.unwrap_or_else(|| panic!("no {name}=ADDRESS in {line:?}"))
}

/// Writes a file for a test.
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}
