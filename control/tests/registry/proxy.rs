//! A TCP proxy between a registry and etcd, so that the way between them can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay open and nothing comes through: a cable was pulled.
    Silent,
}

#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    way: watch::Sender<Way>,
    /// Connections that ended because the way was cut, or waited because it was silent.
    pub(crate) hit: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Self {
        let target = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let way = watch::Sender::new(Way::Open);
        let stop = CancellationToken::new();
        let hit = Arc::new(AtomicU64::new(0));
        let serve = serve(listener, target, way.clone(), hit.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
        Self { addr, way, hit, _stop: stop.drop_guard() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Connections hit so far: evidence that a fault took effect.
    pub(crate) fn hits(&self) -> u64 {
        self.hit.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: TcpListener,
    target: String,
    way: watch::Sender<Way>,
    hit: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    loop {
        let (inbound, _) = listener.accept().await.unwrap();
        let Ok(outbound) = TcpStream::connect(&target).await else { continue };
        let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
        let (from_client, to_client) = inbound.into_split();
        let (from_server, to_server) = outbound.into_split();
        let closed = stop.child_token();
        for (mut from, mut to) in [(from_client, to_server), (from_server, to_client)] {
            let (mut way, hit, closed) = (way.subscribe(), hit.clone(), closed.clone());
            tokio::spawn(async move {
                let pump = async {
                    let mut buffer = vec![0; 16 << 10];
                    loop {
                        let n = tokio::select! {
                            read = from.read(&mut buffer) => read.unwrap_or(0),
                            _ = way.wait_for(|w| *w == Way::Cut) => { hit.fetch_add(1, Ordering::Relaxed); 0 }
                        };
                        if *way.borrow() == Way::Silent {
                            hit.fetch_add(1, Ordering::Relaxed);
                        }
                        let passes = way.wait_for(|w| *w != Way::Silent).await.map_or(Way::Cut, |w| *w);
                        if n == 0 || passes == Way::Cut || to.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                };
                closed.run_until_cancelled(pump).await;
                // One direction ending ends the other.
                closed.cancel();
            });
        }
    }
}
