//! Those who are on their way into a room: waiting for it to be attached, or for what they missed. Pure.
//!
//! What is missed is fetched once for everybody who waits: live publications are kept from then on, and both are merged by
//! their numbers, so that nothing is lost or doubled in between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use roomring_control::clock::Time;
use roomring_proto::close::ErrorCode;
use roomring_proto::{Epoch, RoomId, Seq, v1};

use super::api::{Client, ClientPosition, Command, Position, Subscribed, ToClient};
use super::members::ById;
use super::room::Effects;

/// Most commands of one client for one room that wait until its subscribe is answered. SDKs send a few.
const THEN: usize = 16;

/// Most live publications kept for one fetch, and most bytes: if more come, it is asked again.
const RECENT: usize = 1_024;
const RECENT_BYTES: usize = 4 << 20;

/// A client on its way in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Newcomer {
    pub(super) request: u32,
    pub(super) client: Arc<Client>,
    pub(super) join_leave: bool,
    pub(super) recover: Option<ClientPosition>,
    pub(super) reject_unrecovered: bool,
    /// When it is told that it did not work.
    pub(super) due: Time,
    /// The primary was asked once whether it knows the later epoch that this client names.
    pub(super) asked_again: bool,
    /// What the client asked since, in order: unsubscribe, subscribe, ...
    pub(super) then: VecDeque<Command>,
}

/// What a room's primary had.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) top: Position,
    /// Ascending.
    pub(super) publications: Vec<v1::Publication>,
}

/// What became of those who waited.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// They were answered and are members now, having everything up to the seq.
    pub(super) admitted: Vec<(Newcomer, Seq)>,
    /// Somebody knows a later epoch than the room is attached in.
    pub(super) attach_again: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Fetch {
    request: u64,
    since: Seq,
}

enum Verdict {
    /// Nothing is missed, or nothing was asked for.
    Admit {
        recovered: bool,
    },
    /// What it missed must be fetched first.
    Fetch(Seq),
    AttachAgain,
}

/// Those who are on their way in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Entrance {
    waiting: BTreeMap<ById, Newcomer>,
    /// Lowest position that somebody who waits recovers from.
    wanted: Option<Seq>,
    fetch: Option<Fetch>,
    /// What was delivered since the fetch began.
    recent: VecDeque<v1::Publication>,
    recent_bytes: usize,
}

impl Newcomer {
    /// Answers with an error.
    pub(super) fn refuse(&self, room: &RoomId, error: ErrorCode) {
        let (request, room) = (self.request, room.clone());
        self.client.queue.push(ToClient::Subscribed { request, room, result: Err(error) });
    }

    fn judge(&self, top: Position) -> Verdict {
        let Some(recover) = &self.recover else { return Verdict::Admit { recovered: false } };
        if !recover.epoch.is_empty() {
            match recover.epoch.parse::<Epoch>() {
                Ok(epoch) if epoch == top.epoch => {}
                // It comes from a router that has seen more. Or it made that up: the primary is asked once.
                Ok(epoch) if epoch.uid == top.epoch.uid && epoch > top.epoch && !self.asked_again => {
                    return Verdict::AttachAgain;
                }
                Ok(_) | Err(_) => return Verdict::Admit { recovered: false },
            }
        }
        if recover.seq == top.seq { Verdict::Admit { recovered: true } } else { Verdict::Fetch(recover.seq) }
    }

    /// Answers; true if the client is a member now. `missed` counts only if it recovered.
    fn answer(&self, room: &RoomId, top: Position, recovered: bool, missed: Vec<v1::Publication>) -> bool {
        let was_recovering = self.recover.is_some();
        if was_recovering && !recovered && self.reject_unrecovered {
            self.refuse(room, ErrorCode::UNRECOVERABLE_POSITION);
            return false;
        }
        let position = match &self.recover {
            Some(asked) if recovered => Position { epoch: top.epoch, seq: asked.seq },
            _ => top,
        };
        let result = Ok(Subscribed { position, was_recovering, recovered, publications: missed });
        self.client.queue.push(ToClient::Subscribed { request: self.request, room: room.clone(), result });
        true
    }
}

impl Entrance {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a newcomer. One that is on its way in already is refused, unless it left in between: then it comes in after that.
    pub(super) fn enter(&mut self, room: &RoomId, newcomer: Newcomer) {
        let Some(earlier) = self.waiting.get_mut(newcomer.client.id.as_str()) else {
            self.waiting.insert(ById(newcomer.client.clone()), newcomer);
            return;
        };
        if !matches!(earlier.then.back(), Some(Command::Unsubscribe { .. })) {
            newcomer.refuse(room, ErrorCode::ALREADY_SUBSCRIBED);
        } else if earlier.then.len() >= THEN {
            newcomer.refuse(room, ErrorCode::TOO_MANY_REQUESTS);
        } else {
            earlier.then.push_back(Command::Subscribe {
                request: newcomer.request,
                room: room.clone(),
                client: newcomer.client,
                join_leave: newcomer.join_leave,
                recover: newcomer.recover,
                reject_unrecovered: newcomer.reject_unrecovered,
            });
        }
    }

    /// A client wants out again. True if that is taken care of; false if it is not waiting here (any more).
    pub(super) fn unsubscribe(&mut self, room: &RoomId, request: Option<u32>, client: &Arc<Client>) -> bool {
        let Some(request) = request else {
            self.waiting.remove(client.id.as_str());
            return false;
        };
        let Some(newcomer) = self.waiting.get_mut(client.id.as_str()) else { return false };
        let room = room.clone();
        if matches!(newcomer.then.back(), Some(Command::Unsubscribe { .. })) {
            client.queue.push(ToClient::Unsubscribed { request, room });
        } else {
            let (request, client) = (Some(request), client.clone());
            newcomer.then.push_back(Command::Unsubscribe { request, room, client });
        }
        true
    }

    /// Answers everybody, or just `only`, who can be answered with the room at `top`.
    pub(super) fn settle(&mut self, room: &RoomId, top: Position, only: Option<&str>, fx: &mut Effects) -> Settled {
        let mut settled = Settled::default();
        if only.is_none() {
            self.wanted = None;
        }
        let mut wanted = self.wanted;
        let judge = |_: &ById, newcomer: &mut Newcomer| match newcomer.judge(top) {
            Verdict::Admit { recovered } => Some(recovered),
            Verdict::Fetch(seq) => {
                wanted = Some(wanted.map_or(seq, |w| w.min(seq)));
                None
            }
            Verdict::AttachAgain => {
                newcomer.asked_again = true;
                settled.attach_again = true;
                None
            }
        };
        let answered = self.take(only, judge);
        self.wanted = wanted;
        for (newcomer, recovered) in answered {
            if newcomer.answer(room, top, recovered, Vec::new()) {
                settled.admitted.push((newcomer, top.seq));
            } else {
                fx.commands.extend(newcomer.then);
            }
        }
        settled
    }

    /// Takes out those of whom `f` says something.
    fn take<T>(
        &mut self,
        only: Option<&str>,
        mut f: impl FnMut(&ById, &mut Newcomer) -> Option<T>,
    ) -> Vec<(Newcomer, T)> {
        match only {
            Some(id) => {
                let found =
                    self.waiting.remove_entry(id).map(|(key, mut newcomer)| (f(&key, &mut newcomer), key, newcomer));
                match found {
                    Some((Some(said), _, newcomer)) => vec![(newcomer, said)],
                    Some((None, key, newcomer)) => {
                        self.waiting.insert(key, newcomer);
                        Vec::new()
                    }
                    None => Vec::new(),
                }
            }
            None => {
                let mut taken = Vec::new();
                for (key, mut newcomer) in std::mem::take(&mut self.waiting) {
                    match f(&key, &mut newcomer) {
                        Some(said) => taken.push((newcomer, said)),
                        None => drop(self.waiting.insert(key, newcomer)),
                    }
                }
                taken
            }
        }
    }

    /// Where to fetch from, if somebody waits for that and no fetch is under way.
    pub(super) fn wants_fetch(&self) -> Option<Seq> {
        self.wanted.filter(|_| self.fetch.is_none())
    }

    /// A fetch is under way: publications are kept from now on.
    pub(super) fn fetching(&mut self, request: u64, since: Seq) {
        self.fetch = Some(Fetch { request, since });
    }

    /// Gives up the fetch; the request to be forgotten.
    pub(super) fn forget_fetch(&mut self) -> Option<u64> {
        self.recent.clear();
        self.recent_bytes = 0;
        self.fetch.take().map(|fetch| fetch.request)
    }

    /// A live publication.
    pub(super) fn remember(&mut self, publication: &v1::Publication) {
        if self.fetch.is_none() {
            return;
        }
        self.recent_bytes += publication.data.len();
        self.recent.push_back(publication.clone());
        while self.recent.len() > RECENT || self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= oldest.data.len();
        }
    }

    /// The fetch came, in the room's epoch, while the room is at `at`: answers those it is for.
    pub(super) fn fetched(&mut self, room: &RoomId, at: Position, fetched: Fetched, fx: &mut Effects) -> Settled {
        let mut settled = Settled::default();
        let Some(fetch) = self.fetch.take() else { return settled };
        let recent = std::mem::take(&mut self.recent);
        self.recent_bytes = 0;
        let top = fetched.top.seq;
        let mut list = fetched.publications;
        list.retain(|p| p.seq <= top.0);
        list.extend(recent.into_iter().filter(|p| p.seq > top.0));
        // Who is let in with these is not given what is gone since they were read.
        let words: Vec<_> = list.iter().filter(|p| p.mark.is_some()).cloned().collect();
        for by in words {
            list.iter_mut().filter(|p| by.retracts(p)).for_each(|p| p.blank(&by.data));
        }
        let end = Position { epoch: at.epoch, seq: top.max(at.seq) };
        // The list without holes that ends at the end: whoever has what comes before it recovers.
        let mut first = end.seq.0.saturating_add(1);
        for publication in list.iter().rev() {
            if publication.seq.saturating_add(1) != first {
                break;
            }
            first = publication.seq;
        }
        if at.seq > top && first > top.0.saturating_add(1) {
            // More came meanwhile than could be kept: it is asked again.
            return settled;
        }
        list.retain(|p| p.seq >= first);
        let answered = self.take(None, |_, newcomer| match newcomer.judge(at) {
            Verdict::Fetch(seq) if seq >= fetch.since => Some(seq),
            _ => None,
        });
        for (newcomer, seq) in answered {
            let recovered = seq <= end.seq && seq.0.saturating_add(1) >= first;
            let missed = if recovered { list.iter().filter(|p| p.seq > seq.0).cloned().collect() } else { Vec::new() };
            if newcomer.answer(room, end, recovered, missed) {
                settled.admitted.push((newcomer, end.seq));
            } else {
                fx.commands.extend(newcomer.then);
            }
        }
        settled
    }

    /// Answers those whose time is over.
    pub(super) fn expire(&mut self, room: &RoomId, now: Time, fx: &mut Effects) {
        for (newcomer, ()) in self.take(None, |_, newcomer| (newcomer.due <= now).then_some(())) {
            newcomer.refuse(room, ErrorCode::INTERNAL);
            fx.commands.extend(newcomer.then);
        }
    }

    /// Answers everybody with an error.
    pub(super) fn refuse_all(&mut self, room: &RoomId, error: ErrorCode, fx: &mut Effects) {
        for newcomer in std::mem::take(&mut self.waiting).into_values() {
            newcomer.refuse(room, error);
            fx.commands.extend(newcomer.then);
        }
        fx.forget = fx.forget.or(self.forget_fetch());
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.waiting.values().map(|newcomer| newcomer.due).min()
    }
}
