//! How far one other seat is, as its primary knows it. Belongs to (seat, term) and to nothing else.

use std::time::Duration;

use roomring_control::clock::Time;
use roomring_proto::{Lsn, Seat, Term, v1};

use super::replica::Replica;
use super::{Ctx, Output, Rule};
use crate::entry::Entry;

/// Size of one append or snapshot part, in bytes: small beside other slots' traffic on the same stream.
const PART_BYTES: usize = 256 << 10;

/// Entries sent ahead of their acknowledgement: bounds what a slow seat makes its stream hold.
const WINDOW_ENTRIES: u64 = 4096;

/// After a refusal that only a newer placement at the other side mends.
const NOT_YET_RETRY: Duration = Duration::from_millis(20);

/// After a refusal that should not recur.
const REFUSED_RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    /// No stream to its process.
    Down,
    /// Refused; a probe goes out at this time.
    Waiting(Time),
    /// A probe is out.
    Probing,
    /// Snapshot parts go out one by one.
    Snapshot { lsn: Lsn, lsn_term: Term, parts: Vec<v1::SlotState>, next: usize },
    /// Entries go out as they come. `guess`: the seat was not asked what it holds, and may say that it is something else.
    Streaming { next: Lsn, first: bool, commit_sent: Lsn, guess: bool },
}

/// How far one other seat is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    stage: Stage,
    /// Everything up to here is held by the seat, acknowledged in this term.
    matched: Option<Lsn>,
    /// Since when it owes an answer: since there is something to answer, or since its last answer that was progress.
    silent: Option<Time>,
}

impl Progress {
    /// Of a seat of which nothing is known in this term.
    pub(super) fn unknown() -> Self {
        Self { stage: Stage::Down, matched: None, silent: None }
    }

    /// Everything up to here is held, acknowledged in this term; `None` before the first acknowledgement.
    pub(super) fn matched(&self) -> Option<Lsn> {
        self.matched
    }

    /// Whether the seat follows the log live.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.stage, Stage::Streaming { .. })
    }

    /// When [`Self::on_tick`] is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.stage {
            Stage::Waiting(at) => Some(at),
            _ => None,
        }
    }

    /// Notes whether the seat owes an answer about a log that ends at `last`.
    pub(super) fn watch(&mut self, last: Lsn, now: Time) {
        if self.is_streaming() && self.matched >= Some(last) {
            self.silent = None;
        } else {
            self.silent.get_or_insert(now);
        }
    }

    /// Since when the seat owes an answer; `None` if it does not.
    pub(super) fn silent(&self) -> Option<Time> {
        self.silent
    }

    /// Counts its silence from `since` on.
    pub(super) fn silent_since(&mut self, since: Time) {
        self.silent = Some(since);
    }

    /// Whether the seat has not been told the commit point yet.
    pub(super) fn lacks_commit(&self, commit: Lsn) -> bool {
        matches!(self.stage, Stage::Streaming { commit_sent, .. } if commit_sent < commit)
    }

    /// Makes its deadline, if it has one, `due`.
    pub(super) fn blur(&mut self, due: Time) {
        if let Stage::Waiting(at) = &mut self.stage {
            *at = due;
        }
        self.silent = None;
    }

    /// A stream to the seat's process is there. A seat that is in sync nearly always holds this log, and maybe a tail that it is
    /// to drop: it is sent the log's end at once, which saves a promotion one of two round trips, and asked only if that
    /// does not fit.
    pub(super) fn on_up(&mut self, seat: Seat, term: Term, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if ctx.record.in_sync.contains(&seat) {
            self.stream_after(replica.log.last(), true);
            self.flush(seat, term, replica, ctx, out);
        } else {
            self.probe(seat, term, replica, ctx, out);
        }
    }

    fn probe(&mut self, seat: Seat, term: Term, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        self.stage = Stage::Probing;
        out.push(message(seat, term, replica, ctx, v1::replication::Kind::Probe(v1::Probe {})));
    }

    fn stream_after(&mut self, lsn: Lsn, guess: bool) {
        self.stage = Stage::Streaming { next: lsn.next(), first: true, commit_sent: Lsn(0), guess };
    }

    pub(super) fn on_down(&mut self) {
        self.stage = Stage::Down;
    }

    pub(super) fn on_tick(&mut self, seat: Seat, term: Term, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if matches!(self.stage, Stage::Waiting(at) if at <= ctx.env.now) {
            self.probe(seat, term, replica, ctx, out);
        }
    }

    pub(super) fn on_refused(
        &mut self,
        reason: v1::refused::Reason,
        seat: Seat,
        term: Term,
        replica: &Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) {
        use v1::refused::Reason;
        let wait = match (&self.stage, reason) {
            (Stage::Down, _) => return,
            // Of something sent before the probe.
            (Stage::Probing, Reason::ProbeMe) => return,
            (Stage::Streaming { guess: true, .. }, Reason::ProbeMe) => {
                return self.probe(seat, term, replica, ctx, out);
            }
            (_, Reason::NotYet | Reason::ProbeMe) => NOT_YET_RETRY,
            (_, Reason::NoSeat | Reason::HigherTerm | Reason::Unspecified) => REFUSED_RETRY,
        };
        self.stage = Stage::Waiting(ctx.env.now + wait);
    }

    pub(super) fn on_probe_reply(
        &mut self,
        reply: &v1::ProbeReply,
        seat: Seat,
        term: Term,
        replica: &Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) {
        if !matches!(self.stage, Stage::Probing) {
            return;
        }
        self.silent = None;
        let common = if reply.filled { replica.log.common_with(&reply.runs, Lsn(reply.last)) } else { None };
        match common {
            // What the seat has applied is never dropped: it is committed, so this log has it.
            Some(common) if common >= Lsn(reply.commit) => {
                self.stream_after(common, false);
                self.flush(seat, term, replica, ctx, out);
            }
            _ => self.start_snapshot(seat, term, replica, ctx, out),
        }
    }

    fn start_snapshot(&mut self, seat: Seat, term: Term, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let lsn = replica.commit;
        // The log is trimmed up to the commit point at most, so the term is known.
        let lsn_term = replica.log.term_at(lsn).unwrap_or_default();
        let mut parts = replica.rooms.snapshot(PART_BYTES);
        if !ctx.config.rules.keep(Rule::SnapshotCarriesNumbers) {
            parts.iter_mut().for_each(|part| part.routers.clear());
        }
        if parts.is_empty() {
            parts.push(v1::SlotState::default());
        }
        self.stage = Stage::Snapshot { lsn, lsn_term, parts, next: 0 };
        self.send_part(seat, term, replica, ctx, out);
    }

    fn send_part(&mut self, seat: Seat, term: Term, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let Stage::Snapshot { lsn, lsn_term, parts, next } = &mut self.stage else { return };
        let part = v1::Snapshot {
            lsn: lsn.0,
            lsn_term: lsn_term.0,
            part: u32::try_from(*next).unwrap_or(u32::MAX),
            last: *next + 1 == parts.len(),
            state: Some(std::mem::take(&mut parts[*next])),
        };
        out.push(message(seat, term, replica, ctx, v1::replication::Kind::Snapshot(part)));
    }

    pub(super) fn on_snapshot_ack(
        &mut self,
        ack: &v1::SnapshotAck,
        seat: Seat,
        term: Term,
        replica: &Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) {
        let Stage::Snapshot { lsn, parts, next, .. } = &mut self.stage else { return };
        if lsn.0 != ack.lsn || *next != ack.part as usize {
            return;
        }
        *next += 1;
        self.silent = None;
        if *next < parts.len() {
            self.send_part(seat, term, replica, ctx, out);
        } else {
            let lsn = *lsn;
            self.stream_after(lsn, false);
            self.flush(seat, term, replica, ctx, out);
        }
    }

    pub(super) fn on_append_ack(&mut self, lsn: Lsn) {
        if self.matched < Some(lsn) {
            self.matched = Some(lsn);
            self.silent = None;
        }
    }

    /// Sends what the seat lacks, as far as the window allows.
    pub(super) fn flush(&mut self, seat: Seat, term: Term, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let Stage::Streaming { next, first, commit_sent, .. } = &mut self.stage else { return };
        if *next <= replica.log.base() {
            self.start_snapshot(seat, term, replica, ctx, out);
            return;
        }
        // The first append tells whether the seat follows at all; more goes out once it is acknowledged.
        let window_end = self.matched.map_or(0, |m| m.0 + WINDOW_ENTRIES);
        while *first || (*next <= replica.log.last() && next.0 <= window_end) {
            let prev = Lsn(next.0 - 1);
            let mut bytes = 0;
            let entries: Vec<v1::Entry> = replica
                .log
                .after(prev)
                .map(|(e, _)| e)
                .take(usize::try_from(WINDOW_ENTRIES).unwrap_or(usize::MAX))
                .take_while(|e| {
                    let fits = bytes == 0 || bytes + e.cost() <= PART_BYTES;
                    bytes += e.cost();
                    fits
                })
                .map(|e: &Entry| e.into())
                .collect();
            *next = Lsn(prev.0 + entries.len() as u64 + 1);
            let append = v1::Append {
                prev_lsn: prev.0,
                prev_term: replica.log.term_at(prev).unwrap_or_default().0,
                truncate: *first,
                entries,
                commit: replica.commit.0,
            };
            *first = false;
            *commit_sent = replica.commit;
            out.push(message(seat, term, replica, ctx, v1::replication::Kind::Append(append)));
        }
    }

    /// Tells the commit point by itself, when no entry did.
    pub(super) fn send_commit(
        &mut self,
        seat: Seat,
        term: Term,
        replica: &Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) {
        let Stage::Streaming { next, first: false, commit_sent, .. } = &mut self.stage else { return };
        if *commit_sent >= replica.commit {
            return;
        }
        let prev = Lsn(next.0 - 1);
        let Some(prev_term) = replica.log.term_at(prev) else { return };
        *commit_sent = replica.commit;
        let append = v1::Append {
            prev_lsn: prev.0,
            prev_term: prev_term.0,
            truncate: false,
            entries: Vec::new(),
            commit: replica.commit.0,
        };
        out.push(message(seat, term, replica, ctx, v1::replication::Kind::Append(append)));
    }
}

fn message(to: Seat, term: Term, replica: &Replica, ctx: &Ctx<'_>, kind: v1::replication::Kind) -> Output {
    Output::Peer {
        to: to.incarnation,
        message: v1::Replication {
            slot: ctx.config.slot.0,
            generation: replica.generation.0,
            term: term.0,
            from: Some(replica.seat.into()),
            to: Some(to.into()),
            placement: Some(ctx.placement().into()),
            kind: Some(kind),
        },
    }
}
