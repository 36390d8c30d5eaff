//! One connection of a load process.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::dialect::{Dialect, Step};
use super::frame;
use crate::histogram::Histogram;

/// Stands once in each payload, and nowhere else in what a server sends; the time of the publish follows it.
pub(crate) const MARKER: u8 = b'|';
/// Digits of the time.
pub(crate) const STAMP: usize = 16;
/// The time of one delivery of so many is looked at.
const SAMPLED: u64 = 8;

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) room: usize,
    pub(crate) member: usize,
}

/// What came, over all connections.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) came: u64,
    pub(crate) reads: u64,
    pub(crate) latency: Histogram,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) socket: TcpStream,
    /// Messages that came.
    pub(crate) received: u64,
    /// Subscribes that were not answered yet.
    pub(crate) joining: usize,
    upgraded: bool,
    greeted: bool,
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
    /// What the socket did not take yet.
    out: Vec<u8>,
}

impl Conn {
    /// Begins to connect.
    pub(crate) fn open(to: SocketAddr, from: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.bind(&SocketAddrV4::new(from, 0).into())?;
        socket.set_tcp_nodelay(true)?;
        // A reset at the end leaves no port waiting for a minute.
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&to.into()) {
            Err(e) if e.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => return Err(e),
            _ => {}
        }
        let socket = TcpStream::from_std(std::net::TcpStream::from(socket));
        let (partial, out) = (Vec::new(), Vec::new());
        Ok(Self { socket, received: 0, joining: 1, upgraded: false, greeted: false, partial, out })
    }

    /// Sends what waits; the first time, the greeting.
    pub(crate) fn on_writable(&mut self, place: Place, number: usize, dialect: Dialect) -> Result<(), String> {
        if !self.greeted {
            if let Some(error) = self.socket.take_error().map_err(|e| e.to_string())? {
                return Err(format!("connect: {error}"));
            }
            let greeting = match dialect.path(place.room) {
                Some(path) => format!(
                    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                )
                .into_bytes(),
                None => {
                    self.upgraded = true;
                    (number as u32).to_le_bytes().to_vec()
                }
            };
            self.greeted = true;
            return self.send(&greeting);
        }
        self.flush()
    }

    /// Keeps for the next [`Conn::flush`].
    pub(crate) fn hold(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Sends what is kept.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        let waiting = std::mem::take(&mut self.out);
        self.send(&waiting)
    }

    /// Sends, or keeps for later.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while self.out.is_empty() && !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("write: {e}")),
            }
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Reads everything; true if that answered the last subscribe.
    pub(crate) fn on_readable(
        &mut self,
        place: Place,
        dialect: Dialect,
        buffer: &mut [u8],
        tally: &mut Tally,
        clock: Instant,
    ) -> Result<bool, String> {
        let before = self.joining;
        loop {
            let kept = self.partial.len();
            buffer[..kept].copy_from_slice(&self.partial);
            self.partial.clear();
            let read = match self.socket.read(&mut buffer[kept..]) {
                Ok(0) => return Err("the server ended the connection".to_owned()),
                Ok(n) => n,
                Err(e) => {
                    self.partial.extend_from_slice(&buffer[..kept]);
                    match e.kind() {
                        ErrorKind::WouldBlock => break,
                        _ => return Err(format!("read: {e}")),
                    }
                }
            };
            tally.reads += 1;
            let have = kept + read;
            let used = self.take(place, dialect, &buffer[..have], tally, clock)?;
            if have - used == buffer.len() {
                return Err("a frame is larger than the buffer".to_owned());
            }
            if have > used {
                self.partial.extend_from_slice(&buffer[used..have]);
            }
            // Less than there was room for: the socket is empty, and the next bytes will be announced.
            if have < buffer.len() {
                break;
            }
        }
        Ok(before > 0 && self.joining == 0)
    }

    /// Takes whole frames; gives how many bytes they were.
    fn take(
        &mut self,
        place: Place,
        dialect: Dialect,
        bytes: &[u8],
        tally: &mut Tally,
        clock: Instant,
    ) -> Result<usize, String> {
        let mut at = 0;
        if !self.upgraded {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(0) };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                return Err(format!("handshake: {}", String::from_utf8_lossy(&bytes[..end])));
            }
            self.upgraded = true;
            at = end + 4;
            let mut answer = Vec::new();
            if dialect.open(place.room, place.member, &mut answer) {
                self.joining = 0;
            }
            self.send(&answer)?;
        }
        while let Some(found) = frame::at(bytes, at) {
            let payload = &bytes[found.start..found.end];
            match found.opcode {
                frame::CLOSE => {
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                    return Err(format!("the server closed: {reason}"));
                }
                frame::PING => {
                    let mut answer = Vec::new();
                    frame::pong(&mut answer, payload);
                    self.send(&answer)?;
                }
                frame::PONG => {}
                _ => self.on_data(place, dialect, payload, tally, clock)?,
            }
            at = found.end;
        }
        Ok(at)
    }

    fn on_data(
        &mut self,
        place: Place,
        dialect: Dialect,
        payload: &[u8],
        tally: &mut Tally,
        clock: Instant,
    ) -> Result<(), String> {
        let before = self.received;
        for marker in memchr::memchr_iter(MARKER, payload) {
            self.received += 1;
            tally.came += 1;
            if tally.came.is_multiple_of(SAMPLED) {
                let stamp = payload.get(marker + 1..marker + 1 + STAMP).and_then(|s| std::str::from_utf8(s).ok());
                let sent = stamp.and_then(|s| u64::from_str_radix(s, 16).ok());
                let sent = sent.ok_or_else(|| format!("no time in {}", String::from_utf8_lossy(payload)))?;
                tally.latency.record((clock.elapsed().as_nanos() as u64).saturating_sub(sent));
            }
        }
        // Answers may share a frame with messages; while some are waited for, every frame is looked at.
        if self.received == before || self.joining > 0 || dialect.asks(payload) {
            let mut answer = Vec::new();
            match dialect.on_other(place.room, payload, &mut answer) {
                Step::Joined(subscribes) => self.joining = self.joining.saturating_sub(subscribes),
                Step::Refused(why) => return Err(format!("the server refused: {why}")),
            }
            self.send(&answer)?;
        }
        Ok(())
    }
}
