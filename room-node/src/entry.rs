//! One entry of a slot's log: the only way in which a room changes.

use bytes::Bytes;
use roomring_proto::{Generation, Incarnation, Lsn, Malformed, RoomId, Seq, Term, v1};
use v1::publication::Mark;

use crate::room::Keeps;

/// An entry of a slot's log. `(generation, term, lsn)` names it: equal names, equal entries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The slot's generation.
    pub generation: Generation,
    /// Term of the primary that made it.
    pub term: Term,
    /// Place in the log.
    pub lsn: Lsn,
    /// Unix time at the primary, ms; never falls within a slot.
    pub time_ms: u64,
    /// What it does.
    pub body: Body,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// Makes a room, whose epoch is named after this entry. Nothing else in a room precedes it.
    Create {
        /// The room.
        room: RoomId,
        /// What it keeps.
        keeps: Keeps,
    },
    /// A publication.
    Publish {
        /// The room.
        room: RoomId,
        /// What was published.
        publish: Publish,
    },
    /// A client joined. A client that is there already is replaced without an event.
    Join {
        /// The room.
        room: RoomId,
        /// Who.
        info: Client,
        /// The router process that holds its socket.
        router: Incarnation,
    },
    /// A client left.
    Leave {
        /// The room.
        room: RoomId,
        /// Id of its connection.
        client: String,
    },
    /// What is too old as of `time_ms` goes, in every room of the slot: history, remembered ids.
    Expire,
    /// The room ends: nobody is in it and its history is gone.
    Remove {
        /// The room.
        room: RoomId,
    },
}

/// A publication, as logged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Publish {
    /// Its number in the room.
    pub seq: Seq,
    /// The payload.
    pub data: Bytes,
    /// Who, as its router told it; empty for a server.
    pub info: Bytes,
    /// Id given by the publisher, empty if none.
    pub id: String,
    /// The router process that sent it.
    pub router: Incarnation,
    /// Its number among what that process published to this slot, from 1.
    pub number: u64,
    /// Every number up to this one is answered and never sent again.
    pub settled_below: u64,
    /// What it takes back; its payload stands there instead.
    pub retracts: Option<Retracts>,
}

/// What a publication takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retracts {
    /// One before it.
    One(Seq),
    /// All before it.
    All,
}

/// A connected client, as shown to others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Client {
    /// The user's name; empty for anonymous.
    pub user: String,
    /// Id of the connection.
    pub client: String,
    /// JSON, or empty.
    pub conn_info: Bytes,
    /// JSON, or empty.
    pub chan_info: Bytes,
}

impl Entry {
    /// The room it is about; `None` if about the whole slot.
    pub fn room(&self) -> Option<&RoomId> {
        match &self.body {
            Body::Create { room, .. }
            | Body::Publish { room, .. }
            | Body::Join { room, .. }
            | Body::Leave { room, .. }
            | Body::Remove { room } => Some(room),
            Body::Expire => None,
        }
    }

    /// Bytes of memory it is counted with: payloads and names plus a flat overhead.
    pub fn cost(&self) -> usize {
        const OVERHEAD: usize = 128;
        OVERHEAD
            + match &self.body {
                Body::Publish { publish, .. } => publish.data.len() + publish.id.len() + publish.info.len(),
                Body::Join { info, .. } => info.cost(),
                Body::Leave { client, .. } => client.len(),
                Body::Create { .. } | Body::Remove { .. } | Body::Expire => 0,
            }
    }
}

impl Publish {
    /// What its publication says about others.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.retracts.map(|retracts| match retracts {
            Retracts::One(seq) => Mark::Deletes(seq.0),
            Retracts::All => Mark::Clears(self.seq.0.saturating_sub(1)),
        })
    }
}

impl Retracts {
    /// From a message, in which 0 is all.
    pub(crate) fn read(seq: u64) -> Self {
        if seq == 0 { Self::All } else { Self::One(Seq(seq)) }
    }

    fn write(self) -> u64 {
        match self {
            Self::One(seq) => seq.0,
            Self::All => 0,
        }
    }
}

impl Client {
    /// Bytes of memory it is counted with.
    pub fn cost(&self) -> usize {
        self.user.len() + self.client.len() + self.conn_info.len() + self.chan_info.len()
    }
}

impl From<v1::ClientInfo> for Client {
    fn from(c: v1::ClientInfo) -> Self {
        Self { user: c.user, client: c.client, conn_info: own(&c.conn_info), chan_info: own(&c.chan_info) }
    }
}

/// Copies in one block. What came in a message is a part of the buffer of its whole batch, and would keep all of that.
pub(crate) fn own_both(data: &Bytes, info: &Bytes) -> (Bytes, Bytes) {
    let both = Bytes::from([&data[..], &info[..]].concat());
    (both.slice(..data.len()), both.slice(data.len()..))
}

/// The same for one.
fn own(bytes: &Bytes) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(bytes) }
}

impl From<&Client> for v1::ClientInfo {
    fn from(c: &Client) -> Self {
        Self {
            user: c.user.clone(),
            client: c.client.clone(),
            conn_info: c.conn_info.clone(),
            chan_info: c.chan_info.clone(),
        }
    }
}

impl From<&Publish> for v1::PublishEntry {
    fn from(p: &Publish) -> Self {
        Self {
            seq: p.seq.0,
            data: p.data.clone(),
            info: p.info.clone(),
            id: p.id.clone(),
            router: p.router.0,
            number: p.number,
            settled_below: p.settled_below,
        }
    }
}

impl From<v1::PublishEntry> for Publish {
    fn from(p: v1::PublishEntry) -> Self {
        let (data, info) = own_both(&p.data, &p.info);
        Self {
            seq: Seq(p.seq),
            data,
            info,
            id: p.id,
            router: Incarnation(p.router),
            number: p.number,
            settled_below: p.settled_below,
            retracts: None,
        }
    }
}

impl From<&Entry> for v1::Entry {
    fn from(e: &Entry) -> Self {
        use v1::entry::Body as B;
        let body = match &e.body {
            Body::Create { keeps, .. } => B::Create(v1::CreateRoom { keeps: (*keeps).into() }),
            Body::Publish { publish, .. } => match publish.retracts {
                None => B::Publish(publish.into()),
                Some(retracts) => {
                    B::Retract(Box::new(v1::RetractEntry { publish: Some(publish.into()), seq: retracts.write() }))
                }
            },
            Body::Join { info, router, .. } => B::Join(v1::JoinEntry { info: Some(info.into()), router: router.0 }),
            Body::Leave { client, .. } => B::Leave(v1::LeaveEntry { client: client.clone() }),
            Body::Expire => B::Expire(v1::Expire {}),
            Body::Remove { .. } => B::Remove(v1::RemoveRoom {}),
        };
        Self {
            generation: e.generation.0,
            term: e.term.0,
            lsn: e.lsn.0,
            time_ms: e.time_ms,
            room: e.room().map_or_else(String::new, |r| r.as_str().to_owned()),
            body: Some(body),
        }
    }
}

impl Entry {
    /// An entry as it came, with the room's name as `held` has it: names of rooms that exist are not held again and again.
    ///
    /// # Errors
    /// If something is missing, or breaks its rules.
    pub fn read(e: v1::Entry, held: impl Fn(&str) -> Option<RoomId>) -> Result<Self, Malformed> {
        use v1::entry::Body as B;
        let missing = |what: &str| Malformed(format!("entry {} lacks {what}", e.lsn));
        let room = || held(&e.room).map_or_else(|| RoomId::new(&e.room), Ok);
        let body = match e.body.ok_or_else(|| missing("a body that this release knows"))? {
            B::Create(c) => Body::Create { room: room()?, keeps: c.keeps.into() },
            B::Publish(publish) => Body::Publish { room: room()?, publish: publish.into() },
            B::Retract(r) => {
                let publish = Publish::from(r.publish.ok_or_else(|| missing("its publication"))?);
                let retracts = Some(Retracts::read(r.seq));
                Body::Publish { room: room()?, publish: Publish { retracts, ..publish } }
            }
            B::Join(j) => Body::Join {
                room: room()?,
                info: j.info.ok_or_else(|| missing("its client"))?.into(),
                router: Incarnation(j.router),
            },
            B::Leave(l) => Body::Leave { room: room()?, client: l.client },
            B::Expire(_) => Body::Expire,
            B::Remove(_) => Body::Remove { room: room()? },
        };
        Ok(Self { generation: Generation(e.generation), term: Term(e.term), lsn: Lsn(e.lsn), time_ms: e.time_ms, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_nothing_of_the_batch_that_it_came_in() {
        let batch = Bytes::from(vec![b'1'; 1 << 20]);
        let part = || batch.slice(100..150);
        let publish = || v1::PublishEntry { data: part(), info: part(), ..Default::default() };
        let info = || v1::ClientInfo { conn_info: part(), chan_info: part(), ..Default::default() };
        let bodies: [&dyn Fn() -> v1::entry::Body; 2] = [&|| v1::entry::Body::Publish(publish()), &|| {
            v1::entry::Body::Join(v1::JoinEntry { info: Some(info()), router: 1 })
        }];
        for body in bodies {
            let entry = v1::Entry { room: "lobby".into(), body: Some(body()), ..Default::default() };
            assert!(!batch.is_unique());
            let read = Entry::read(entry, |_| None).unwrap();
            assert!(batch.is_unique(), "{read:?}");
        }
    }
}
