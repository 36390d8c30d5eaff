//! The placement as bytes, for etcd and for peers. What comes in is checked whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use roomring_proto::{Generation, Incarnation, Malformed, NodeId, PlacementRef, Seat, Term, Uid, Version, v1};

use super::{FORMAT, Member, Placement, Recents, RingParams, Settings, SlotRecord};

/// Why bytes are no placement that this build can follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer release: it is to be left alone.
    #[error("placement has format {0}, this release reads up to {FORMAT}")]
    TooNew(u32),
    /// Not a placement.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Placement {
    /// The placement as [`v1::Placement`].
    ///
    /// # Panics
    /// If a seat names a process that is not among `members`, which no [`super::Draft`] yields.
    pub fn encode(&self) -> Bytes {
        let index: BTreeMap<Incarnation, u32> = self.members.keys().copied().zip(0..).collect();
        let seat = |s: &Seat| v1::Seat {
            member: *index.get(&s.incarnation).expect("a seat's process is listed"),
            since: s.since.0,
        };
        let slot = |s: &SlotRecord| v1::Slot {
            term: s.term.0,
            primary: s
                .in_sync
                .iter()
                .zip(0..)
                .find_map(|(x, i)| (*x == s.primary).then_some(i))
                .expect("primary is in sync"),
            in_sync: s.in_sync.iter().map(seat).collect(),
            learners: s.learners.iter().map(seat).collect(),
            generation: s.generation.0,
        };
        let message = v1::Placement {
            uid: self.uid.0,
            format: self.format,
            version: self.version.0,
            settings: Some(self.settings.encode()),
            ring: Some(v1::RingParams { vnodes: self.ring.vnodes, bound_percent: self.ring.bound_percent }),
            members: self.members.iter().map(|(i, m)| encode_member(*i, m)).collect(),
            slots: self.slots.iter().map(slot).collect(),
            recent: self.recent.encode(),
            apart: self
                .apart
                .iter()
                .filter_map(|(by, other)| Some(v1::Apart { found_by: *index.get(by)?, other: *index.get(other)? }))
                .collect(),
        };
        message.encode_to_vec().into()
    }

    /// Which placement [`Placement::encode`] made `bytes` of, without reading the rest; `None` if they are no such bytes.
    pub fn reference_in(bytes: &[u8]) -> Option<PlacementRef> {
        let head = v1::PlacementHead::decode(bytes).ok()?;
        Some(PlacementRef { uid: Uid(head.uid), version: Version(head.version) })
    }

    /// Reads what [`Placement::encode`] made, in this or another process.
    ///
    /// # Errors
    /// If it was written in a newer format, or is not a placement: nothing of it is taken over then.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message = v1::Placement::decode(bytes).map_err(|e| malformed(format!("placement: {e}")))?;
        if message.format > FORMAT {
            return Err(DecodeError::TooNew(message.format));
        }
        let settings = message.settings.ok_or_else(|| malformed("placement without settings"))?;
        let ring = message.ring.ok_or_else(|| malformed("placement without ring parameters"))?;
        let listed = message.members.into_iter().map(decode_member).collect::<Result<Vec<_>, _>>()?;
        let by_index: Vec<Incarnation> = listed.iter().map(|(i, _)| *i).collect();
        let slots = message.slots.into_iter().zip(0u32..);
        let slots = slots.map(|(s, n)| decode_slot(&s, n, &by_index)).collect::<Result<Vec<_>, _>>()?;
        let members: BTreeMap<Incarnation, Member> = listed.into_iter().collect();
        if members.len() != by_index.len() {
            return Err(malformed("placement names a member twice").into());
        }
        let listed = |member: u32| {
            let incarnation = by_index.get(member as usize).copied();
            incarnation.ok_or_else(|| malformed(format!("apart names member {member} of {}", by_index.len())))
        };
        let pair = |p: v1::Apart| Ok::<_, Malformed>((listed(p.found_by)?, listed(p.other)?));
        let apart = message.apart.into_iter().map(pair).collect::<Result<_, _>>()?;
        let placement = Self {
            uid: Uid(message.uid),
            format: message.format,
            version: Version(message.version),
            settings: Settings::decode(settings)?,
            ring: RingParams { vnodes: ring.vnodes, bound_percent: ring.bound_percent },
            members,
            slots,
            recent: Recents::decode(message.recent),
            apart,
        };
        placement.check()?;
        Ok(placement)
    }
}

fn malformed(text: impl Into<String>) -> Malformed {
    Malformed(text.into())
}

fn encode_member(incarnation: Incarnation, m: &Member) -> v1::Member {
    v1::Member {
        node_id: m.node.to_string(),
        incarnation: incarnation.0,
        home: m.home.clone(),
        grpc_addr: m.grpc_addr.clone(),
        zone: m.zone.clone(),
        weight: m.weight,
        active: m.active,
        max_format: m.max_format,
        watch_addr: m.watch_addr.clone(),
    }
}

fn decode_member(m: v1::Member) -> Result<(Incarnation, Member), Malformed> {
    let member = Member {
        node: NodeId::new(&m.node_id)?,
        home: m.home,
        grpc_addr: m.grpc_addr,
        zone: m.zone,
        weight: m.weight,
        active: m.active,
        max_format: m.max_format,
        watch_addr: m.watch_addr,
    };
    Ok((Incarnation(m.incarnation), member))
}

fn decode_slot(s: &v1::Slot, number: u32, by_index: &[Incarnation]) -> Result<SlotRecord, Malformed> {
    let seat = |seat: &v1::Seat| {
        let incarnation = by_index.get(seat.member as usize).copied();
        incarnation.map(|incarnation| Seat { incarnation, since: Version(seat.since) }).ok_or_else(|| {
            malformed(format!("slot {number}: a seat names member {} of {}", seat.member, by_index.len()))
        })
    };
    let in_sync = s.in_sync.iter().map(seat).collect::<Result<Vec<_>, _>>()?;
    let learners = s.learners.iter().map(seat).collect::<Result<Vec<_>, _>>()?;
    let primary = in_sync.get(s.primary as usize).copied().ok_or_else(|| {
        malformed(format!("slot {number}: primary is number {} of {} in-sync seats", s.primary, in_sync.len()))
    })?;
    Ok(SlotRecord { term: Term(s.term), primary, in_sync, learners, generation: Generation(s.generation) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::fixtures::{placement, process};

    #[test]
    fn reads_what_it_writes() {
        let p = placement(8, 2, &[10, 11, 12]);
        assert_eq!(Placement::decode(&p.encode()).unwrap(), p);
        assert_eq!(Placement::reference_in(&p.encode()), Some(p.reference()));
        assert_eq!(Placement::reference_in(b"\xff\xff"), None);
    }

    #[test]
    fn unknown_fields_are_tolerated() {
        let p = placement(8, 1, &[10]);
        let mut bytes = p.encode().to_vec();
        // Field 1000, a varint.
        bytes.extend_from_slice(&[0xc0, 0x3e, 0x07]);
        assert_eq!(Placement::decode(&bytes).unwrap(), p);
    }

    #[test]
    fn a_newer_format_is_told_apart() {
        let mut p = placement(8, 1, &[10]);
        p.format = FORMAT + 1;
        assert_eq!(Placement::decode(&p.encode()), Err(DecodeError::TooNew(FORMAT + 1)));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let good = v1::Placement::decode(placement(4, 1, &[10, 11]).encode()).unwrap();
        let says = |change: &dyn Fn(&mut v1::Placement)| {
            let mut bad = good.clone();
            change(&mut bad);
            Placement::decode(&bad.encode_to_vec()).expect_err("is refused").to_string()
        };
        type Spoil<'a> = &'a dyn Fn(&mut v1::Placement);
        let cases: [(Spoil<'_>, &str); 19] = [
            (&|p| p.settings = None, "without settings"),
            (&|p| p.ring = None, "without ring"),
            (&|p| p.uid = 0, "uid"),
            (&|p| p.format = 0, "format"),
            (&|p| p.version = 0, "version"),
            (&|p| p.settings.as_mut().unwrap().slots = 5, "4 slots"),
            (&|p| p.settings.as_mut().unwrap().replication = 4, "replication"),
            (&|p| p.settings.as_mut().unwrap().min_in_sync = 2, "min_in_sync"),
            (&|p| p.settings.as_mut().unwrap().rooms = None, "without limits of rooms"),
            (&|p| p.settings.as_mut().unwrap().rooms.as_mut().unwrap().history_bytes = 1 << 40, "history_bytes"),
            (&|p| p.settings.as_mut().unwrap().rooms.as_mut().unwrap().members = 0, "members_limit"),
            (&|p| p.ring.as_mut().unwrap().bound_percent = 99, "bound_percent"),
            (&|p| p.members[1].incarnation = p.members[0].incarnation, "twice"),
            (&|p| p.members[0].node_id = "a/b".into(), "node id"),
            (&|p| p.slots[3].in_sync.clear(), "slot 3: primary is number 0 of 0"),
            (&|p| p.slots[3].in_sync[0].member = 2, "slot 3: a seat names member 2 of 2"),
            (&|p| p.slots[2].in_sync[0].since = 9, "slot 2: a seat since v9"),
            (&|p| p.slots[2].learners = p.slots[2].in_sync.clone(), "slot 2: two seats"),
            (&|p| p.slots[1].term = 0, "slot 1: term"),
        ];
        for (change, text) in cases {
            let error = says(change);
            assert!(error.contains(text), "{error} should name {text}");
        }
        assert!(Placement::decode(b"\xff\xff").is_err());
    }

    #[test]
    fn a_default_placement_is_small() {
        let p = placement(1024, 2, &[100_000, 100_001, 100_002]);
        assert!(p.encode().len() < 24 << 10, "{} bytes", p.encode().len());
        assert_eq!(process(7).0, Incarnation(7));
    }
}
