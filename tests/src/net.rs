//! The network between the processes of a cluster, which can be cut: between any two of them, both ways or one way.
//!
//! Each process advertises 127.0.0.2 and listens on the same port of 127.0.0.1; here everything that arrives at the one is
//! handed to the other. Who called is found by the owner of the calling socket. What a cut holds back waits, as TCP does
//! under loss, and goes on after it: late words of the past are the harder case than lost ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::expect::eventually;

/// The address that processes advertise.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Ports below those that the kernel hands out to callers, so that a restarted process finds its own free.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;
/// Until something runs into a cut: everybody beats several times a second, and looks at etcd at least as often.
const FELT: Duration = Duration::from_secs(10);

/// One direction between two processes, by name.
type Way = (String, String);

/// Where a process listens behind the network.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Of its gRPC server.
    pub grpc: u16,
    /// Of its heartbeats.
    pub watch: u16,
    /// Where it finds etcd.
    pub etcd: u16,
}

/// The network. Ends when dropped.
#[derive(Debug)]
pub struct Net {
    shared: Arc<Shared>,
    ports: Mutex<BTreeMap<String, Ports>>,
    etcd: SocketAddr,
    // Ended with the network.
    accepting: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    cuts: watch::Sender<BTreeSet<Way>>,
    /// Times that something ran into a cut.
    held: Mutex<BTreeMap<Way, u64>>,
    names: Mutex<BTreeMap<u32, String>>,
}

impl Net {
    /// A whole network in front of an etcd.
    pub(crate) fn new(etcd: SocketAddr) -> Self {
        let shared =
            Shared { cuts: watch::Sender::new(BTreeSet::new()), held: Mutex::default(), names: Mutex::default() };
        Self { shared: Arc::new(shared), ports: Mutex::default(), etcd, accepting: Mutex::default() }
    }

    /// Where the process `name` is to listen: the same whenever it starts.
    pub(crate) fn ports(&self, name: &str) -> Ports {
        let open = || {
            let (grpc, watch) = (self.open(name, None), self.open(name, None));
            Ports { grpc, watch, etcd: self.open("etcd", Some(self.etcd)) }
        };
        *lock(&self.ports).entry(name.to_owned()).or_insert_with(open)
    }

    /// What a process advertises.
    pub(crate) fn advertised(ports: Ports) -> String {
        format!("{PUBLIC}:{}", ports.grpc)
    }

    /// Where a process finds etcd.
    pub(crate) fn etcd_url(ports: Ports) -> String {
        format!("http://{PUBLIC}:{}", ports.etcd)
    }

    /// Calls of this process are from `name` from now on.
    pub(crate) fn adopt(&self, pid: u32, name: &str) {
        lock(&self.shared.names).insert(pid, name.to_owned());
    }

    /// Nothing goes between the two from now on.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Nothing of what `from` sends reaches `to` from now on, whoever opened the connection.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let way = (from.to_owned(), to.to_owned());
        lock(&self.shared.held).remove(&way);
        self.shared.cuts.send_modify(|cuts| {
            cuts.insert(way);
        });
    }

    /// Everything goes through again.
    pub fn heal(&self) {
        self.shared.cuts.send_modify(BTreeSet::clear);
    }

    /// Waits until what `from` sends to `to` was held back by a cut, and shows it.
    pub async fn felt(&self, from: &str, to: &str) {
        let way = (from.to_owned(), to.to_owned());
        eventually(&format!("something from {from} to {to} to be held back"), FELT, async || {
            lock(&self.shared.held).get(&way).copied().filter(|n| *n > 0)
        })
        .await;
        crate::evidence(format!("the way from {from} to {to} is cut: bytes are held back"));
    }

    /// Opens a port for `name`; what arrives goes to `target`, or to the same port of the address it listens on.
    fn open(&self, name: &str, target: Option<SocketAddr>) -> u16 {
        let (listener, port) = free_port();
        let listener = TcpListener::from_std(listener).expect("a listener in this runtime");
        let target = target.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into());
        lock(&self.accepting).spawn(accept(listener, name.to_owned(), target, self.shared.clone()));
        port
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("not poisoned")
}

/// A port that is free on both addresses.
fn free_port() -> (StdListener, u16) {
    let seed = std::collections::hash_map::RandomState::new();
    for attempt in 0_u64..10_000 {
        let random = std::hash::BuildHasher::hash_one(&seed, attempt);
        let span = u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random % span).expect("within the range");
        let private = StdListener::bind((Ipv4Addr::LOCALHOST, port));
        if let (Ok(_), Ok(public)) = (private, StdListener::bind((PUBLIC, port))) {
            public.set_nonblocking(true).expect("a socket that does not block");
            return (public, port);
        }
    }
    panic!("no free port in {PORTS:?}");
}

async fn accept(listener: TcpListener, name: String, target: SocketAddr, shared: Arc<Shared>) {
    // Dropped, and so ended, with this task.
    let mut connections = JoinSet::new();
    while let Ok((caller, peer)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let names = lock(&shared.names).clone();
        let from = caller.local_addr().ok().and_then(|here| owner(peer, here, &names)).unwrap_or_default();
        connections.spawn(carry(caller, from, name.clone(), target, shared.clone()));
    }
}

/// Carries one connection. Its opening takes both ways.
async fn carry(caller: TcpStream, from: String, to: String, target: SocketAddr, shared: Arc<Shared>) {
    let there = (from.clone(), to.clone());
    let back = (to, from);
    shared.pass(&there).await;
    shared.pass(&back).await;
    let Ok(callee) = TcpStream::connect(target).await else { return };
    let _ = (caller.set_nodelay(true), callee.set_nodelay(true));
    let (caller_in, caller_out) = caller.into_split();
    let (callee_in, callee_out) = callee.into_split();
    let forth = pump(caller_in, callee_out, &there, &shared);
    let answers = pump(callee_in, caller_out, &back, &shared);
    // A reset ends both at once; an end of one only itself.
    let _ = tokio::try_join!(forth, answers);
}

async fn pump(from: OwnedReadHalf, mut to: OwnedWriteHalf, way: &Way, shared: &Shared) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        from.readable().await?;
        // Also the end of a connection does not get through a cut.
        shared.pass(way).await;
        match from.try_read(&mut chunk) {
            Ok(0) => return to.shutdown().await,
            Ok(n) => to.write_all(&chunk[..n]).await?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

impl Shared {
    /// Waits while the way is cut.
    async fn pass(&self, way: &Way) {
        let mut cuts = self.cuts.subscribe();
        if cuts.borrow_and_update().contains(way) {
            *lock(&self.held).entry(way.clone()).or_default() += 1;
            // The sender is in what this borrows.
            let _ = cuts.wait_for(|cuts| !cuts.contains(way)).await;
        }
    }
}

/// Which of the named processes has the socket that is bound to `local` and connected to `remote`. The kernel gives one port to
/// several sockets, as long as they are connected elsewhere.
fn owner(local: SocketAddr, remote: SocketAddr, names: &BTreeMap<u32, String>) -> Option<String> {
    // The kernel shows addresses as numbers in its own byte order.
    let shown = |addr: SocketAddr| match addr {
        SocketAddr::V4(v4) => Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())),
        SocketAddr::V6(_) => None,
    };
    let wanted = [shown(local)?, shown(remote)?];
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends = [*fields.get(1)?, *fields.get(2)?];
        (ends == wanted && *fields.get(9)? != "0").then(|| format!("socket:[{}]", fields[9]))
    })?;
    let holds = |pid: &u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.map(|f| f.path()).any(|f| std::fs::read_link(f).is_ok_and(|l| l.as_os_str() == inode.as_str()))
    };
    names.iter().find(|(pid, _)| holds(pid)).map(|(_, name)| name.clone())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// One way cut: the other way goes on, and what was held back arrives afterwards, in order.
    #[tokio::test]
    async fn a_cut_way_holds_back_and_loses_nothing() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let net = Net::new(server.local_addr().unwrap());
        net.adopt(std::process::id(), "me");
        let ports = net.ports("me");
        let mut client = TcpStream::connect((PUBLIC, ports.etcd)).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut got = [0; 3];
        client.write_all(b"one").await.unwrap();
        served.read_exact(&mut got).await.unwrap();

        net.cut_one_way("me", "etcd");
        client.write_all(b"two").await.unwrap();
        net.felt("me", "etcd").await;
        served.write_all(b"ans").await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ans");
        let held = tokio::time::timeout(Duration::from_millis(100), served.read_exact(&mut got)).await;
        assert!(held.is_err(), "it came through");

        net.heal();
        served.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"two");
    }
}
