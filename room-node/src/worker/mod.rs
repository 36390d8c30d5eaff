//! The tasks that own the slots: each takes its mails in batches, runs its slots, and sends what they say.

mod mailbox;
mod meter;
mod outbound;
mod shard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::{Time, unix_ms};
use roomring_control::planner::{ReadySeat, Word};
use roomring_proto::Incarnation;
use roomring_proto::SlotId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::mailbox::{Mail, Workers};
use self::meter::Meter;
pub(crate) use self::meter::{Report, load_of};
use self::outbound::Outbound;
pub use self::shard::{Event, Moment, Part, Shard};
use crate::counters::Counters;
use crate::outbox::Outbox;
use crate::slot::Output;
use crate::vitals::LastTick;

/// Mails taken in one turn: what they cause is sent together, so a busy worker sends few large batches.
const MAILS_A_TURN: usize = 256;

/// Mails after which slots do what became possible: together they bring less than a slot may have uncommitted.
const MAILS_TOGETHER: usize = 16;

/// Room for outputs that is kept from turn to turn: a burst takes more, and would leave megabytes.
const OUTPUTS_KEPT: usize = 1024;

/// A worker comes round at least this often, so that its age in heartbeats says whether it hangs.
const IDLE_TURN: Duration = Duration::from_millis(100);

/// A worker sleeps at least this long for a deadline: slots that are always due do not make it spin.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// One worker: a task for [`Worker::run`].
#[derive(Debug)]
pub(crate) struct Worker {
    mails: mpsc::Receiver<Mail>,
    shard: Shard,
    outbound: Outbound,
    /// What the slots said in this turn.
    out: Vec<Output>,
    /// Proposals that the coordinator had no room for; the latest of each slot.
    waiting: BTreeMap<SlotId, ReadySeat>,
    /// The coordinator holds the other end.
    words: mpsc::Sender<Word>,
    counters: Arc<Counters>,
    meter: Meter,
    last_tick: Arc<LastTick>,
}

impl Worker {
    pub(crate) fn new(
        mails: mpsc::Receiver<Mail>,
        part: Part,
        me: Incarnation,
        words: mpsc::Sender<Word>,
        counters: Arc<Counters>,
        report: Report,
        last_tick: Arc<LastTick>,
    ) -> Self {
        let now = Time::now();
        last_tick.set(now);
        Self {
            mails,
            shard: Shard::new(part, me),
            outbound: Outbound::default(),
            out: Vec::new(),
            waiting: BTreeMap::new(),
            words,
            counters,
            meter: Meter::new(part, now, report),
            last_tick,
        }
    }

    /// Works until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut mails = Vec::with_capacity(MAILS_A_TURN);
        loop {
            let rest = self.rest();
            tokio::select! {
                () = stop.cancelled() => return,
                n = self.mails.recv_many(&mut mails, MAILS_A_TURN) => if n == 0 { return },
                () = tokio::time::sleep(rest) => {}
            }
            self.turn(&mut mails);
            if !self.mails.is_empty() {
                // Others of this thread get their turns, too.
                tokio::task::yield_now().await;
            }
        }
    }

    fn rest(&self) -> Duration {
        let due = self.shard.next_deadline().map_or(IDLE_TURN, |t| t.since(Time::now()));
        due.clamp(SHORTEST_SLEEP, IDLE_TURN)
    }

    fn turn(&mut self, mails: &mut Vec<Mail>) {
        for (n, mail) in (1..).zip(mails.drain(..)) {
            self.on_mail(mail);
            if n % MAILS_TOGETHER == 0 {
                self.shard.tick(moment(), &mut self.out);
            }
        }
        self.shard.tick(moment(), &mut self.out);
        let told = self.outbound.send(&mut self.out, &self.counters, &mut self.meter);
        if self.out.capacity() > OUTPUTS_KEPT {
            self.out = Vec::new();
        }
        for process in told.unanswered {
            // A slot says it again while it lasts.
            let _ = self.words.try_send(Word::Unanswered(process));
        }
        self.waiting.extend(told.ready.into_iter().map(|proposal| (proposal.slot, proposal)));
        while let Some(proposal) = self.waiting.first_entry() {
            if self.words.try_send(Word::Ready(*proposal.get())).is_err() {
                break;
            }
            proposal.remove();
        }
        let now = Time::now();
        self.meter.sample(now, || self.shard.status());
        self.last_tick.set(now);
    }

    fn on_mail(&mut self, mail: Mail) {
        let event = match mail {
            Mail::Adopt { placement, contact } => Event::Adopt { placement, contact },
            Mail::PeerUp { peer, outbox } => {
                self.outbound.peers.insert(peer, outbox);
                Event::PeerUp(peer)
            }
            Mail::PeerDown(peer) => {
                self.outbound.peers.remove(&peer);
                Event::PeerDown(peer)
            }
            Mail::CallerUp { peer, outbox } => {
                self.outbound.callers.insert(peer, outbox);
                return;
            }
            Mail::CallerDown(peer) => {
                self.outbound.callers.remove(&peer);
                return;
            }
            Mail::LinkUp { link, router, listens, outbox } => {
                self.outbound.links.insert(link, outbox);
                let listens = listens.then_some(Event::Listens(link));
                return self.each([Event::LinkUp { link, router }].into_iter().chain(listens));
            }
            Mail::LinkDown(link) => {
                self.outbound.links.remove(&link);
                Event::LinkDown(link)
            }
            Mail::Peer(messages) => return self.each(messages.into_iter().map(Event::Peer)),
            Mail::Router { link, messages } => {
                self.meter.came(link, &messages);
                let events = messages.into_iter().map(|(slot, message)| Event::Router { link, slot, message });
                return self.each(events);
            }
            Mail::Status(answer) => {
                // Nobody may be waiting any more.
                let _ = answer.send(self.shard.status());
                return;
            }
            Mail::Rooms(answer) => {
                let _ = answer.send(self.shard.rooms());
                return;
            }
        };
        self.each([event]);
    }

    fn each(&mut self, events: impl IntoIterator<Item = Event>) {
        let at = moment();
        for event in events {
            self.shard.take(at, event, &mut self.out);
        }
    }
}

impl Drop for Worker {
    /// Without its worker a connection would wait for answers that never come.
    fn drop(&mut self) {
        let stopping = || Some(tonic::Status::unavailable("the node is stopping"));
        self.outbound.links.values().for_each(|o: &Outbox<_>| o.close(stopping()));
        self.outbound.peers.values().chain(self.outbound.callers.values()).for_each(|o| o.close(stopping()));
    }
}

fn moment() -> Moment {
    Moment { now: Time::now(), wall_ms: unix_ms() }
}
