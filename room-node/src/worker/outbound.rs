//! Sends what a worker's slots said in one turn: one group for each connection.

use std::collections::{BTreeMap, BTreeSet};

use roomring_control::planner::ReadySeat;
use roomring_proto::{Incarnation, v1};

use super::meter::Meter;
use crate::counters::Counters;
use crate::outbox::Outbox;
use crate::slot::{LinkId, Output};

/// What slots said to the coordinator.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) ready: Vec<ReadySeat>,
    /// Processes that owe answers.
    pub(crate) unanswered: BTreeSet<Incarnation>,
}

/// The connections, as one worker knows them.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) links: BTreeMap<LinkId, Outbox<v1::NodeMessage>>,
    /// Streams that this process opened.
    pub(crate) peers: BTreeMap<Incarnation, Outbox<v1::PeerMessage>>,
    /// Streams that others opened to this process.
    pub(crate) callers: BTreeMap<Incarnation, Outbox<v1::PeerMessage>>,
}

impl Outbound {
    /// Sends everything in `out` and empties it. Returns what is for the coordinator. What is for a connection that is gone is
    /// dropped: its end was told to the slots, or will be.
    pub(crate) fn send(&self, out: &mut Vec<Output>, counters: &Counters, meter: &mut Meter) -> Told {
        let mut told = Told::default();
        let mut links = BTreeMap::<LinkId, Vec<v1::NodeMessage>>::new();
        let mut peers = BTreeMap::<(bool, Incarnation), Vec<v1::PeerMessage>>::new();
        let (mut publishes, mut deliveries) = (0, 0);
        for output in out.drain(..) {
            match output {
                Output::Router { link, message } => {
                    if let Some(kind) = &message.kind {
                        meter.count(link, kind);
                    }
                    match &message.kind {
                        Some(v1::node_message::Kind::Published(p)) if p.refused.is_none() => publishes += 1,
                        Some(v1::node_message::Kind::Deliver(d)) => deliveries += d.events.len() as u64,
                        _ => {}
                    }
                    links.entry(link).or_default().push(message);
                }
                Output::Peer { to, message } => {
                    let answer = is_answer(&message);
                    let message = v1::PeerMessage { kind: Some(v1::peer_message::Kind::Replication(message)) };
                    peers.entry((answer, to)).or_default().push(message);
                }
                Output::Ready { slot, seat, term, base } => told.ready.push(ReadySeat { slot, seat, term, base }),
                Output::Unanswered { seat, .. } => {
                    told.unanswered.insert(seat.incarnation);
                }
            }
        }
        counters.add_publishes(publishes);
        counters.add_deliveries(deliveries);
        for (link, messages) in links {
            if let Some(outbox) = self.links.get(&link) {
                outbox.push(messages);
            }
        }
        for ((answer, peer), messages) in peers {
            if let Some(outbox) = if answer { &self.callers } else { &self.peers }.get(&peer) {
                outbox.push(messages);
            }
        }
        told
    }
}

/// Answers go back on the stream on which the primary asked.
fn is_answer(message: &v1::Replication) -> bool {
    use v1::replication::Kind;
    match &message.kind {
        Some(Kind::ProbeReply(_) | Kind::AppendAck(_) | Kind::SnapshotAck(_) | Kind::Refused(_)) => true,
        Some(Kind::Probe(_) | Kind::Append(_) | Kind::Snapshot(_)) | None => false,
    }
}
