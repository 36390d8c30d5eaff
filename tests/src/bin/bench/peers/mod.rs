//! The servers that are compared, each started as its users would.

mod centrifugo;
mod floor;
mod nats;
mod nchan;
mod nginx;
mod ours;
mod plain;
mod socketio;

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use roomring_tests::Process;

use crate::load::dialect::Dialect;

/// From the start of a process to its readiness.
const READY: Duration = Duration::from_secs(30);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// One raw write per delivery.
    Floor,
    /// Roomring.
    Ours,
    /// A plain broadcast server.
    Plain,
    /// nginx before two plain servers.
    Nginx,
    /// nginx with nchan.
    Nchan,
    /// nats-server.
    Nats,
    /// Centrifugo at its defaults.
    Centrifugo,
    /// Centrifugo, tuned.
    CentrifugoTuned,
    /// Socket.IO with Redis, two processes.
    Socketio,
}

/// How a server is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Connections that it will have.
    pub(crate) connections: usize,
    /// Nodes, of ours.
    pub(crate) nodes: usize,
    /// Routers, of ours.
    pub(crate) routers: usize,
    /// Copies, of ours.
    pub(crate) replication: u32,
    /// Slots, of ours.
    pub(crate) slots: u32,
    /// More flags of nodes, of ours.
    pub(crate) flags: &'static [&'static str],
}

/// What a process of a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Holds clients' sockets.
    Edge,
    /// Stands behind.
    Behind,
    /// etcd: told apart, it has no part in a delivery.
    Etcd,
}

/// A server that runs. Its processes end with it.
pub(crate) struct Server {
    /// How it is spoken to.
    pub(crate) dialect: Dialect,
    /// Where.
    pub(crate) targets: Vec<SocketAddr>,
    /// Its processes, each with what it is.
    pub(crate) parts: Vec<(Part, u32)>,
    _running: Box<dyn Any>,
}

impl Peer {
    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ours => "roomring",
            Self::Plain => "plain",
            Self::Nginx => "nginx+plain",
            Self::Nchan => "nchan",
            Self::Nats => "nats",
            Self::Centrifugo => "centrifugo",
            Self::CentrifugoTuned => "centrifugo*",
            Self::Socketio => "socket.io",
        }
    }

    /// Starts it. `Err` says why it can't be had.
    pub(crate) async fn start(self, setup: Setup, dir: &Path) -> Result<Server, String> {
        match self {
            Self::Floor => floor::start(setup, dir).await,
            Self::Ours => ours::start(setup).await,
            Self::Plain => plain::start(dir).await,
            Self::Nginx => nginx::start(dir).await,
            Self::Nchan => nchan::start(dir).await,
            Self::Nats => nats::start(dir).await,
            Self::Centrifugo => centrifugo::start(dir, false).await,
            Self::CentrifugoTuned => centrifugo::start(dir, true).await,
            Self::Socketio => socketio::start(dir).await,
        }
    }
}

/// Starts this program as one of its own servers, and waits for its address.
async fn own(verb: &str, dir: &Path) -> (Process, SocketAddr) {
    let exe = std::env::current_exe().expect("path of this program");
    let mut process = Process::start(verb, &exe, &[verb], &dir.join(format!("{verb}.log")));
    let line = process.line("its address", READY).await;
    let addr = line.strip_prefix("ready addr=").and_then(|a| a.parse().ok());
    (process, addr.unwrap_or_else(|| panic!("no address in {line:?}")))
}

/// Where `make bench-peers` puts what it builds.
pub(crate) fn peers_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("path of this program");
    exe.ancestors().nth(2).expect("it lies in target/PROFILE").join("peers")
}

/// The path of a program, or what to install.
fn installed<'a>(path: &'a str, package: &str) -> Result<&'a Path, String> {
    let path = Path::new(path);
    if path.is_file() { Ok(path) } else { Err(format!("not installed: {package}")) }
}

/// Writes a configuration, with ports and the directory filled in.
fn configure(dir: &Path, name: &str, template: &str, ports: &[(&str, u16)]) -> PathBuf {
    let mut text = template.replace("@DIR@", &dir.to_string_lossy());
    for (what, port) in ports {
        text = text.replace(&format!("@{what}@"), &port.to_string());
    }
    let path = dir.join(name);
    roomring_tests::write(&path, &text);
    path
}

/// A port that was free a moment ago, for programs that can't be told to choose.
fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
    socket.local_addr().expect("address of a bound socket").port()
}

/// Waits until a process takes connections.
async fn listening(process: &Process, port: u16) -> Result<SocketAddr, String> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let wait = async {
        while TcpStream::connect(addr).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(READY, wait).await {
        Ok(()) => Ok(addr),
        Err(_) => Err(format!("does not listen: {}", process.tail())),
    }
}
