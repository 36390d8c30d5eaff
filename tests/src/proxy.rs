//! What a load balancer is to a client: one address, behind which the router may change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Forwards TCP to one target at a time. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    /// Rises at each cut.
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback.
    pub async fn start(target: SocketAddr) -> Self {
        Self::start_at("127.0.0.1:0", target).await
    }

    /// Listens at an address.
    pub async fn start_at(address: &str, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|e| panic!("listen on {address}: {e}"));
        let address = listener.local_addr().expect("address of a bound socket");
        let target = Arc::new(Mutex::new(target));
        let cuts = watch::Sender::new(0);
        let task = tokio::spawn(accept(listener, target.clone(), cuts.subscribe()));
        Self { address, target, cuts, task }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go to `target`; those that are open stay where they are.
    pub fn point_to(&self, target: SocketAddr) {
        *self.target.lock().expect("not poisoned") = target;
    }

    /// Ends every open connection.
    pub fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where connections are refused.
pub fn nowhere() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("address of a bound socket")
}

async fn accept(listener: TcpListener, target: Arc<Mutex<SocketAddr>>, cuts: watch::Receiver<u64>) {
    // Dropped, and so ended, with this task.
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let target = *target.lock().expect("not poisoned");
        let mut cuts = cuts.clone();
        cuts.mark_unchanged();
        connections.spawn(async move {
            // A refused connection shows as one that closes at once, as behind any balancer.
            if let Ok(mut server) = TcpStream::connect(target).await {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = cuts.changed() => {}
                }
            }
        });
    }
}
