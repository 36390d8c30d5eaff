//! Clients that mean harm, each in one way, again and again, and what they got for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::frames::{BINARY, PING, Socket, TEXT, Told};

/// Most of one kind from one address, as if behind a NAT.
const OF_AN_ADDRESS: usize = 10;

/// What somebody who does not get an end of it gives up after.
const PATIENCE: Duration = Duration::from_secs(12);

/// Members of a room of slow readers, all of which publish and none of which reads.
const SLOW_ROOM: usize = 10;

/// Bytes of their messages, and the pause between two.
const SLOW_BYTES: usize = 4 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(100);

/// Receive buffer of a slow reader: the server's queue is what is to fill up.
const SLOW_BUFFER: u32 = 4 << 10;

/// Between two bytes of a handshake that never ends.
const DRIP: Duration = Duration::from_millis(500);

/// Commands in a frame of a flood.
const BATCH: usize = 50;

/// A way to do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rogue {
    /// Is in a busy room and never reads.
    SlowReader,
    /// Sends its handshake by the byte.
    SlowHandshake,
    /// Sends commands as fast as they are taken.
    CommandFlood,
    /// Sends WebSocket pings as fast as they are taken.
    PingFlood,
    /// Comes, joins a room and is gone.
    Churn,
    /// Sends a frame over the limit.
    Oversize,
    /// Sends bytes that mean nothing, before or after the handshake.
    Garbage,
}

impl Rogue {
    /// Each kind.
    pub const ALL: [Self; 7] = [
        Self::SlowReader,
        Self::SlowHandshake,
        Self::CommandFlood,
        Self::PingFlood,
        Self::Churn,
        Self::Oversize,
        Self::Garbage,
    ];
}

impl FromStr for Rogue {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::ALL.map(|rogue| rogue.to_string());
        let found = Self::ALL.into_iter().find(|rogue| rogue.to_string() == name);
        found.ok_or_else(|| format!("expected one of {}", all.join(", ")))
    }
}

impl fmt::Display for Rogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How often each kind got what: `close 3013`, `error 111`, `HTTP 429`, `cut off` (the connection ended without a word),
/// `left` (nobody stopped it); `sent` counts what it sent of what it floods with.
pub type Got = BTreeMap<(Rogue, String), u64>;

/// Rogues at work.
#[derive(Debug)]
pub struct Rogues {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Got>,
}

impl Rogues {
    /// Sets `count` of them on a router, as many of each of `kinds`, from loopback addresses of their own. One that is thrown out
    /// is back after `again`.
    pub fn start(router: SocketAddr, count: usize, kinds: &[Rogue], again: Duration) -> Self {
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let rogue = kinds[number % kinds.len()];
            let place = u32::try_from(number / OF_AN_ADDRESS).expect("few");
            let from = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(127, 66, 0, 1).to_bits() + place));
            tasks.spawn(go_on(Visit { rogue, number, kinds: kinds.len(), from, router }, again, stop.subscribe()));
        }
        Self { stop, tasks }
    }

    /// Ends them all.
    pub async fn stop(self) -> Got {
        self.stop.send_replace(true);
        let mut all = Got::new();
        for got in self.tasks.join_all().await {
            for (what, times) in got {
                *all.entry(what).or_default() += times;
            }
        }
        all
    }
}

async fn go_on(visit: Visit, again: Duration, mut stop: watch::Receiver<bool>) -> Got {
    let mut got = Got::new();
    while !*stop.borrow() {
        let mut tell = |what: String, times: u64| *got.entry((visit.rogue, what)).or_default() += times;
        tokio::select! {
            end = timeout(PATIENCE, visit.go(&mut tell)) => {
                let end = end.unwrap_or(End::Left);
                tell(end.to_string(), 1);
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let _ = timeout(again, stop.wait_for(|stop| *stop)).await;
    }
    got
}

/// How a visit ended.
enum End {
    Close(u16),
    Status(u16),
    CutOff,
    Left,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(code) => write!(f, "close {code}"),
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::CutOff => f.write_str("cut off"),
            Self::Left => f.write_str("left"),
        }
    }
}

impl From<Told> for End {
    fn from(told: Told) -> Self {
        match told {
            Told::Close(code) => Self::Close(code),
            Told::Ended | Told::Message(_) | Told::Other => Self::CutOff,
        }
    }
}

/// One of them.
struct Visit {
    rogue: Rogue,
    number: usize,
    /// How many kinds there are.
    kinds: usize,
    from: IpAddr,
    router: SocketAddr,
}

impl Visit {
    async fn go(&self, tell: &mut impl FnMut(String, u64)) -> End {
        match self.rogue {
            Rogue::SlowReader => self.slow_reader().await,
            Rogue::SlowHandshake => self.slow_handshake().await,
            Rogue::CommandFlood => self.command_flood(tell).await,
            Rogue::PingFlood => self.ping_flood(tell).await,
            Rogue::Churn => self.churn().await,
            Rogue::Oversize => self.oversize().await,
            Rogue::Garbage => self.garbage().await,
        }
        .unwrap_or_else(|end| end)
    }

    /// A WebSocket whose connect command was answered.
    async fn come(&self, buffer: Option<u32>) -> Result<Socket, End> {
        let mut socket = self.open(buffer).await?;
        socket.say(&json!({"id": 1, "connect": {"data": {"user": format!("rogue-{}", self.number)}}})).await;
        match socket.next().await {
            Told::Message(_) => Ok(socket),
            end => Err(end.into()),
        }
    }

    async fn open(&self, buffer: Option<u32>) -> Result<Socket, End> {
        Socket::open(self.router, self.from, buffer).await.map_err(|status| status.map_or(End::CutOff, End::Status))
    }

    async fn slow_reader(&self) -> Result<End, End> {
        let mut socket = self.come(Some(SLOW_BUFFER)).await?;
        let room = format!("slow-{}", self.number / self.kinds / SLOW_ROOM);
        socket.say(&json!({"id": 2, "subscribe": {"channel": room}})).await;
        let data = "x".repeat(SLOW_BYTES);
        let begun = Instant::now();
        for id in 3.. {
            if !socket.say(&json!({"id": id, "publish": {"channel": room, "data": data}})).await {
                break;
            }
            if begun.elapsed() > PATIENCE / 2 {
                break;
            }
            sleep(SLOW_PAUSE).await;
        }
        // What lies there now is all that it gets.
        Ok(loop {
            match socket.next().await {
                Told::Message(_) | Told::Other => {}
                end => break end.into(),
            }
        })
    }

    async fn slow_handshake(&self) -> Result<End, End> {
        let mut tcp = Socket::tcp(self.router, self.from, None).await.ok_or(End::CutOff)?;
        let begin = b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nX-Slow: ";
        let mut sent = tcp.write_all(begin).await;
        while sent.is_ok() {
            let mut answer = [0; 256];
            match timeout(DRIP, tokio::io::AsyncReadExt::read(&mut tcp, &mut answer)).await {
                Ok(Ok(read @ 1..)) => return Ok(End::Status(crate::frames::status(&answer[..read]))),
                Ok(_) => break,
                Err(_) => sent = tcp.write_all(b"y").await,
            }
        }
        Ok(End::CutOff)
    }

    async fn command_flood(&self, tell: &mut impl FnMut(String, u64)) -> Result<End, End> {
        let mut socket = self.come(None).await?;
        let room = format!("flood-{}", self.number);
        socket.say(&json!({"id": 2, "subscribe": {"channel": room}})).await;
        let command = |id: usize| match id % 4 {
            0 => json!({"id": id, "publish": {"channel": room, "data": "x"}}),
            1 => json!({"id": id, "presence": {"channel": room}}),
            2 => json!({"id": id, "history": {"channel": room, "limit": 100}}),
            _ => json!({"id": id, "ping": {}}),
        };
        let (mut reader, mut writer) = socket.split();
        let mut sent = 0_u64;
        let writing = async {
            for batch in 0.. {
                let ids = 3 + batch * BATCH..3 + (batch + 1) * BATCH;
                let commands: Vec<String> = ids.map(|id| command(id).to_string()).collect();
                if !writer.send(TEXT, commands.join("\n").as_bytes()).await {
                    break;
                }
                sent += BATCH as u64;
            }
        };
        let mut refused = 0;
        let reading = async {
            loop {
                match reader.next().await {
                    Told::Message(text) => refused += errors(&text, 111),
                    Told::Other => {}
                    end => break End::from(end),
                }
            }
        };
        let end = tokio::select! {
            biased;
            end = reading => end,
            () = async { writing.await; std::future::pending().await } => End::CutOff,
        };
        tell("sent".to_owned(), sent);
        tell("error 111".to_owned(), refused);
        Ok(end)
    }

    async fn ping_flood(&self, tell: &mut impl FnMut(String, u64)) -> Result<End, End> {
        let (mut reader, mut writer) = self.come(None).await?.split();
        let mut sent = 0_u64;
        let deadline = Instant::now() + PATIENCE / 2;
        let writing = async {
            while Instant::now() < deadline && writer.send_many(PING, &[b'x'; 100], BATCH).await {
                sent += BATCH as u64;
            }
        };
        let reading = async {
            loop {
                match reader.next().await {
                    Told::Message(_) | Told::Other => {}
                    end => break End::from(end),
                }
            }
        };
        let end = tokio::select! {
            biased;
            end = reading => end,
            () = writing => End::Left,
        };
        tell("sent".to_owned(), sent);
        Ok(end)
    }

    async fn churn(&self) -> Result<End, End> {
        let mut socket = self.come(None).await?;
        socket.say(&json!({"id": 2, "subscribe": {"channel": "churn"}})).await;
        match socket.next().await {
            Told::Message(_) => {
                socket.reset();
                Ok(End::Left)
            }
            end => Ok(end.into()),
        }
    }

    async fn oversize(&self) -> Result<End, End> {
        let mut socket = self.come(None).await?;
        socket.send(TEXT, &vec![b'x'; 100 << 10]).await;
        Ok(self.end(socket).await)
    }

    async fn garbage(&self) -> Result<End, End> {
        let bytes: Vec<u8> = (0..1_000).map(|_| rand::random()).collect();
        if rand::random() {
            let mut tcp = Socket::tcp(self.router, self.from, None).await.ok_or(End::CutOff)?;
            let _ = tcp.write_all(&[&bytes, &b"\r\n\r\n"[..]].concat()).await;
            let mut answer = [0; 256];
            return Ok(match tokio::io::AsyncReadExt::read(&mut tcp, &mut answer).await {
                Ok(read @ 1..) => End::Status(crate::frames::status(&answer[..read])),
                _ => End::CutOff,
            });
        }
        let mut socket = self.come(None).await?;
        // A whole frame that holds nonsense, or no frame at all.
        if rand::random() {
            socket.send(BINARY, &bytes).await;
        } else {
            socket.raw(&bytes).await;
        }
        Ok(self.end(socket).await)
    }

    async fn end(&self, mut socket: Socket) -> End {
        loop {
            match socket.next().await {
                Told::Message(_) | Told::Other => {}
                end => return end.into(),
            }
        }
    }
}

/// How many answers in a frame are this error.
fn errors(text: &[u8], code: u32) -> u64 {
    let lines = text.split(|byte| *byte == b'\n');
    let is = |line: &[u8]| serde_json::from_slice::<Value>(line).is_ok_and(|answer| answer["error"]["code"] == code);
    lines.filter(|line| is(line)).count() as u64
}
