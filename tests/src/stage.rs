//! A cluster with a crowd that talks, to which something is done, and the verdict on what everybody was told.

use std::time::Duration;

use crate::cluster::{Cluster, Options};
use crate::crowd::Crowd;
use crate::oracle::Story;
use crate::traffic::{Outcome, Sent, Traffic};

/// Rooms, members of each, and rooms of a member: on all nodes and routers, and light enough for two cores.
const ROOMS: usize = 30;
const MEMBERS: usize = 4;
const EACH: usize = 5;

/// Between an answer and the next publish of a speaker.
const PAUSE: Duration = Duration::from_millis(60);

/// The cluster and the crowd.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// Who is on it.
    pub crowd: Crowd,
    traffic: Traffic,
}

/// What a run came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Messages that some member got.
    pub messages: usize,
    /// Publishes acknowledged.
    pub acked: usize,
    /// Publishes refused: they are in no room.
    pub refused: usize,
    /// Publishes of unknown outcome.
    pub unknown: usize,
    /// Times that a member was sent out of a room, to come back.
    pub returned: usize,
    /// Times that one was told that it missed something.
    pub missed: usize,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { messages, acked, refused, unknown, returned, missed } = self;
        write!(
            f,
            "{messages} messages in order; {acked} publishes acknowledged, {refused} refused, {unknown} unknown; \
             members came back {returned} times, told of a loss {missed} times"
        )
    }
}

impl Stage {
    /// Starts everything; the speakers begin.
    pub async fn set(name: &str, options: Options) -> Self {
        let cluster = Cluster::start(options).await;
        let crowd = Crowd::gather(name, &cluster.http(), ROOMS, MEMBERS, EACH).await;
        crowd.roll_call(&format!("{name} begins")).await;
        let traffic = Traffic::start(crowd.speakers(2), PAUSE, None);
        Self { cluster, crowd, traffic }
    }

    /// Ends the speaking; gives the cluster and what remains to be judged.
    pub async fn hush(self) -> (Cluster, Crowd, Vec<Sent>) {
        let sent = self.traffic.stop().await;
        (self.cluster, self.crowd, sent)
    }

    /// Ends the speaking, and judges: everybody stays connected, and nobody lost anything. `all_taken`: no publish may have
    /// failed either.
    ///
    /// # Panics
    /// If a promise was broken.
    pub async fn nothing_lost(self, all_taken: bool) -> Tally {
        let (_cluster, crowd, sent) = self.hush().await;
        let tally = judge(&crowd, &sent).await;
        assert_eq!(tally.missed, 0, "nobody was told of a loss");
        if all_taken {
            let failed = sent.iter().filter(|s| s.outcome != Outcome::Acked);
            assert_eq!(tally.acked, sent.len(), "publishes failed, such as {:?}", failed.take(3).collect::<Vec<_>>());
        }
        tally
    }
}

/// Waits until every member has everything, and judges each room: sockets stayed, one order, no hole, no duplicate,
/// acknowledged means delivered or an honest word about a loss.
///
/// # Panics
/// If a promise was broken.
pub async fn judge(crowd: &Crowd, sent: &[Sent]) -> Tally {
    crowd.roll_call("the end").await;
    crowd.catch_up().await;
    crowd.check_open();
    let mut tally = Tally::default();
    for room in crowd.rooms() {
        let oracle = crowd.oracle(room, sent);
        let story: Story = oracle.judge();
        oracle.all_at_top(&story);
        tally.messages += story.messages.len();
        tally.returned += story.unsubscribed;
        tally.missed += story.not_recovered;
    }
    for sent in sent {
        match sent.outcome {
            Outcome::Acked => tally.acked += 1,
            Outcome::Refused(_) => tally.refused += 1,
            Outcome::Unknown => tally.unknown += 1,
        }
    }
    println!("{tally}");
    tally
}
