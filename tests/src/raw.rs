//! Bytes on a TCP connection, for what no well-behaved client would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::expect::within;

/// One exchange.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection.
#[derive(Debug)]
pub struct Tcp(TcpStream);

/// An HTTP answer.
#[derive(Debug)]
pub struct Response {
    /// 200, 404 ...
    pub status: u16,
    /// Status line and headers, lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// GET over a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Response {
    let mut tcp = Tcp::connect(address).await;
    tcp.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await;
    tcp.response().await
}

/// POST of a JSON text over a connection of its own, with more headers, each ended by CRLF.
pub async fn post(address: SocketAddr, path: &str, headers: &str, text: &str) -> Response {
    let mut tcp = Tcp::connect(address).await;
    let length = text.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    tcp.send(head.as_bytes()).await;
    tcp.send(text.as_bytes()).await;
    tcp.response().await
}

impl Tcp {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a TCP connection", ANSWER, TcpStream::connect(address)).await;
        Self(stream.unwrap_or_else(|e| panic!("connect to {address}: {e}")))
    }

    /// Sends bytes. A peer that closed already is no error: what it said first is what counts.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = within("bytes to be taken", ANSWER, self.0.write_all(bytes)).await;
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) {
        let _ = self.0.shutdown().await;
    }

    /// Reads until the peer closes; a reset counts as closed. `None` if it has not after `limit`.
    pub async fn read_to_close(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        let _ = tokio::time::timeout(limit, self.0.read_to_end(&mut all)).await.ok()?;
        Some(all)
    }

    /// Reads until `end` was seen.
    ///
    /// # Panics
    /// If the peer closes first, or in 30 s.
    pub async fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let reading = async {
            while !all.windows(end.len()).any(|w| w == end) {
                let n = self.0.read_buf(&mut all).await.unwrap_or(0);
                assert!(n > 0, "closed before the expected answer, after {:?}", String::from_utf8_lossy(&all));
            }
        };
        within("an answer", ANSWER, reading).await;
        all
    }

    /// Reads the first line of an HTTP answer; gives its status, 0 if the peer closes without one.
    pub async fn status(&mut self) -> u16 {
        let mut all = Vec::new();
        let reading = async { while !all.contains(&b'\n') && matches!(self.0.read_buf(&mut all).await, Ok(1..)) {} };
        within("an answer, or the end", ANSWER, reading).await;
        let line = String::from_utf8_lossy(&all);
        line.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Reads one HTTP answer; the server must close, or say the body's length.
    pub async fn response(&mut self) -> Response {
        let mut all = self.read_until(b"\r\n\r\n").await;
        let split = all.windows(4).position(|w| w == b"\r\n\r\n").expect("just seen") + 4;
        let head = String::from_utf8_lossy(&all[..split]).to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        match length {
            Some(length) => {
                while all.len() < split + length {
                    let n = within("the body", ANSWER, self.0.read_buf(&mut all)).await.unwrap_or(0);
                    assert!(n > 0, "closed inside the body");
                }
            }
            None => all.extend(self.read_to_close(ANSWER).await.expect("a body that ends")),
        }
        let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
        Response { status, head, body: String::from_utf8_lossy(&all[split..]).into_owned() }
    }
}
