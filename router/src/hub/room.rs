//! One room at this router: its position, its members, and those who are on their way in. Pure.
//!
//! The slot hands in what the primary says; what the primary must be told goes into [`Effects`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_proto::close::ErrorCode;
use roomring_proto::{Epoch, Lsn, RoomId, Seq, v1};

use super::api::{Client, Command, Position, ToClient};
use super::entrance::{Entrance, Fetched, Newcomer};
use super::members::{Delivered, Members};
use super::publishes::info;
use super::rules::{Rule, Rules};

/// How long an empty room stays attached, and a dropped member counts as present: a client that comes right back causes
/// neither an attachment nor a leave and a join.
const LINGER: Duration = Duration::from_secs(1);

/// How long a client that was sent to another router still counts as present here: by then it is seen there, or gone.
const HANDED_OVER: Duration = Duration::from_secs(10);

/// Wait before a room that the primary could not attach properly is attached again.
const ATTACH_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// An attach of single rooms that is not answered by then is sent again.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What a room wants done.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Clients to be announced as present.
    pub(super) joined: Vec<v1::ClientInfo>,
    /// Ids of clients to be announced as gone.
    pub(super) left: Vec<String>,
    /// What clients asked for while something else of theirs was under way.
    pub(super) commands: VecDeque<Command>,
    /// Clients whose queues are to be flushed.
    pub(super) owed: Vec<Arc<Client>>,
    /// Pushes queued.
    pub(super) pushes: u64,
    /// Clients that turned out to be slow.
    pub(super) slow: u64,
    /// What was asked for recovering members is moot.
    pub(super) forget: Option<u64>,
}

/// Whether the primary delivers this room to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    /// Not yet: to be asked for, not before the time given.
    Wanted { not_before: Time },
    /// Asked for.
    Asked { attach_id: u64, since: Time },
    /// Yes.
    Attached,
}

/// What was delivered last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) position: Position,
    /// Last event.
    pub(super) lsn: Lsn,
    /// Last publication, as far as is known: nothing is missing up to here.
    whole: Lsn,
}

/// A room at this router.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Room {
    id: RoomId,
    standing: Standing,
    place: Option<Place>,
    /// A publication was seen to be missing.
    hole: bool,
    members: Members,
    entrance: Entrance,
    /// Members that were dropped a moment ago and are still announced as present.
    lingering: BTreeMap<String, (v1::ClientInfo, Time)>,
    empty_since: Option<Time>,
    rules: Rules,
}

impl Room {
    pub(super) fn new(id: RoomId, now: Time, rules: Rules) -> Self {
        Self {
            id,
            standing: Standing::Wanted { not_before: now },
            place: None,
            hole: false,
            members: Members::default(),
            entrance: Entrance::default(),
            lingering: BTreeMap::new(),
            empty_since: Some(now),
            rules,
        }
    }

    pub(super) fn id(&self) -> &RoomId {
        &self.id
    }

    /// What this router has of it: epoch, sequence, lsn.
    pub(super) fn place(&self) -> Option<(Epoch, Seq, Lsn)> {
        self.place.map(|p| (p.position.epoch, p.position.seq, p.lsn))
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    /// Asks for its attachment: what goes into the attach.
    pub(super) fn ask(&mut self, now: Time, attach_id: u64, keeps: Option<v1::RoomKeeps>) -> v1::RoomAttach {
        self.standing = Standing::Asked { attach_id, since: now };
        v1::RoomAttach {
            room: self.id.as_str().to_owned(),
            epoch: self.place.map(|p| p.position.epoch.into()),
            seq: self.place.map_or(0, |p| p.position.seq.0),
            // A join may have been delivered after what is missing: all since the last publication comes again.
            lsn: self.place.map_or(0, |p| if self.hole { p.whole.0 } else { p.lsn.0 }),
            members: self.present().collect(),
            keeps,
        }
    }

    fn present(&self) -> impl Iterator<Item = v1::ClientInfo> + '_ {
        self.members.clients().map(|c| info(c)).chain(self.lingering.values().map(|(info, _)| info.clone()))
    }

    /// The slot's attachment is gone, or this room's no longer whole.
    pub(super) fn want(&mut self, not_before: Time) {
        self.standing = Standing::Wanted { not_before };
    }

    /// What its primary said cannot be relied on any more: an answer under way lets nobody in either.
    pub(super) fn doubt(&mut self, now: Time, fx: &mut Effects) {
        self.want(now);
        fx.forget = self.entrance.forget_fetch();
    }

    /// A client wants in.
    pub(super) fn subscribe(&mut self, now: Time, newcomer: Newcomer, fx: &mut Effects) {
        if self.members.contains(&newcomer.client.id) {
            return newcomer.refuse(&self.id, ErrorCode::ALREADY_SUBSCRIBED);
        }
        let client = newcomer.client.clone();
        self.entrance.enter(&self.id, newcomer);
        self.empty_since = None;
        self.settle(now, Some(&client.id), fx);
    }

    /// A client wants out. It is answered now, unless its subscribe is not yet: then after that.
    pub(super) fn unsubscribe(&mut self, now: Time, request: Option<u32>, client: &Arc<Client>, fx: &mut Effects) {
        if self.entrance.unsubscribe(&self.id, request, client) {
            return;
        }
        let lingered = self.lingering.remove(&client.id).is_some();
        if self.members.remove(&client.id) || lingered {
            fx.left.push(client.id.clone());
            self.note_empty(now);
        }
        if let Some(request) = request {
            client.queue.push(ToClient::Unsubscribed { request, room: self.id.clone() });
        }
    }

    /// A client goes to another router. It stays announced for a while: a member that leaves only to come in elsewhere is never
    /// seen to be away. If this router ends first, its primary waits as long for members of a router that vanished.
    pub(super) fn hand_over(&mut self, now: Time, client: &Arc<Client>) {
        self.entrance.unsubscribe(&self.id, None, client);
        self.linger(now + HANDED_OVER, client);
        self.note_empty(now);
    }

    /// A member gets nothing more, and stays announced until then.
    fn linger(&mut self, until: Time, client: &Arc<Client>) {
        let lingers = self.lingering.contains_key(&client.id);
        if self.members.remove(&client.id) || lingers {
            self.lingering.insert(client.id.clone(), (info(client), until));
        }
    }

    /// The primary attached it.
    pub(super) fn attached(&mut self, now: Time, answer: v1::RoomAttached, fx: &mut Effects) {
        let Some(epoch) = answer.epoch.map(Epoch::from) else { return self.want(now + ATTACH_AGAIN_AFTER) };
        let lsn = Lsn(answer.lsn);
        let start = Place { position: Position { epoch, seq: Seq(answer.seq) }, lsn, whole: lsn };
        self.hole = false;
        let before = self.place;
        match before {
            None => self.place = Some(start),
            Some(place) if self.rules.keep(Rule::NoOlderEpoch) && older(epoch, place.position.epoch) => {
                return self.want(now + ATTACH_AGAIN_AFTER);
            }
            Some(place) if epoch != place.position.epoch => {
                let dropped = self.members.drop_all(&self.id, place.position.epoch);
                self.restart(now, start, dropped, fx);
            }
            Some(place) if answer.gap => {
                // Publications, or joins and leaves alone.
                let missed = start.lsn > place.lsn;
                let seq = start.position.seq;
                let dropped = match missed {
                    true => self.members.drop_for_gap(&self.id, epoch, seq),
                    false => self.members.drop_behind(&self.id, epoch, seq),
                };
                self.restart(now, start, dropped, fx);
            }
            Some(place) if start.position.seq > place.position.seq => {
                let dropped = self.members.drop_behind(&self.id, epoch, start.position.seq);
                self.restart(now, start, dropped, fx);
            }
            Some(_) => {}
        }
        self.standing = Standing::Attached;
        let last = answer.replay.iter().filter_map(publication_seq).max().unwrap_or(start.position.seq);
        self.events(now, epoch, &answer.replay, fx);
        let behind = |p: Place| p.position.epoch == epoch && last.max(start.position.seq) < p.position.seq;
        if self.standing != Standing::Attached || (before.is_some_and(behind) && !answer.gap) {
            // A replay with a hole in it, or a primary that does not have what we delivered: it must not go on from here.
            self.want(now + ATTACH_AGAIN_AFTER);
        }
        self.settle(now, None, fx);
    }

    fn restart(&mut self, now: Time, start: Place, dropped: Vec<Arc<Client>>, fx: &mut Effects) {
        self.place = Some(start);
        for client in dropped {
            self.lingering.insert(client.id.clone(), (info(&client), now + LINGER));
        }
        self.note_empty(now);
        fx.forget = self.entrance.forget_fetch();
    }

    /// The primary attached the slot, but not this room.
    pub(super) fn refused(&mut self, now: Time, refusal: &v1::Refusal, fx: &mut Effects) {
        use v1::refusal::Reason;
        let error = match refusal.reason() {
            Reason::Limit => ErrorCode::LIMIT_EXCEEDED,
            Reason::BadRequest => ErrorCode::BAD_REQUEST,
            Reason::NotPrimary
            | Reason::Stale
            | Reason::Busy
            | Reason::OtherGeneration
            | Reason::UnknownEpoch
            | Reason::Nothing
            | Reason::Unspecified => return self.want(now + ATTACH_AGAIN_AFTER),
        };
        // Members find out why when they subscribe again.
        fx.left.extend(self.drop_all().iter().map(|client| client.id.clone()));
        self.entrance.refuse_all(&self.id, error, fx);
        self.note_empty(now);
        self.want(now + LINGER);
    }

    /// What the primary delivers, in order. Not listened to unless attached: what is missed is replayed then.
    pub(super) fn deliver(&mut self, now: Time, epoch: Option<Epoch>, events: &[v1::Event], fx: &mut Effects) {
        let Some(place) = self.place.filter(|_| self.standing == Standing::Attached) else { return };
        let epoch = if self.rules.keep(Rule::NoOlderEpoch) { epoch } else { Some(place.position.epoch) };
        match epoch {
            Some(epoch) if epoch == place.position.epoch => self.events(now, epoch, events, fx),
            Some(epoch) if older(epoch, place.position.epoch) => {}
            // A new history, or none that can be told: attaching says which, and who lost what.
            _ => self.want(now),
        }
    }

    fn events(&mut self, now: Time, epoch: Epoch, events: &[v1::Event], fx: &mut Effects) {
        use v1::event::Kind;
        let rules = self.rules;
        for event in events {
            let Some(place) = &mut self.place else { return };
            let delivered = match &event.kind {
                Some(Kind::Publication(p)) if p.seq <= place.position.seq.0 && rules.keep(Rule::NothingTwice) => {
                    continue;
                }
                Some(Kind::Publication(p)) if p.seq <= place.position.seq.0 + 1 || !rules.keep(Rule::NoHole) => {
                    place.position.seq = Seq(p.seq);
                    place.lsn = place.lsn.max(Lsn(p.lsn));
                    place.whole = place.whole.max(Lsn(p.lsn));
                    self.entrance.remember(p);
                    self.members.publication(&self.id, epoch, p, &mut fx.owed)
                }
                // One is missing in between.
                Some(Kind::Publication(_)) => {
                    self.hole = true;
                    return self.want(now);
                }
                Some(Kind::Join(e) | Kind::Leave(e)) if e.lsn <= place.lsn.0 => continue,
                Some(kind @ (Kind::Join(e) | Kind::Leave(e))) => {
                    place.lsn = Lsn(e.lsn);
                    let Some(info) = &e.info else { continue };
                    self.members.presence(&self.id, epoch, info, matches!(kind, Kind::Leave(_)), &mut fx.owed)
                }
                // An event of a later release: members that know it will be told by a router that does.
                None => continue,
            };
            self.count(now, delivered, fx);
        }
    }

    fn count(&mut self, now: Time, delivered: Delivered, fx: &mut Effects) {
        fx.pushes += delivered.pushes;
        fx.slow += delivered.slow;
        for client in delivered.gone {
            // Whether it leaves or is handed over, its session says in a moment.
            self.linger(now + LINGER, &client);
            self.note_empty(now);
        }
    }

    /// Lets in whoever can be let in without anybody's answer, or just `only` if that is possible.
    pub(super) fn settle(&mut self, now: Time, only: Option<&str>, fx: &mut Effects) {
        let Some(place) = self.place.filter(|_| self.standing == Standing::Attached) else { return };
        let settled = self.entrance.settle(&self.id, place.position, only, fx);
        self.admit(now, settled.admitted, fx);
        if settled.attach_again {
            self.want(now);
        }
    }

    fn admit(&mut self, now: Time, admitted: Vec<(Newcomer, Seq)>, fx: &mut Effects) {
        for (newcomer, seq) in admitted {
            if self.lingering.remove(&newcomer.client.id).is_none() {
                fx.joined.push(info(&newcomer.client));
            }
            self.members.insert(newcomer.client.clone(), seq, newcomer.join_leave);
            fx.commands.extend(newcomer.then);
        }
        self.note_empty(now);
    }

    /// What is to be fetched for recovering members, if anything is and nothing is under way.
    pub(super) fn wants_fetch(&self) -> Option<(Seq, Epoch)> {
        let place = self.place.filter(|_| self.standing == Standing::Attached)?;
        self.entrance.wants_fetch().map(|seq| (seq, place.position.epoch))
    }

    /// It was asked for.
    pub(super) fn fetching(&mut self, request: u64, since: Seq) {
        self.entrance.fetching(request, since);
    }

    /// It came; `None` if it could not be told: the primary has another epoch, or gave no answer.
    pub(super) fn fetched(&mut self, now: Time, fetched: Option<Fetched>, fx: &mut Effects) {
        let Some(place) = self.place else { return };
        match fetched {
            Some(f) if f.top.epoch == place.position.epoch => {
                let settled = self.entrance.fetched(&self.id, place.position, f, fx);
                self.admit(now, settled.admitted, fx);
            }
            _ => {
                self.entrance.forget_fetch();
                self.want(now + ATTACH_AGAIN_AFTER);
            }
        }
        self.settle(now, None, fx);
    }

    /// Everybody's position is lost.
    fn drop_all(&mut self) -> Vec<Arc<Client>> {
        // There are no members before there is a place.
        self.place.map(|place| self.members.drop_all(&self.id, place.position.epoch)).unwrap_or_default()
    }

    fn note_empty(&mut self, now: Time) {
        let empty = self.members.is_empty() && self.entrance.is_empty() && self.lingering.is_empty();
        self.empty_since = empty.then(|| self.empty_since.unwrap_or(now));
    }

    /// Lets time pass. True if the room is over: nobody is in it, or was for a while.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) -> bool {
        self.entrance.expire(&self.id, now, fx);
        self.lingering.retain(|id, (_, until)| {
            let stays = *until > now;
            if !stays {
                fx.left.push(id.clone());
            }
            stays
        });
        if let Standing::Asked { since, .. } = self.standing
            && now >= since + ANSWER_WITHIN
        {
            self.want(now);
        }
        self.note_empty(now);
        self.empty_since.is_some_and(|since| now >= since + LINGER)
    }

    /// When [`Self::tick`] has something to do, or the room may be asked for again.
    pub(super) fn next_deadline(&self, now: Time) -> Option<Time> {
        let standing = match self.standing {
            Standing::Wanted { not_before } => (not_before > now).then_some(not_before),
            Standing::Asked { since, .. } => Some(since + ANSWER_WITHIN),
            Standing::Attached => None,
        };
        let empty = self.empty_since.map(|since| since + LINGER);
        let lingering = self.lingering.values().map(|(_, until)| *until).min();
        [standing, empty, lingering, self.entrance.next_deadline()].into_iter().flatten().min()
    }

    /// Ends it for everybody: the cluster's placement began anew.
    pub(super) fn reset(mut self, fx: &mut Effects) {
        self.drop_all();
        self.entrance.refuse_all(&self.id, ErrorCode::INTERNAL, fx);
    }
}

/// Epochs of one placement's history are ordered; those of different ones are just different.
fn older(epoch: Epoch, than: Epoch) -> bool {
    epoch.uid == than.uid && epoch < than
}

fn publication_seq(event: &v1::Event) -> Option<Seq> {
    match &event.kind {
        Some(v1::event::Kind::Publication(p)) => Some(Seq(p.seq)),
        _ => None,
    }
}
