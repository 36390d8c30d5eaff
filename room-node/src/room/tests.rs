//! One test per rule.

use std::time::Duration;

use roomring_proto::{Epoch, Lsn, Seq, v1};
use v1::event::Kind;
use v1::publication::Mark;

use super::testing::{GENERATION, Log, R1, R2, UID, ann, room};
use super::*;
use crate::entry::{Body, Client, Retracts};

const NONE: [u64; 0] = [];

fn seqs(publications: &[v1::Publication]) -> Vec<u64> {
    publications.iter().map(|p| p.seq).collect()
}

fn log() -> Log {
    let mut log = Log::new(RoomLimits::default());
    log.create("lobby");
    log
}

#[test]
fn a_publication_carries_its_place_its_time_and_its_author() {
    let mut log = log();
    let applied = log.publish("lobby", |p| p.id = "x".into()).unwrap();
    assert_eq!(applied.room, room("lobby"));
    assert_eq!(applied.epoch, Epoch { uid: UID, generation: GENERATION, created: Lsn(1) });
    let Some(Kind::Publication(p)) = applied.event.kind else { panic!("{applied:?}") };
    assert_eq!((p.seq, p.lsn, p.time_ms, &p.id[..], &p.data[..]), (1, 2, 1_000_000, "x", &b"{\"n\":1}"[..]));
    assert_eq!(p.author().unwrap().user, "ann");
    assert_eq!((log.room("lobby").seq(), log.room("lobby").lsn()), (Seq(1), Lsn(2)));
}

#[test]
fn a_publication_that_does_not_continue_the_room_is_left_out() {
    let mut log = log();
    log.say("lobby");
    for seq in [0, 1, 3, u64::MAX] {
        let applied = log.publish("lobby", |p| (p.seq, p.number) = (Seq(seq), 9));
        assert_eq!(applied, None, "{seq}");
    }
    assert_eq!(log.publish("elsewhere", |p| p.number = 9), None);
    assert_eq!(log.room("lobby").seq(), Seq(1));
    assert_eq!(log.rooms.number(R1, 9), Number::Unknown);
    assert!(log.rooms.get("elsewhere").is_none());
}

#[test]
fn history_pages_follow_the_protocol() {
    let mut log = Log::new(RoomLimits { history_size: 5, ..RoomLimits::default() });
    log.create("lobby");
    for _ in 0..8 {
        log.say("lobby");
    }
    let page = |since: Option<u64>, limit, reverse| seqs(&log.room("lobby").history(since.map(Seq), limit, reverse));
    assert_eq!(log.room("lobby").first_seq(), Some(Seq(4)));
    assert_eq!(page(None, None, false), [4, 5, 6, 7, 8]);
    assert_eq!(page(None, Some(2), false), [4, 5]);
    assert_eq!(page(Some(6), None, false), [7, 8], "since is exclusive");
    assert_eq!(page(Some(1), Some(2), false), [4, 5], "an old since gives the oldest kept");
    assert_eq!(page(Some(8), None, false), NONE);
    assert_eq!(page(Some(99), None, false), NONE);
    assert_eq!(page(None, Some(2), true), [8, 7]);
    assert_eq!(page(Some(6), Some(9), true), [5, 4], "reverse: those before since");
    assert_eq!(page(Some(4), None, true), NONE);
    assert_eq!(page(Some(99), Some(1), true), [8]);
    assert_eq!(page(None, Some(0), false), NONE);
}

#[test]
fn history_is_bounded_by_bytes() {
    let mut log = Log::new(RoomLimits { history_bytes: 1_000, ..RoomLimits::default() });
    log.create("lobby");
    let mut say = |bytes: usize| -> Vec<u64> {
        log.publish("lobby", |p| p.data = vec![b'1'; bytes].into());
        seqs(&log.room("lobby").history(None, None, false))
    };
    assert_eq!(say(300), [1]);
    assert_eq!(say(300), [1, 2]);
    assert_eq!(say(300), [2, 3], "three and their overhead do not fit");
    assert_eq!(say(5_000), NONE, "larger than the limit by itself");
    assert_eq!(say(10), [5]);
    assert_eq!(log.room("lobby").seq(), Seq(5));
}

#[test]
fn history_ages_on_expire_only() {
    let mut log = log();
    log.say("lobby");
    log.now += 1_000;
    log.say("lobby");
    assert_eq!(log.rooms.expiry_due(), Some(1_300_000));
    log.expire_at(1_299_999);
    assert_eq!(seqs(&log.room("lobby").history(None, None, false)), [1, 2]);
    log.expire_at(1_300_000);
    assert_eq!(seqs(&log.room("lobby").history(None, None, false)), [2]);
    assert_eq!(log.rooms.expiry_due(), Some(1_301_000));
    log.expire_at(1_301_000);
    assert_eq!((log.room("lobby").first_seq(), log.room("lobby").seq()), (None, Seq(2)));
    assert_eq!(log.rooms.expiry_due(), None);
}

#[test]
fn a_retracted_publication_keeps_its_place_and_nothing_else() {
    let mut log = log();
    log.publish("lobby", |p| (p.id, p.data) = ("one".into(), vec![b'1'; 500].into()));
    log.say("lobby");
    let before = log.rooms.bytes();
    let told = log.retract("lobby", Retracts::One(Seq(1)));
    assert_eq!((told.seq, &told.data[..], told.author(), told.mark), (3, &b"{}"[..], None, Some(Mark::Deletes(1))));
    let kept = log.room("lobby").history(None, None, false);
    assert_eq!(seqs(&kept), [1, 2, 3]);
    let gone = v1::Publication { lsn: 2, time_ms: 1_000_000, mark: Some(Mark::Deleted(v1::Deleted {})), ..told_of(1) };
    assert_eq!(kept[0], gone);
    assert_eq!((kept[1].mark, kept[2].mark), (None, Some(Mark::Deletes(1))));
    assert!(log.rooms.bytes() < before, "its bytes are free: {} after {before}", log.rooms.bytes());
    assert!(log.room("lobby").is_marked(Seq(1)) && log.room("lobby").is_marked(Seq(3)));
    assert!(!log.room("lobby").is_marked(Seq(2)) && !log.room("lobby").is_marked(Seq(9)));
    // Once more it changes nothing but tells the members; who said it stays told of.
    log.retract("lobby", Retracts::One(Seq(1)));
    log.retract("lobby", Retracts::One(Seq(3)));
    let marks: Vec<_> = log.room("lobby").history(None, None, false).into_iter().map(|p| p.mark).collect();
    let deletes = |seq| Some(Mark::Deletes(seq));
    assert_eq!(marks, [gone.mark, None, deletes(1), deletes(1), deletes(3)]);
    // Its id is remembered: it is not published again.
    assert_eq!(log.rooms.seen_id("lobby", "one"), Some(Seq(1)));
}

#[test]
fn what_is_not_kept_is_retracted_for_those_who_saw_it() {
    let mut log = Log::new(RoomLimits { history_size: 2, ..RoomLimits::default() });
    log.create("lobby");
    log.add(Body::Create { room: room("none"), keeps: Keeps { history_size: Some(0), history_age_ms: None } });
    for _ in 0..4 {
        log.say("lobby");
        log.say("none");
    }
    let (kept, of_none) = (log.room("lobby").history.bytes(), log.rooms.bytes());
    assert_eq!(log.retract("none", Retracts::One(Seq(2))).mark, Some(Mark::Deletes(2)));
    assert_eq!(log.rooms.bytes(), of_none);
    assert_eq!(log.room("none").history(None, None, false), []);
    assert_eq!(log.retract("lobby", Retracts::One(Seq(1))).mark, Some(Mark::Deletes(1)));
    assert_eq!(seqs(&log.room("lobby").history(None, None, false)), [4, 5], "it takes the place of one");
    assert!(log.room("lobby").history.bytes() < kept);
}

#[test]
fn a_cleared_room_goes_on_where_it_was() {
    let mut log = log();
    log.join("lobby", ann("c1"), R1);
    for _ in 0..3 {
        log.say("lobby");
    }
    let epoch = log.room("lobby").epoch();
    assert_eq!(log.retract("lobby", Retracts::All).mark, Some(Mark::Clears(3)));
    let kept = log.room("lobby").history(None, None, false);
    assert_eq!((seqs(&kept), log.room("lobby").first_seq()), (vec![4], Some(Seq(4))));
    assert_eq!((log.room("lobby").epoch(), log.room("lobby").num_clients()), (epoch, 1));
    assert_eq!(log.say("lobby").seq, 5);
    let parts = log.rooms.snapshot(200).into_iter();
    assert_eq!(Rooms::install(UID, GENERATION, RoomLimits::default(), parts).unwrap(), log.rooms);
    log.leave("lobby", "c1");
    log.expire_at(1_300_000);
    assert_eq!(log.rooms.removable().count(), 1, "it ends as any other");
    log.create("empty");
    assert_eq!(log.retract("empty", Retracts::All).mark, Some(Mark::Clears(0)));
}

/// A publication without anything but its place.
fn told_of(seq: u64) -> v1::Publication {
    v1::Publication { seq, data: bytes::Bytes::from_static(b"{}"), ..Default::default() }
}

#[test]
fn time_never_falls() {
    let mut log = log();
    log.now = 5_000_000;
    log.say("lobby");
    log.now = 4_000_000;
    assert_eq!(log.say("lobby").time_ms, 5_000_000);
    assert_eq!(log.rooms.last_time_ms(), 5_000_000);
}

#[test]
fn joins_and_leaves_are_seen_once() {
    let mut log = log();
    let joined = log.join("lobby", ann("c1"), R1).unwrap();
    assert_eq!(joined.event.kind, Some(Kind::Join(v1::PresenceEvent { lsn: 2, info: Some((&ann("c1")).into()) })));
    let renamed = Client { user: "bob".into(), ..ann("c1") };
    assert_eq!(log.join("lobby", renamed.clone(), R2), None, "it is there already");
    assert_eq!(log.room("lobby").lsn(), Lsn(2), "what nobody sees is no event");
    assert_eq!(log.room("lobby").member("c1"), Some((&renamed, R2)), "but the newer one holds");
    assert_eq!(log.leave("lobby", "c2"), None);
    let left = log.leave("lobby", "c1").unwrap();
    assert_eq!(left.event.kind, Some(Kind::Leave(v1::PresenceEvent { lsn: 5, info: Some((&renamed).into()) })));
    assert_eq!(log.leave("lobby", "c1"), None);
    assert_eq!(log.room("lobby").lsn(), Lsn(5));
}

#[test]
fn visits_are_told_before_they_are_made() {
    let mut log = log();
    let mut visit = |body: Body| {
        let entry = log.entry(body);
        let visit = log.rooms.visit(&entry).map(|v| (v.info.client, v.router, v.left, v.clients));
        log.rooms.apply(&entry);
        assert_eq!(visit.as_ref().map(|v| v.3), visit.as_ref().map(|_| log.room("lobby").num_clients()));
        visit
    };
    let join = |client: &str, router| Body::Join { room: room("lobby"), info: ann(client), router };
    let leave = |client: &str| Body::Leave { room: room("lobby"), client: client.into() };
    assert_eq!(visit(join("c1", R1)), Some(("c1".into(), R1, false, 1)));
    assert_eq!(visit(join("c1", R2)), None, "it is there already");
    assert_eq!(visit(join("c2", R1)), Some(("c2".into(), R1, false, 2)));
    assert_eq!(visit(leave("c3")), None);
    assert_eq!(visit(leave("c1")), Some(("c1".into(), R2, true, 1)));
    assert_eq!(visit(Body::Expire), None);
    assert_eq!(visit(leave("c2")), Some(("c2".into(), R1, true, 0)));
}

#[test]
fn presence_counts_connections_and_users() {
    let mut log = log();
    log.join("lobby", ann("c2"), R1);
    log.join("lobby", ann("c1"), R1);
    log.join("lobby", Client { user: String::new(), ..ann("c3") }, R2);
    let lobby = log.room("lobby");
    let clients: Vec<_> = lobby.presence().map(|(client, info)| (client, &info.user[..])).collect();
    assert_eq!(clients, [("c1", "ann"), ("c2", "ann"), ("c3", "")]);
    assert_eq!((log.room("lobby").num_clients(), log.room("lobby").num_users(), log.rooms.members()), (3, 2, 3));
    log.leave("lobby", "c2");
    assert_eq!((log.room("lobby").num_clients(), log.room("lobby").num_users()), (2, 2));
    log.leave("lobby", "c1");
    assert_eq!((log.room("lobby").num_clients(), log.room("lobby").num_users()), (1, 1));
}

#[test]
fn members_are_found_by_router() {
    let mut log = log();
    log.create("other");
    log.join("lobby", ann("c1"), R1);
    log.join("other", ann("c1"), R1);
    log.join("lobby", ann("c2"), R2);
    assert_eq!(log.rooms.routers(), [R1, R2].into());
    assert_eq!(log.rooms.members_of_router(R1), [(room("lobby"), "c1".to_owned()), (room("other"), "c1".to_owned())]);
    log.join("lobby", ann("c2"), R1);
    assert_eq!(log.rooms.routers(), [R1].into(), "the client moved");
    assert_eq!(log.rooms.members_of_router(R2), []);
    log.add(Body::Remove { room: room("lobby") });
    assert_eq!(log.rooms.members_of_router(R1), [(room("other"), "c1".to_owned())]);
}

#[test]
fn a_large_room_has_counts_only() {
    let mut log = Log::new(RoomLimits { presence_list_limit: 2, ..RoomLimits::default() });
    log.create("lobby");
    assert!(log.join("lobby", ann("c1"), R1).is_some());
    assert!(log.join("lobby", ann("c2"), R1).is_some());
    assert_eq!(log.room("lobby").presence().count(), 2);
    assert_eq!(log.join("lobby", ann("c3"), R1), None);
    assert_eq!(log.room("lobby").presence().count(), 0);
    assert_eq!(log.room("lobby").num_clients(), 3);
    assert!(log.room("lobby").member("c3").is_some(), "the member is known all the same");
    assert!(log.leave("lobby", "c1").is_some(), "its join was seen");
    assert_eq!(log.room("lobby").presence().count(), 2, "listed again");
    assert_eq!(log.leave("lobby", "c3"), None, "its join was not seen");
    assert!(log.join("lobby", ann("c3"), R1).is_some());
}

#[test]
fn ids_are_remembered_for_the_window() {
    let mut log = log();
    log.publish("lobby", |p| p.id = "a".into());
    log.now += 10;
    log.publish("lobby", |p| p.id = "b".into());
    assert_eq!(log.rooms.seen_id("lobby", "a"), Some(Seq(1)));
    assert_eq!(log.rooms.seen_id("lobby", "c"), None);
    assert_eq!(log.rooms.seen_id("other", "a"), None);
    assert_eq!(log.rooms.seen_id("lobby", ""), None);
    assert_eq!(log.rooms.expiry_due(), Some(1_120_000));
    log.expire_at(1_120_000);
    assert_eq!((log.rooms.seen_id("lobby", "a"), log.rooms.seen_id("lobby", "b")), (None, Some(Seq(2))));
    assert_eq!(log.room("lobby").num_ids(), 1);
}

#[test]
fn an_id_that_was_logged_twice_keeps_its_first_place() {
    let mut log = log();
    log.publish("lobby", |p| p.id = "a".into());
    assert!(log.publish("lobby", |p| p.id = "a".into()).is_some(), "seq has no holes, so it is a publication");
    assert_eq!(log.rooms.seen_id("lobby", "a"), Some(Seq(1)));
    assert_eq!(log.room("lobby").num_ids(), 1);
}

#[test]
fn a_logged_duplicate_only_says_what_became_of_its_number() {
    let mut log = log();
    log.publish("lobby", |p| (p.id, p.number) = ("a".into(), 1));
    log.say("lobby");
    assert_eq!(log.publish("lobby", |p| (p.id, p.number, p.seq) = ("a".into(), 2, Seq(1))), None);
    assert_eq!(log.room("lobby").seq(), Seq(2));
    let epoch = log.room("lobby").epoch();
    assert_eq!(log.rooms.number(R1, 1), Number::Done { epoch, seq: Seq(1), duplicate: false });
    assert_eq!(log.rooms.number(R1, 2), Number::Done { epoch, seq: Seq(1), duplicate: true });
}

#[test]
fn numbers_are_known_until_settled() {
    let mut log = log();
    for number in [1, 2, 4] {
        log.publish("lobby", |p| p.number = number);
    }
    let epoch = log.room("lobby").epoch();
    assert_eq!(log.rooms.number(R1, 4), Number::Done { epoch, seq: Seq(3), duplicate: false });
    assert_eq!(log.rooms.number(R1, 3), Number::Unknown, "numbers may come with holes");
    assert_eq!(log.rooms.number(R2, 1), Number::Unknown, "each router has its own");
    log.publish("lobby", |p| (p.number, p.settled_below) = (5, 3));
    assert_eq!(log.rooms.number(R1, 2), Number::Settled);
    assert_eq!(log.rooms.number(R1, 3), Number::Settled);
    assert!(matches!(log.rooms.number(R1, 4), Number::Done { .. }));
    log.publish("lobby", |p| (p.number, p.settled_below) = (6, 1));
    assert_eq!(log.rooms.number(R1, 3), Number::Settled, "what is settled stays so");
    log.publish("lobby", |p| p.number = 0);
    assert_eq!(log.rooms.number(R1, 0), Number::Settled, "0 is no number");
    log.add(Body::Remove { room: room("lobby") });
    assert_eq!(log.rooms.number(R1, 4), Number::Done { epoch, seq: Seq(3), duplicate: false }, "outlives its room");
}

#[test]
fn numbers_of_a_router_without_members_are_forgotten_after_the_window() {
    let mut log = log();
    log.join("lobby", ann("c1"), R1);
    log.publish("lobby", |p| p.number = 1);
    let history_due = Some(1_300_000);
    assert_eq!(log.rooms.expiry_due(), history_due, "it has members: it may send again whatever the clock says");
    log.expire_at(1_200_000);
    assert!(matches!(log.rooms.number(R1, 1), Number::Done { .. }));
    log.leave("lobby", "c1");
    assert_eq!(log.rooms.expiry_due(), Some(1_120_000));
    log.expire_at(1_200_000);
    assert_eq!(log.rooms.number(R1, 1), Number::Unknown);
    assert_eq!(log.rooms.expiry_due(), history_due);
}

#[test]
fn a_router_that_never_settles_is_bounded() {
    let mut log = Log::new(RoomLimits { history_size: 1, ..RoomLimits::default() });
    log.create("lobby");
    for number in 1..=65_538 {
        log.publish("lobby", |p| p.number = number);
    }
    assert_eq!(log.rooms.number(R1, 2), Number::Settled);
    assert!(matches!(log.rooms.number(R1, 3), Number::Done { seq: Seq(3), .. }));
}

#[test]
fn an_empty_room_costs_nothing_after_its_removal() {
    let mut log = Log::new(RoomLimits::default());
    let empty = log.rooms.bytes();
    log.create("lobby");
    assert_eq!(log.rooms.removable().collect::<Vec<_>>(), [&room("lobby")]);
    log.join("lobby", ann("c1"), R1);
    log.publish("lobby", |p| p.id = "a".into());
    let full = log.rooms.bytes();
    assert!(full > empty + 500);
    log.leave("lobby", "c1");
    assert!((empty + 140..full - 200).contains(&log.rooms.bytes()), "it is put away");
    assert_eq!(log.rooms.removable().count(), 0, "there is history");
    log.expire_at(1_120_000);
    assert_eq!(log.rooms.removable().count(), 0, "still");
    log.expire_at(1_300_000);
    assert_eq!(log.rooms.removable().count(), 1);
    assert_eq!(log.add(Body::Remove { room: room("lobby") }), None);
    assert_eq!((log.rooms.len(), log.rooms.members(), log.rooms.bytes()), (0, 0, empty));
    assert_eq!((log.rooms.removable().count(), log.rooms.expiry_due()), (0, None));
}

#[test]
fn a_room_made_again_has_another_epoch() {
    let mut log = log();
    log.say("lobby");
    let first = log.room("lobby").epoch();
    log.add(Body::Remove { room: room("lobby") });
    log.create("lobby");
    assert!(log.room("lobby").epoch() > first);
    assert_eq!((log.room("lobby").seq(), log.say("lobby").seq), (Seq(0), 1));
}

#[test]
fn create_and_remove_do_as_they_say_whatever_is_there() {
    let mut log = log();
    log.join("lobby", ann("c1"), R1);
    log.say("lobby");
    log.create("lobby");
    assert_eq!((log.rooms.len(), log.rooms.members(), log.room("lobby").seq()), (1, 0, Seq(0)));
    assert_eq!(log.rooms.expiry_due(), None);
    log.join("lobby", ann("c1"), R1);
    log.add(Body::Remove { room: room("lobby") });
    log.add(Body::Remove { room: room("lobby") });
    assert_eq!((log.rooms.len(), log.rooms.members(), log.rooms.routers().len()), (0, 0, 0));
    assert!(log.rooms.is_empty());
}

#[test]
fn a_room_may_keep_more_or_less_than_others() {
    let limits = RoomLimits { history_size: 3, history_age: Duration::from_secs(60), ..RoomLimits::default() };
    let mut log = Log::new(limits.clone());
    log.create("usual");
    for (name, history_size, history_age_ms) in
        [("more", Some(5), None), ("none", Some(0), None), ("short", None, Some(1_000))]
    {
        log.add(Body::Create { room: room(name), keeps: Keeps { history_size, history_age_ms } });
    }
    let kept = |log: &Log, name| log.room(name).history(None, None, false).len();
    for name in ["usual", "more", "none", "short"] {
        for _ in 0..6 {
            log.say(name);
        }
    }
    assert_eq!(["usual", "more", "none", "short"].map(|name| kept(&log, name)), [3, 5, 0, 3]);
    assert_eq!(log.room("none").seq(), Seq(6));
    // What a room keeps comes along with its state.
    let parts = log.rooms.snapshot(1 << 20).into_iter();
    let copy = Rooms::install(UID, GENERATION, limits, parts).unwrap();
    assert_eq!(copy, log.rooms);
    log.now += 2_000;
    log.add(Body::Expire);
    assert_eq!(["usual", "more", "none", "short"].map(|name| kept(&log, name)), [3, 5, 0, 0]);
}

#[test]
fn a_primary_learns_which_limit_is_met() {
    let mut log = Log::new(RoomLimits { rooms: 2, members: 2, ids_per_room: 1, ..RoomLimits::default() });
    log.create("lobby");
    assert_eq!(log.rooms.admits_rooms(1), Ok(()));
    assert_eq!(log.rooms.admits_rooms(2).unwrap_err().to_string(), "too many rooms in this slot: the limit is 2");
    log.join("lobby", ann("c1"), R1);
    assert!(log.rooms.admits_members("lobby", 1).is_ok());
    assert!(log.rooms.admits_members("lobby", 2).is_err());
    assert!(log.rooms.admits_members("new", 2).is_ok());
    log.publish("lobby", |p| p.id = "a".into());
    assert!(log.rooms.admits_ids("lobby", 1).is_err());
    assert!(log.rooms.admits_ids("lobby", 0).is_ok());
    assert!(log.join("lobby", ann("c2"), R1).is_some());
    assert!(log.join("lobby", ann("c3"), R1).is_some(), "what is logged is applied");
}

#[test]
fn a_large_room_is_sent_in_parts() {
    let mut log = log();
    for n in 0..40 {
        log.join("lobby", ann(&format!("c{n}")), R1);
        log.publish("lobby", |p| (p.data, p.id) = (vec![b'1'; 200].into(), format!("id{n}")));
    }
    let parts = log.rooms.snapshot(2_000);
    assert!(parts.len() > 4, "{}", parts.len());
    for part in &parts {
        let len = prost::Message::encoded_len(part);
        assert!(len <= 2_100, "{len}");
    }
    let again = Rooms::install(UID, GENERATION, RoomLimits::default(), parts.into_iter()).unwrap();
    assert_eq!(again, log.rooms);
    assert_eq!(Rooms::new(UID, GENERATION, RoomLimits::default()).snapshot(1_000).len(), 1);
}

#[test]
fn a_malformed_snapshot_is_refused() {
    let mut log = log();
    log.join("lobby", ann("c1"), R1);
    for number in 1..=4 {
        log.publish("lobby", |p| p.number = number);
    }
    let refused = |change: &dyn Fn(&mut v1::SlotState)| {
        let mut part = log.rooms.snapshot(usize::MAX).remove(0);
        change(&mut part);
        Rooms::install(UID, GENERATION, RoomLimits::default(), [part].into_iter()).unwrap_err().0
    };
    assert_eq!(refused(&|s| s.rooms[0].room.clear()), "room name is empty");
    assert!(refused(&|s| drop(s.rooms[0].history.remove(1))).contains("hole"));
    assert!(refused(&|s| drop(s.rooms[0].history.pop())).contains("top"));
    assert!(refused(&|s| s.rooms[0].members[0].info = None).contains("lacks its client"));
    assert!(refused(&|s| s.rooms[0].members.extend_from_within(..)).contains("twice"));
    assert!(refused(&|s| s.routers[0].numbers[0].epoch = None).contains("lacks its epoch"));
    assert!(
        refused(&|s| {
            s.rooms.extend_from_within(..);
            s.rooms[1].created = 9;
        })
        .contains("head changes")
    );
}

#[test]
fn limits_have_the_documented_defaults() {
    let limits = RoomLimits::default();
    assert_eq!((limits.history_size, limits.history_age), (100, Duration::from_secs(300)));
    assert_eq!((limits.history_bytes, limits.id_window), (1 << 20, Duration::from_secs(120)));
    assert_eq!((limits.ids_per_room, limits.presence_list_limit), (10_000, 1_000));
}
