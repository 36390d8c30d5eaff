//! A small HTTP server that stands in for a server of the application.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Largest request that it reads.
const REQUEST_BYTES: usize = 64 << 10;

/// What it answers to a request (head and body as one text): status and body; `None` = nothing, ever.
type Answer = dyn Fn(&str) -> Option<(u16, String)> + Send + Sync;

/// The server. It ends when it is dropped, and with it its connections.
#[derive(Debug)]
pub struct Answerer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Answerer {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start(answer: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), answer).await
    }

    /// Starts one on an address.
    ///
    /// # Panics
    /// If it is in use.
    pub async fn start_at(
        address: SocketAddr,
        answer: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port on loopback");
        let address = listener.local_addr().expect("address of a bound socket");
        let answer: Arc<Answer> = Arc::new(answer);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, answer.clone()));
            }
        });
        Self { address, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request a connection.
async fn serve(mut stream: TcpStream, answer: Arc<Answer>) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if request.len() > REQUEST_BYTES || !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    let Some((status, body)) = answer(&String::from_utf8_lossy(&request)) else {
        return std::future::pending().await;
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}
