//! A WebSocket in bytes: as cheap as can be for those who have a thousand, and able to send what no library does.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};

/// The opcode of a message that is text.
pub const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;

/// What came.
#[derive(Debug)]
pub enum Told {
    /// The payload of a message.
    Message(Vec<u8>),
    /// The end, with its code; 0 = none.
    Close(u16),
    /// The end without a word.
    Ended,
    /// A ping or pong of the WebSocket.
    Other,
}

/// Both halves.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    unread: Vec<u8>,
}

/// The half that reads.
#[derive(Debug)]
pub struct Reader {
    tcp: ReadHalf<TcpStream>,
    unread: Vec<u8>,
}

/// The half that writes.
#[derive(Debug)]
pub struct Writer(WriteHalf<TcpStream>);

impl Socket {
    /// A TCP connection from an address of this machine, with a receive buffer of `buffer` bytes.
    pub async fn tcp(to: SocketAddr, from: IpAddr, buffer: Option<u32>) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        if let Some(buffer) = buffer {
            socket.set_recv_buffer_size(buffer).ok()?;
        }
        socket.set_nodelay(true).ok()?;
        socket.bind((from, 0).into()).ok()?;
        socket.connect(to).await.ok()
    }

    /// A WebSocket of the Centrifuge protocol.
    ///
    /// # Errors
    /// The status of another answer, if there was one.
    pub async fn open(to: SocketAddr, from: IpAddr, buffer: Option<u32>) -> Result<Self, Option<u16>> {
        let mut tcp = Self::tcp(to, from, buffer).await.ok_or(None)?;
        let request = format!(
            "GET /connection/websocket HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        tcp.write_all(request.as_bytes()).await.map_err(|_| None)?;
        let mut unread = Vec::new();
        let end = loop {
            if let Some(end) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(tcp.read_buf(&mut unread).await, Ok(1..)) {
                return Err(None);
            }
        };
        match status(&unread) {
            101 => Ok(Self { tcp, unread: unread.split_off(end) }),
            other => Err(Some(other)),
        }
    }

    /// Sends a command. False if the connection has ended.
    pub async fn say(&mut self, command: &Value) -> bool {
        self.send(TEXT, command.to_string().as_bytes()).await
    }

    /// Sends a frame. False if the connection has ended.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) -> bool {
        self.raw(&frame(opcode, payload)).await
    }

    /// Sends bytes. False if the connection has ended.
    pub async fn raw(&mut self, bytes: &[u8]) -> bool {
        self.tcp.write_all(bytes).await.is_ok()
    }

    /// What comes next. Safe to cancel.
    pub async fn next(&mut self) -> Told {
        next(&mut self.tcp, &mut self.unread).await
    }

    /// Two halves that go on side by side.
    pub fn split(self) -> (Reader, Writer) {
        let (reader, writer) = tokio::io::split(self.tcp);
        (Reader { tcp: reader, unread: self.unread }, Writer(writer))
    }

    /// Is gone without a word.
    pub fn reset(self) {
        let _ = self.tcp.set_zero_linger();
    }
}

impl Reader {
    /// What comes next. Safe to cancel.
    pub async fn next(&mut self) -> Told {
        next(&mut self.tcp, &mut self.unread).await
    }
}

impl Writer {
    /// Sends a frame. False if the connection has ended.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) -> bool {
        self.send_many(opcode, payload, 1).await
    }

    /// Sends a frame so many times. False if the connection has ended.
    pub async fn send_many(&mut self, opcode: u8, payload: &[u8], times: usize) -> bool {
        write_all(&mut self.0, &frame(opcode, payload).repeat(times)).await
    }
}

async fn write_all(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    to.write_all(bytes).await.is_ok()
}

async fn next(from: &mut (impl AsyncRead + Unpin), unread: &mut Vec<u8>) -> Told {
    loop {
        if let Some((opcode, payload, end)) = parse(unread) {
            let data = unread[payload..end].to_vec();
            unread.drain(..end);
            return match opcode {
                TEXT | BINARY => Told::Message(data),
                CLOSE => Told::Close(data.first_chunk().map_or(0, |code| u16::from_be_bytes(*code))),
                _ => Told::Other,
            };
        }
        if !matches!(from.read_buf(unread).await, Ok(1..)) {
            return Told::Ended;
        }
    }
}

/// The first frame of a server's bytes, if all of it is there: opcode, where its payload begins, and where it ends.
fn parse(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let [first, second] = *bytes.first_chunk()?;
    let (length, payload) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?, 10),
        short => (usize::from(short), 2_usize),
    };
    let end = payload.checked_add(length).filter(|end| *end <= bytes.len())?;
    Some((first & 0x0f, payload, end))
}

/// A client's frame. Its mask is zero, which masks nothing.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | u8::try_from(length).expect("below 126")),
        length if length <= usize::from(u16::MAX) => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).expect("just compared").to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The status of an HTTP answer; 0 if it is none.
pub(crate) fn status(answer: &[u8]) -> u16 {
    let line = String::from_utf8_lossy(answer);
    line.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
