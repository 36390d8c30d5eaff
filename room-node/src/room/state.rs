//! One room: what an entry does to it.

use roomring_proto::{Epoch, Incarnation, Lsn, Seq, v1};
use v1::event::Kind;

use super::dedup::SeenIds;
use super::history::History;
use super::keeps::Keeps;
use super::presence::{Member, Members};
use crate::entry::{Client, Publish, Retracts};
use roomring_control::placement::RoomLimits;

/// What a room counts beside what is in it.
const OVERHEAD: usize = 300;

/// A room's committed state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Room {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) lsn: Lsn,
    pub(super) presence_lsn: Lsn,
    pub(super) history: History,
    pub(super) members: Members,
    pub(super) ids: SeenIds,
    /// The room is not over the list limit.
    pub(super) listed: bool,
}

/// What became of a publish entry.
pub(super) enum Taken {
    Appended(v1::Publication),
    /// It names the seq under which its id is remembered: it only says what became of its number.
    Duplicate,
    /// It does not continue the room.
    Left,
}

impl Room {
    pub(super) fn new(epoch: Epoch, keeps: Keeps) -> Self {
        Self {
            epoch,
            seq: Seq(0),
            lsn: epoch.created,
            presence_lsn: Lsn(0),
            history: History::new(keeps),
            members: Members::default(),
            ids: SeenIds::default(),
            listed: true,
        }
    }

    /// The identity of its history.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// lsn of the entry that made it.
    pub fn created(&self) -> Lsn {
        self.epoch.created
    }

    /// Top: number of its newest publication, 0 before the first.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// lsn of its newest event (publication, join or leave as members see them); of its creation before the first.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// lsn of its newest join or leave as members see them; 0 before the first. After it there were publications only.
    pub fn presence_lsn(&self) -> Lsn {
        self.presence_lsn
    }

    /// Kept publications: oldest first after `since`, or with `reverse` newest first before `since`. At most `limit`,
    /// `None` for all. A `since` older than what is kept gives the oldest kept; see [`Self::first_seq`].
    pub fn history(&self, since: Option<Seq>, limit: Option<usize>, reverse: bool) -> Vec<v1::Publication> {
        self.history.page(since, limit, reverse)
    }

    /// Number of the oldest kept publication; `None` if none is kept.
    pub fn first_seq(&self) -> Option<Seq> {
        self.history.first().map(|p| Seq(p.seq))
    }

    /// Whether the publication at `seq` is kept, and nothing that can be retracted: it is already, or says so of others.
    pub fn is_marked(&self, seq: Seq) -> bool {
        self.history.get(seq).is_some_and(|p| p.mark.is_some())
    }

    /// Members by connection id; none if there are more than the list limit.
    pub fn presence(&self) -> impl Iterator<Item = (&str, &Client)> {
        self.members.iter().filter(|_| self.listed).map(|m| (m.info.client.as_str(), &m.info))
    }

    /// Number of members: connections.
    pub fn num_clients(&self) -> usize {
        self.members.len()
    }

    /// Number of distinct users among the members; the empty name counts as one.
    pub fn num_users(&self) -> usize {
        self.members.users()
    }

    /// The member with this connection id, and the router process that holds its socket.
    pub fn member(&self, client: &str) -> Option<(&Client, Incarnation)> {
        self.members.get(client).map(|m| (&m.info, m.router))
    }

    /// Connection ids of the members that came through `router`.
    pub fn clients_of(&self, router: Incarnation) -> Vec<String> {
        self.members.iter().filter(|m| m.router == router).map(|m| m.info.client.clone()).collect()
    }

    /// Number of remembered publish ids.
    pub fn num_ids(&self) -> usize {
        self.ids.len()
    }

    /// Nobody is in it, and nothing is kept or remembered.
    pub(super) fn is_removable(&self) -> bool {
        self.members.len() == 0 && self.history.is_empty() && self.ids.len() == 0
    }

    pub(super) fn bytes(&self) -> usize {
        OVERHEAD + self.held_bytes()
    }

    /// Those of what is in it.
    pub(super) fn held_bytes(&self) -> usize {
        self.history.bytes() + self.members.bytes() + self.ids.bytes()
    }

    /// When something of it is too old next, in unix ms.
    pub(super) fn due(&self, limits: &RoomLimits) -> Option<u64> {
        [self.history.due(limits), self.ids.due(limits)].into_iter().flatten().min()
    }

    pub(super) fn publish(&mut self, lsn: Lsn, now: u64, publish: &Publish, limits: &RoomLimits) -> Taken {
        if !publish.id.is_empty() && self.ids.get(&publish.id) == Some(publish.seq) {
            return Taken::Duplicate;
        }
        if self.seq.0.checked_add(1) != Some(publish.seq.0) {
            return Taken::Left;
        }
        let publication = v1::Publication {
            seq: publish.seq.0,
            lsn: lsn.0,
            time_ms: now,
            data: publish.data.clone(),
            info: publish.info.clone(),
            id: publish.id.clone(),
            mark: publish.mark(),
        };
        self.seq = publish.seq;
        self.lsn = lsn;
        match publish.retracts {
            None => {}
            Some(Retracts::One(seq)) => self.history.retract(seq, &publish.data),
            Some(Retracts::All) => self.history.clear(),
        }
        self.history.push(publication.clone(), limits);
        if !publish.id.is_empty() {
            self.ids.insert(&publish.id, publish.seq, now);
        }
        Taken::Appended(publication)
    }

    /// The event, if members see one, and the router of the member that was replaced.
    pub(super) fn join(
        &mut self,
        lsn: Lsn,
        info: &Client,
        router: Incarnation,
        limits: &RoomLimits,
    ) -> (Option<Kind>, Option<Incarnation>) {
        let present = self.members.get(&info.client).map(|m| m.announced);
        let announced = present.unwrap_or(self.members.len() < limits.presence_list_limit);
        let before = self.members.insert(Member { info: info.clone(), router, announced });
        self.relist(limits);
        let event = (present.is_none() && announced).then(|| {
            (self.lsn, self.presence_lsn) = (lsn, lsn);
            Kind::Join(v1::PresenceEvent { lsn: lsn.0, info: Some(info.into()) })
        });
        (event, before.map(|m| m.router))
    }

    /// The event, if members see one, and the router of the member that left.
    pub(super) fn leave(&mut self, lsn: Lsn, client: &str, limits: &RoomLimits) -> (Option<Kind>, Option<Incarnation>) {
        let Some(member) = self.members.remove(client) else { return (None, None) };
        self.relist(limits);
        let event = member.announced.then(|| {
            (self.lsn, self.presence_lsn) = (lsn, lsn);
            Kind::Leave(v1::PresenceEvent { lsn: lsn.0, info: Some((&member.info).into()) })
        });
        (event, Some(member.router))
    }

    pub(super) fn expire(&mut self, now: u64, limits: &RoomLimits) {
        self.history.expire(now, limits);
        self.ids.expire(now, limits);
    }

    pub(super) fn relist(&mut self, limits: &RoomLimits) {
        self.listed = self.members.len() <= limits.presence_list_limit;
    }
}
