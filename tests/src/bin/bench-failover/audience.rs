//! Who is on the cluster, and the publishing that never stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use roomring_tests::checker::{self, Claim, Recording, Verdict, What};
use roomring_tests::{Client, Error, Times};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

/// Clients that come at the same time.
const AT_ONCE: usize = 64;

/// A publish that was refused with a temporary error is said again after this, as an application would.
const AGAIN: Duration = Duration::from_millis(50);

/// The error that says that a publish may be in the room, or not.
const OUTCOME_UNKNOWN: u32 = 1000;

/// Payloads are unlike each other over the whole run.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Clients in rooms `bench-0` ...; client n is in room n modulo the number of rooms.
pub(crate) struct Audience {
    clients: Vec<Arc<Client>>,
    rooms: usize,
}

/// Publishes that failed, by kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Failed {
    /// Refused with a temporary error, and said again.
    pub(crate) refused: usize,
    /// Of unknown outcome.
    pub(crate) unknown: usize,
}

/// The publishing.
pub(crate) struct Steady {
    stop: watch::Sender<bool>,
    task: JoinHandle<(Times, Failed)>,
}

impl Audience {
    /// Connects everybody; members of a room sit on all routers.
    pub(crate) async fn gather(routers: &[SocketAddr], rooms: usize, members: usize) -> Self {
        let coming = (0..members).map(|n| async move {
            let router = routers[(n / rooms + n) % routers.len()];
            let client = Client::connect(router, &format!("user-{n}")).await;
            client.subscribe(&room(n % rooms)).await;
            Arc::new(client)
        });
        let clients = stream::iter(coming).buffered(AT_ONCE).collect().await;
        Self { clients, rooms }
    }

    /// The first member of each room, with the room.
    pub(crate) fn speakers(&self) -> Vec<(Arc<Client>, String)> {
        self.clients.iter().take(self.rooms).cloned().zip((0..self.rooms).map(room)).collect()
    }

    /// Sockets that ended.
    pub(crate) fn dropped(&self) -> usize {
        self.clients.iter().filter(|c| c.is_closed()).count()
    }

    /// Publishes to one room after the other, so many a second, without waiting for answers.
    pub(crate) fn steady(&self, a_second: u32) -> Steady {
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(publish(self.speakers(), a_second, stop.subscribe()));
        Steady { stop, task }
    }

    /// Waits until every member heard the last word of its room, and applies the checker to everything that was told.
    pub(crate) async fn judge(&self) -> (Recording, Vec<Verdict>) {
        let last = |client: Arc<Client>, room: String| async move {
            say(&client, &room, "the end").await.unwrap_or_else(|e| panic!("the last word in {room}: {e}"));
            room
        };
        let said: Vec<String> =
            stream::iter(self.speakers().into_iter().map(|(c, r)| last(c, r))).buffered(AT_ONCE).collect().await;
        for (n, client) in self.clients.iter().enumerate() {
            let has = |log: &roomring_tests::RoomLog| log.messages().any(|m| m.starts_with("\"the end")).then_some(());
            client.wait_log(&said[n % self.rooms], "the last word", has).await;
        }
        let everything = || Recording::gather(self.clients.iter().map(|c| c.notes()));
        let mut recording = everything();
        let so_far = recording.lines.len();
        recording.say(What::Calm);
        // Asked through both routers in turns.
        let asked = (0..self.rooms).map(|n| (&self.clients[(n + n % 2 * self.rooms) % self.clients.len()], room(n)));
        let asked = asked.map(|(client, room)| async move {
            client.presence(&room).await.unwrap_or_else(|e| panic!("who is in {room}: {e}"));
        });
        stream::iter(asked).buffer_unordered(AT_ONCE).collect::<()>().await;
        recording.lines.extend(everything().lines.into_iter().skip(so_far));
        recording.say(What::Claimed { claim: Claim::NoLoss });
        recording.say(What::Claimed { claim: Claim::SocketsStay });
        let verdicts = checker::check(&recording);
        (recording, verdicts)
    }
}

impl Steady {
    /// Ends it, waits for the answers under way, and gives how long answers took.
    pub(crate) async fn stop(self) -> (Times, Failed) {
        self.stop.send_replace(true);
        self.task.await.expect("the publishing has not panicked")
    }
}

fn room(n: usize) -> String {
    format!("bench-{n}")
}

/// Says something unlike anything else.
pub(crate) async fn say(client: &Client, room: &str, text: &str) -> Result<(), Error> {
    client.publish(room, format!("{text} {}", NUMBER.fetch_add(1, Ordering::Relaxed))).await
}

/// Says something until something is acknowledged, and where it is; gives how often that failed.
pub(crate) async fn persist(client: &Client, room: &str, text: &str) -> Failed {
    let mut failed = Failed::default();
    loop {
        let data = format!("{text} {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let call = json!({"method": "room.publish", "data": {"channel": room, "data": data}});
        match client.call(json!({"rpc": call})).await {
            Ok(_) => return failed,
            Err(e) if e.temporary => failed.refused += 1,
            Err(e) if e.code == OUTCOME_UNKNOWN => failed.unknown += 1,
            Err(e) => panic!("publish to {room}: {e}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Says it until it is acknowledged or of unknown outcome; gives how often it was refused, and whether it was acknowledged.
pub(crate) async fn insist(client: &Client, room: &str, text: &str) -> (usize, bool) {
    let mut refused = 0;
    loop {
        match say(client, room, text).await {
            Ok(()) => return (refused, true),
            Err(e) if e.temporary => refused += 1,
            Err(_) => return (refused, false),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn publish(
    speakers: Vec<(Arc<Client>, String)>,
    a_second: u32,
    mut stop: watch::Receiver<bool>,
) -> (Times, Failed) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / a_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut times, mut failed, mut under_way) = (Times::default(), Failed::default(), JoinSet::new());
    let mut take = |answer: Option<(Duration, (usize, bool))>| {
        if let Some((took, (refused, acked))) = answer {
            failed.refused += refused;
            failed.unknown += usize::from(!acked);
            times.extend(acked.then_some(took));
        }
    };
    for (client, room) in speakers.into_iter().cycle() {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        under_way.spawn(async move {
            let start = Instant::now();
            let answer = insist(&client, &room, "steady").await;
            (start.elapsed(), answer)
        });
        while let Some(answer) = under_way.try_join_next() {
            take(answer.ok());
        }
    }
    while let Some(answer) = under_way.join_next().await {
        take(answer.ok());
    }
    (times, failed)
}
