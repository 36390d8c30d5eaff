//! What a node tells: its slots, its publishes, its queues.

use std::fmt;
use std::sync::Arc;

use roomring_control::daemon::metrics::{Busy, Counter, Latencies, Sink, Source};
use roomring_proto::v1;
use v1::refusal::Reason;
use v1::slot_status::Role;

use crate::site::NodeSite;

/// From the arrival of a publish at its primary to its commit, of one publish in each slot at a time.
pub(crate) static COMMITS: Latencies = Latencies::new();
/// Payload of publishes that came in.
pub(crate) static PUBLISHED_BYTES: Busy = Busy::new();
/// Payload sent to routers.
pub(crate) static DELIVERED_BYTES: Busy = Busy::new();
/// What waits in all outboxes.
pub(crate) static OUTBOX_BYTES: Counter = Counter::new();

/// Publishes that were not taken, by reason; in the order of [`REASONS`].
static REFUSALS: [Counter; REASONS.len()] = [const { Counter::new() }; REASONS.len()];

const REASONS: [(Reason, &str); 9] = [
    (Reason::Unspecified, "other"),
    (Reason::NotPrimary, "not_primary"),
    (Reason::Stale, "stale"),
    (Reason::Limit, "limit"),
    (Reason::OtherGeneration, "other_generation"),
    (Reason::UnknownEpoch, "unknown_epoch"),
    (Reason::BadRequest, "bad_request"),
    (Reason::Busy, "busy"),
    (Reason::Nothing, "nothing"),
];

const ROLES: [(Role, &str); 5] = [
    (Role::Primary, "primary"),
    (Role::Promoting, "promoting"),
    (Role::Replica, "replica"),
    (Role::Learner, "learner"),
    (Role::Fenced, "fenced"),
];

/// A publish was refused.
pub(crate) fn refused(reason: Reason) {
    let at = REASONS.iter().position(|(r, _)| *r == reason).unwrap_or(0);
    REFUSALS[at].add(1);
}

/// What a worker's slots hold, as of its last sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Holds {
    /// Slots by role, as in [`ROLES`].
    slots: [u64; ROLES.len()],
    rooms: u64,
    members: u64,
    bytes: u64,
    /// Entries of slots led here that an in-sync replica has yet to acknowledge.
    uncommitted: u64,
    /// The most in one slot.
    lag: u64,
}

impl Holds {
    pub(crate) fn of(slots: &[v1::SlotStatus]) -> Self {
        let mut holds = Self::default();
        for slot in slots {
            let role = slot.role();
            for (count, (_, _)) in holds.slots.iter_mut().zip(ROLES).filter(|(_, (r, _))| *r == role) {
                *count += 1;
            }
            holds.bytes += slot.bytes;
            if matches!(role, Role::Primary | Role::Promoting) {
                holds.rooms += slot.rooms;
                holds.members += slot.members;
                let lag = slot.last.saturating_sub(slot.commit);
                holds.uncommitted += lag;
                holds.lag = holds.lag.max(lag);
            }
        }
        holds
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.slots.iter_mut().zip(other.slots).for_each(|(sum, n)| *sum += n);
        self.rooms += other.rooms;
        self.members += other.members;
        self.bytes += other.bytes;
        self.uncommitted += other.uncommitted;
        self.lag = self.lag.max(other.lag);
    }
}

/// Tells all of a node's numbers.
#[derive(Debug)]
pub(crate) struct NodeMetrics(pub(crate) Arc<NodeSite>);

impl Source for NodeMetrics {
    fn tell(&self, sink: &mut Sink<'_>) -> fmt::Result {
        let site = &self.0;
        sink.build("node")?;
        let ready = u64::from(site.is_ready().is_ok());
        sink.gauge("ready", "1 while the process is ready as /readyz has it.", ready)?;

        let shell = site.shell();
        let holds = site.holds();
        let slots: Vec<_> = ROLES.iter().zip(holds.slots).map(|((_, role), n)| (*role, n)).collect();
        sink.gauges(
            "node_slots",
            "Slots here by the part that this node plays in them; fenced = named primary but not serving.",
            "role",
            &slots,
        )?;
        sink.gauge("node_rooms", "Rooms of the slots that this node is primary of.", holds.rooms)?;
        sink.gauge("node_members", "Members of the rooms that this node is primary of.", holds.members)?;
        sink.gauge("node_slot_bytes", "Memory of all slots here: their logs and what their rooms keep.", holds.bytes)?;
        sink.gauge(
            "node_uncommitted_entries",
            "Entries of slots led here that an in-sync replica has yet to acknowledge.",
            holds.uncommitted,
        )?;
        sink.gauge(
            "node_replication_lag_entries",
            "Entries that an in-sync replica has yet to acknowledge, of the slot led here that has most of them.",
            holds.lag,
        )?;

        sink.counter("node_publishes", "Publishes acknowledged to routers.", site.counters().publishes())?;
        let refusals: Vec<_> = REASONS.iter().zip(&REFUSALS).map(|((_, reason), n)| (*reason, n.get())).collect();
        sink.counters(
            "node_publish_refusals",
            "Publishes not taken. not_primary and stale are sent on to the next primary and harmless.",
            "reason",
            &refusals,
        )?;
        sink.counter("node_published_bytes", "Payload of publishes that came in.", PUBLISHED_BYTES.get())?;
        sink.counter("node_deliveries", "Events sent to routers, once for each router.", site.counters().deliveries())?;
        sink.counter("node_delivered_bytes", "Payload of publications sent to routers.", DELIVERED_BYTES.get())?;
        sink.latencies(
            "node_commit_seconds",
            "From the arrival of a publish at its primary to its commit on every in-sync copy, of one publish in each slot at a time.",
            &COMMITS,
        )?;

        let routers = shell.as_ref().map_or(0, |s| s.links.len() as u64);
        sink.gauge("node_router_links", "Routers with an open link.", routers)?;
        let peers = shell.as_ref().map_or(0, |s| s.callers.len() as u64);
        sink.gauge("node_peer_streams", "Nodes that replicate to this one.", peers)?;
        let mails = shell.as_ref().map_or(0, |s| s.workers.waiting() as u64);
        sink.gauge("node_mailbox_batches", "Batches of messages that wait for the workers.", mails)?;
        sink.gauge("node_outbox_bytes", "What waits to be sent to routers and other nodes.", OUTBOX_BYTES.get())?;
        sink.seconds(
            "node_worker_age_seconds",
            "Time since the slowest worker came round; over a few seconds the node counts as hung.",
            site.worker_age().as_secs_f64(),
        )?;
        site.cluster.tell(sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slots_hold_is_summed_by_role() {
        let slot = |role: Role, last| v1::SlotStatus {
            role: role.into(),
            rooms: 2,
            members: 3,
            bytes: 10,
            last,
            commit: 5,
            ..Default::default()
        };
        let mut all = Holds::of(&[slot(Role::Primary, 9), slot(Role::Primary, 5), slot(Role::Replica, 50)]);
        all.add(&Holds::of(&[slot(Role::Promoting, 6), slot(Role::Fenced, 5)]));
        let expected = Holds { slots: [2, 1, 1, 0, 1], rooms: 6, members: 9, bytes: 50, uncommitted: 5, lag: 4 };
        assert_eq!(all, expected);
    }

    #[test]
    fn every_reason_is_told_apart() {
        for number in 0..=8 {
            let reason = Reason::try_from(number).unwrap();
            assert!(REASONS.iter().any(|(r, _)| *r == reason), "{reason:?}");
        }
        assert!(Reason::try_from(9).is_err(), "a new reason wants a name");
    }
}
