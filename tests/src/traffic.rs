//! Publishers that go on while a test does something to the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, Error};

/// What a publisher was told about a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the room.
    Acked,
    /// It is not, and never will be.
    Refused(Error),
    /// Nobody knows.
    Unknown,
}

/// One publish.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Where to.
    pub room: String,
    /// Whose; with the room it names one sequence of publishes.
    pub publisher: String,
    /// The payload as JSON text, unlike any other.
    pub data: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Publishers at work.
#[derive(Debug)]
pub struct Traffic {
    stop: watch::Sender<bool>,
    publishers: JoinSet<Vec<Sent>>,
}

impl Traffic {
    /// One publisher for each pair, each waiting for the answer and then `pause` before it says the next. With a
    /// `count` it says so many; without, it goes on until [`Traffic::stop`].
    pub fn start(
        pairs: impl IntoIterator<Item = (Arc<Client>, String)>,
        pause: Duration,
        count: Option<usize>,
    ) -> Self {
        // Payloads of one run are never those of another.
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let stop = watch::Sender::new(false);
        let mut publishers = JoinSet::new();
        for (client, room) in pairs {
            publishers.spawn(publish(client, room, run, pause, count, stop.subscribe()));
        }
        Self { stop, publishers }
    }

    /// Lets each publisher finish what it has in flight, and gives everything that was sent.
    pub async fn stop(self) -> Vec<Sent> {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Waits until every publisher has said its count.
    pub async fn finish(self) -> Vec<Sent> {
        self.publishers.join_all().await.into_iter().flatten().collect()
    }
}

impl Outcome {
    fn of(answer: Result<(), Error>) -> Self {
        match answer {
            Ok(()) => Self::Acked,
            // 1000 says so itself; without an answer (0) nobody knows either.
            Err(Error { code: 0 | 1000, .. }) => Self::Unknown,
            Err(error) => Self::Refused(error),
        }
    }
}

async fn publish(
    client: Arc<Client>,
    room: String,
    run: u64,
    pause: Duration,
    count: Option<usize>,
    mut stop: watch::Receiver<bool>,
) -> Vec<Sent> {
    let mut all = Vec::new();
    while !*stop.borrow() && !client.is_closed() && count.is_none_or(|count| all.len() < count) {
        let text = format!("{} {run}.{}", client.id(), all.len());
        let outcome = Outcome::of(client.publish(&room, text.clone()).await);
        let data = serde_json::Value::from(text).to_string();
        all.push(Sent { room: room.clone(), publisher: client.id(), data, outcome });
        let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await;
    }
    all
}
