//! Random logs: what holds whatever is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use roomring_proto::{Epoch, Incarnation, Seq, v1};
use v1::event::Kind;
use v1::publication::Mark;

use super::testing::{Log, ann, room, told};
use super::*;
use crate::entry::{Body, Client, Entry, Publish, Retracts};

/// What stands for what is retracted.
const EMPTY: Bytes = Bytes::from_static(b"{}");

/// One thing that happens to one of three rooms; `wait` ms pass before it.
#[derive(Debug, Clone)]
struct Step {
    wait: u64,
    room: usize,
    action: Action,
}

#[derive(Debug, Clone)]
enum Action {
    Create {
        history_size: Option<u64>,
    },
    Publish {
        bytes: usize,
        id: u8,
        number: u64,
        settled: u64,
        router: u64,
    },
    /// A publish whose seq is off by this much.
    Astray {
        by: u64,
    },
    /// Of one of the last few publications; 0 = all.
    Retract {
        behind: u64,
        number: u64,
    },
    Join {
        client: u8,
        router: u64,
    },
    Leave {
        client: u8,
    },
    Expire,
    Remove,
}

fn limits() -> RoomLimits {
    RoomLimits {
        history_size: 4,
        history_age: Duration::from_millis(50),
        history_bytes: 900,
        id_window: Duration::from_millis(30),
        presence_list_limit: 2,
        ..RoomLimits::default()
    }
}

fn step() -> impl Strategy<Value = Step> {
    let router = 101..104u64;
    let publish = (0..400usize, 0..6u8, 0..40u64, 0..4u64, router.clone());
    let publish = publish.prop_map(|(bytes, id, number, behind, router)| Action::Publish {
        bytes,
        id,
        number,
        settled: number.saturating_sub(behind + 1),
        router,
    });
    let action = prop_oneof![
        2 => prop::option::of(0..6u64).prop_map(|history_size| Action::Create { history_size }),
        8 => publish,
        1 => (2..5u64).prop_map(|by| Action::Astray { by }),
        3 => (0..6u64, 0..40u64).prop_map(|(behind, number)| Action::Retract { behind, number }),
        5 => (0..5u8, router).prop_map(|(client, router)| Action::Join { client, router }),
        4 => (0..5u8).prop_map(|client| Action::Leave { client }),
        3 => Just(Action::Expire),
        1 => Just(Action::Remove),
    ];
    let wait = prop_oneof![Just(0), 1..20u64];
    (wait, 0..3usize, action).prop_map(|(wait, room, action)| Step { wait, room, action })
}

/// The entries of the steps, each made against the state that the ones before left, as a primary would.
fn entries(steps: &[Step]) -> Vec<Entry> {
    let mut log = Log::new(limits());
    let mut entries = Vec::new();
    for step in steps {
        log.now += step.wait;
        let name = ["a", "b", "lobby"][step.room];
        let (room, top) = (room(name), log.rooms.get(name).map_or(0, |r| r.seq().0));
        let publish = |seq: u64, bytes: usize, id: String, router: u64, number: u64, settled_below: u64| {
            let (seq, router) = (Seq(seq), Incarnation(router));
            let data = vec![b'1'; bytes].into();
            Publish { seq, data, info: told(&ann("c0")), id, router, number, settled_below, retracts: None }
        };
        let body = match step.action {
            Action::Create { history_size } => {
                Body::Create { room, keeps: Keeps { history_size, history_age_ms: None } }
            }
            Action::Publish { bytes, id, number, settled, router } => {
                let id = if id == 0 { String::new() } else { format!("id{id}") };
                let seq = log.rooms.seen_id(name, &id).map_or(top + 1, |seen| seen.0);
                Body::Publish { room, publish: publish(seq, bytes, id, router, number, settled) }
            }
            Action::Astray { by } => Body::Publish { room, publish: publish(top + by, 1, String::new(), 101, 77, 0) },
            Action::Retract { behind, number } => {
                let retracts = Some(Retracts::read(if behind == 0 { 0 } else { (top + 1).saturating_sub(behind) }));
                let publish = publish(top + 1, 0, String::new(), 102, number, 0);
                Body::Publish { room, publish: Publish { data: EMPTY, info: Bytes::new(), retracts, ..publish } }
            }
            Action::Join { client, router } => {
                let info = Client { user: format!("u{}", client % 2), ..ann(&format!("c{client}")) };
                Body::Join { room, info, router: Incarnation(router) }
            }
            Action::Leave { client } => Body::Leave { room, client: format!("c{client}") },
            Action::Expire => Body::Expire,
            Action::Remove => Body::Remove { room },
        };
        let entry = log.entry(body);
        log.rooms.apply(&entry);
        entries.push(entry);
    }
    entries
}

/// Follows what members see, and fails where it breaks the promises.
#[derive(Default)]
struct Member {
    seqs: BTreeMap<Epoch, u64>,
    lsns: BTreeMap<RoomKey, u64>,
    here: BTreeMap<(Epoch, String), bool>,
    /// What was retracted.
    gone: BTreeSet<(Epoch, u64)>,
}

type RoomKey = String;

impl Member {
    fn see(&mut self, applied: &Applied) {
        let lsn = match applied.event.kind.as_ref().unwrap() {
            Kind::Publication(p) => {
                let last = self.seqs.insert(applied.epoch, p.seq).unwrap_or(0);
                assert_eq!(p.seq, last + 1, "seq has a hole in {}", applied.epoch);
                match p.mark {
                    None => {}
                    Some(Mark::Deletes(seq)) => _ = self.gone.insert((applied.epoch, seq)),
                    Some(Mark::Clears(through)) => self.gone.extend((1..=through).map(|seq| (applied.epoch, seq))),
                    Some(Mark::Deleted(_)) => panic!("nobody is told of what is retracted already"),
                }
                p.lsn
            }
            Kind::Join(e) => self.presence(applied.epoch, e, true),
            Kind::Leave(e) => self.presence(applied.epoch, e, false),
        };
        let last = self.lsns.insert(applied.room.as_str().to_owned(), lsn).unwrap_or(0);
        assert!(lsn > last, "lsn {lsn} after {last}");
    }

    fn presence(&mut self, epoch: Epoch, event: &v1::PresenceEvent, joined: bool) -> u64 {
        let client = event.info.as_ref().unwrap().client.clone();
        let was = self.here.insert((epoch, client), joined).unwrap_or(false);
        assert_ne!(was, joined, "joins and leaves of a client alternate");
        event.lsn
    }
}

/// The members' visible state and the bounds of every room.
fn check(rooms: &Rooms) {
    let limits = limits();
    let mut members = 0;
    let mut removable = Vec::new();
    for (name, room) in rooms.iter() {
        let kept = room.history(None, None, false);
        assert!(kept.len() <= room.history.keeps().size(&limits));
        assert!(kept.iter().map(|p| p.data.len()).sum::<usize>() <= limits.history_bytes);
        assert!(kept.is_sorted_by(|a, b| a.seq + 1 == b.seq && a.lsn < b.lsn));
        assert!(kept.last().is_none_or(|p| p.seq == room.seq().0));
        assert_eq!(room.first_seq().map(|s| s.0), kept.first().map(|p| p.seq));
        let listed = room.presence().count();
        assert!(listed == room.num_clients() || (listed == 0 && room.num_clients() > limits.presence_list_limit));
        assert!(listed <= limits.presence_list_limit);
        members += room.num_clients();
        assert_eq!(rooms.top(name.as_str()), Some((room.epoch(), room.seq())));
        if kept.is_empty() && room.num_clients() == 0 && room.num_ids() == 0 {
            removable.push(name);
        }
    }
    assert_eq!(rooms.members(), members);
    assert_eq!(rooms.removable().collect::<Vec<_>>(), removable);
    let of_routers = rooms.routers().into_iter().map(|r| rooms.members_of_router(r).len());
    assert_eq!(of_routers.sum::<usize>(), members);
}

fn expired_at(rooms: &Rooms, now: u64) -> Rooms {
    let mut rooms = rooms.clone();
    let mut log = Log::new(limits());
    log.now = now;
    rooms.apply(&log.entry(Body::Expire));
    rooms
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn members_see_an_unbroken_order_within_the_limits(steps in prop::collection::vec(step(), 1..120)) {
        let mut rooms = Log::new(limits()).rooms;
        let mut member = Member::default();
        for entry in entries(&steps) {
            if let Some(applied) = rooms.apply(&entry) {
                member.see(&applied);
                prop_assert_eq!(Some(&applied.room), entry.room());
            }
            check(&rooms);
            for (_, room) in rooms.iter() {
                let kept = room.history(None, None, false);
                let readable = kept.iter().filter(|p| p.mark.is_none());
                prop_assert!(readable.into_iter().all(|p| !member.gone.contains(&(room.epoch(), p.seq))));
                let gone = kept.iter().filter(|p| matches!(p.mark, Some(Mark::Deleted(_))));
                prop_assert!(gone.into_iter().all(|p| p.data == EMPTY && p.info.is_empty() && p.id.is_empty()));
            }
        }
    }

    #[test]
    fn a_replica_filled_by_a_snapshot_equals_one_that_applied_all(
        steps in prop::collection::vec(step(), 1..120),
        at in any::<prop::sample::Index>(),
        part_bytes in 1..4_000usize,
    ) {
        let entries = entries(&steps);
        for entry in &entries {
            let read = Entry::read(v1::Entry::from(entry), |_| None);
            prop_assert_eq!(read.as_ref(), Ok(entry));
        }
        let (before, after) = entries.split_at(at.index(entries.len() + 1));
        let mut whole = Log::new(limits()).rooms;
        for entry in before {
            whole.apply(entry);
        }
        let again = Log::new(limits()).rooms;
        let parts = whole.snapshot(part_bytes).into_iter().map(|part| {
            prost::Message::decode(prost::Message::encode_to_vec(&part).as_slice()).unwrap()
        });
        let mut filled = Rooms::install(again.uid, again.generation, limits(), parts).unwrap();
        prop_assert_eq!(&filled, &whole);
        for entry in after {
            prop_assert_eq!(filled.apply(entry), whole.apply(entry));
        }
        prop_assert_eq!(&filled, &whole);
        prop_assert_eq!(filled.bytes(), whole.bytes());
    }

    #[test]
    fn expiry_is_due_exactly_when_it_changes_something(steps in prop::collection::vec(step(), 1..60)) {
        let mut rooms = Log::new(limits()).rooms;
        for entry in entries(&steps) {
            rooms.apply(&entry);
        }
        match rooms.expiry_due() {
            None => {
                let later = expired_at(&rooms, u64::MAX);
                prop_assert_eq!((&later.rooms, &later.numbers), (&rooms.rooms, &rooms.numbers));
            }
            Some(due) => {
                if due > rooms.last_time_ms() {
                    let earlier = expired_at(&rooms, due - 1);
                    prop_assert_eq!((&earlier.rooms, &earlier.numbers), (&rooms.rooms, &rooms.numbers));
                }
                let then = expired_at(&rooms, due);
                prop_assert!((&then.rooms, &then.numbers) != (&rooms.rooms, &rooms.numbers));
                prop_assert!(then.expiry_due().is_none_or(|next| next > due.max(rooms.last_time_ms())));
            }
        }
    }
}
