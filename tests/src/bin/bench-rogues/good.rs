//! Clients that do nothing wrong: what one of a room says, all of it hear, once and in order, and it is measured how soon.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use roomring_tests::{Socket, TEXT, Times, Told};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Most of them from one address.
const OF_AN_ADDRESS: usize = 100;

/// Clients that come at the same time.
const AT_ONCE: usize = 64;

/// Until the last delivery of a measurement is there.
const LAST: Duration = Duration::from_secs(10);

/// What they heard of one measurement.
#[derive(Debug)]
pub(crate) struct Heard {
    /// From when a publish was due to when a member had it.
    pub(crate) times: Times,
    /// Deliveries that did not come, came twice or out of order.
    pub(crate) wrong: usize,
    /// Connections that have ended.
    pub(crate) ended: usize,
}

impl Heard {
    /// Nothing is wrong with it.
    pub(crate) fn is_whole(&self) -> bool {
        self.wrong + self.ended == 0
    }
}

/// The clients.
pub(crate) struct Good {
    members: usize,
    base: Instant,
    /// Each has the first member of a room say something.
    speakers: Vec<mpsc::UnboundedSender<Duration>>,
    heard: mpsc::UnboundedReceiver<Duration>,
    wrong: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Good {
    /// Brings them all in, from loopback addresses of their own.
    pub(crate) async fn gather(router: SocketAddr, count: usize, members: usize) -> Self {
        let coming = (0..count).map(|n| come(router, n, format!("good-{}", n / members)));
        let sockets: Vec<Socket> = stream::iter(coming).buffered(AT_ONCE).collect().await;
        let (tell, heard) = mpsc::unbounded_channel();
        let (wrong, ended, base) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Instant::now());
        let (mut speakers, mut tasks) = (Vec::new(), JoinSet::new());
        for (n, socket) in sockets.into_iter().enumerate() {
            let (speaker, words) = mpsc::unbounded_channel();
            if n % members == 0 {
                speakers.push(speaker);
            }
            let room = format!("good-{}", n / members);
            let member = Member { room, base, tell: tell.clone(), wrong: wrong.clone(), last: 0, ids: 2 };
            let ended = ended.clone();
            tasks.spawn(async move {
                member.listen(socket, words).await;
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        Self { members, base, speakers, heard, wrong, ended, _tasks: tasks }
    }

    /// Publishes at this rate, in one room after the other, for so long; gives what came of it.
    pub(crate) async fn talk(&mut self, a_second: u32, span: Duration) -> Heard {
        let wrong = self.wrong.load(Ordering::Relaxed);
        let count = a_second * u32::try_from(span.as_secs()).expect("short");
        let mut ticks = tokio::time::interval(span / count);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for n in 0..count {
            // When it was due, not when there was time for it: who waits to speak waits to be heard.
            let due = ticks.tick().await.into_std().saturating_duration_since(self.base);
            let speaker = &self.speakers[n as usize % self.speakers.len()];
            let _ = speaker.send(due);
        }
        let expected = count as usize * self.members;
        let mut times = Times::default();
        while times.len() < expected {
            match tokio::time::timeout(LAST, self.heard.recv()).await {
                Ok(Some(took)) => times.extend([took]),
                Ok(None) | Err(_) => break,
            }
        }
        let missing = expected - times.len();
        let wrong = self.wrong.load(Ordering::Relaxed) - wrong + missing;
        Heard { times, wrong, ended: self.ended.load(Ordering::Relaxed) }
    }
}

async fn come(router: SocketAddr, n: usize, room: String) -> Socket {
    let place = u32::try_from(n / OF_AN_ADDRESS).expect("few");
    let from = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(127, 77, 0, 1).to_bits() + place));
    let mut socket = Socket::open(router, from, None).await.expect("a handshake");
    for command in [
        json!({"id": 1, "connect": {"data": {"user": format!("good-{n}")}}}),
        json!({"id": 2, "subscribe": {"channel": room}}),
    ] {
        socket.say(&command).await;
        let answer = match socket.next().await {
            Told::Message(text) => serde_json::from_slice::<Value>(&text).unwrap_or_default(),
            other => panic!("an answer, not {other:?}"),
        };
        assert!(answer["id"] == command["id"] && answer.get("error").is_none(), "{answer}");
    }
    socket
}

/// One of them.
struct Member {
    room: String,
    base: Instant,
    tell: mpsc::UnboundedSender<Duration>,
    wrong: Arc<AtomicUsize>,
    last: u64,
    ids: u32,
}

impl Member {
    /// Speaks when it is told to and listens, until the connection ends.
    async fn listen(mut self, mut socket: Socket, mut words: mpsc::UnboundedReceiver<Duration>) {
        loop {
            tokio::select! {
                told = socket.next() => match told {
                    Told::Message(text) => {
                        for line in text.split(|byte| *byte == b'\n') {
                            if line == b"{}" {
                                socket.send(TEXT, b"{}").await;
                            } else {
                                self.hear(&serde_json::from_slice(line).unwrap_or_default());
                            }
                        }
                    }
                    Told::Other => {}
                    Told::Close(_) | Told::Ended => return,
                },
                Some(due) = words.recv() => {
                    self.ids += 1;
                    let said = due.as_nanos().to_string();
                    socket.say(&json!({"id": self.ids, "publish": {"channel": self.room, "data": said}})).await;
                }
            }
        }
    }

    fn hear(&mut self, told: &Value) {
        let publication = &told["push"]["pub"];
        if let Some(offset) = publication["offset"].as_u64() {
            let said = publication["data"].as_str().and_then(|said| said.parse().ok()).map(Duration::from_nanos);
            if let Some(due) = said.filter(|_| offset == self.last + 1) {
                let _ = self.tell.send(self.base.elapsed().saturating_sub(due));
            } else {
                self.wrong.fetch_add(1, Ordering::Relaxed);
            }
            self.last = offset;
        } else if told.get("error").is_some() {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }
}
