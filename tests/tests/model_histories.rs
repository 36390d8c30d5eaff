//! The executions that broke earlier drafts of the protocol, a test each, on the production transitions. Every invariant is
//! checked after every step; where a rule of the model stands against the execution, the same steps without that rule must
//! break one.

use roomring_node::slot::Rule;
use roomring_proto::{Incarnation, Lsn, Seat, Version};
use roomring_tests::invariants::{self, eventually_serves};
use roomring_tests::model::Action::{
    self, Admit, Attach, Crash, Deliver, Evict, Expire, Hear, Land, Publish, Recreate, Remove, Restart, Switch, Tick,
    View,
};
use roomring_tests::model::{Bounds, Mutant, Outcome, Process, SlotModel, World};

const A: Incarnation = Incarnation(1);
const B: Incarnation = Incarnation(2);
const C: Incarnation = Incarnation(3);
const D: Incarnation = Incarnation(4);

/// The successors of B and C.
const B2: Incarnation = Incarnation(12);
const C2: Incarnation = Incarnation(13);

/// The seats of the first placement.
const fn seat(incarnation: Incarnation) -> Seat {
    Seat { incarnation, since: Version(1) }
}

const fn v(version: u64) -> Version {
    Version(version)
}

/// A request of the first to the second arrives.
const fn to(opener: Incarnation, other: Incarnation) -> Action {
    Deliver { opener, other, back: false }
}

/// An answer of the second arrives at the first.
const fn back(opener: Incarnation, other: Incarnation) -> Action {
    Deliver { opener, other, back: true }
}

/// An execution under way. Once an invariant is broken nothing more is done.
struct Play {
    model: SlotModel,
    world: World,
    broken: Option<&'static str>,
}

impl Play {
    fn new(mutant: Option<Mutant>, nodes: u64, in_sync: u64) -> Self {
        let model =
            SlotModel { bounds: Bounds { nodes, in_sync, ..Bounds::default() }, mutant, ..SlotModel::default() };
        Self { model, world: model.first(), broken: None }
    }

    /// Does these steps, each of which must be possible.
    fn go(&mut self, steps: &[Action]) {
        for action in steps {
            if self.broken.is_some() {
                return;
            }
            let next = self.world.step(&self.model, *action);
            self.world = next.unwrap_or_else(|| panic!("{action:?} cannot happen in {:#?}", self.world));
            self.broken = invariants::broken(&self.model, &self.world);
        }
    }

    /// Everything on the stream of the first to the second arrives, both ways.
    fn pump(&mut self, opener: Incarnation, other: Incarnation) {
        while let Some(next) = [to(opener, other), back(opener, other)].iter().find(|a| self.can(**a)) {
            self.go(&[*next]);
        }
    }

    /// The router hears all that was said to it.
    fn hear(&mut self) {
        while self.can(Hear) {
            self.go(&[Hear]);
        }
    }

    fn can(&self, action: Action) -> bool {
        self.broken.is_none() && self.world.step(&self.model, action).is_some()
    }

    /// Says what must be so now, unless a rule is off.
    fn expect(&self, what: &str, holds: impl FnOnce(&World) -> bool) {
        if self.model.mutant.is_none() {
            assert_eq!(self.broken, None);
            assert!(holds(&self.world), "{what}: {:#?}", self.world);
        }
    }

    /// The trouble ends: the slot serves, and no invariant was broken.
    fn well(self) {
        assert_eq!(self.broken, None, "{:#?}", self.world);
        let calm = self.world.calm(&self.model);
        assert_eq!(invariants::broken(&self.model, &calm), None);
        assert!(eventually_serves::serves(&calm), "{calm:#?}");
    }
}

fn process(world: &World, incarnation: Incarnation) -> &Process {
    &world.processes()[&incarnation]
}

fn last(world: &World, incarnation: Incarnation) -> Lsn {
    process(world, incarnation).slot().held().expect("a seat").last()
}

fn commit(world: &World, incarnation: Incarnation) -> Lsn {
    process(world, incarnation).slot().held().expect("a seat").commit()
}

fn committed(world: &World) -> usize {
    world.ghost().publishes().count()
}

fn acknowledged(world: &World) -> usize {
    world.router().outcomes().values().filter(|o| matches!(o, Outcome::Acknowledged(..))).count()
}

/// Runs it with every rule on, and with one off.
fn run(history: fn(Option<Mutant>) -> Play, off: Mutant) {
    history(None).well();
    let play = history(Some(off));
    println!("without its rule ({off:?}): {}", play.broken.unwrap_or("nothing broken"));
    assert!(play.broken.is_some(), "{off:?} is not missed");
}

#[test]
fn recreate_while_the_old_pair_still_acknowledges_on_a_stale_view() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 3, 2);
        play.go(&[Publish, to(A, B)]);
        play.expect("A has contact", |_| !play.can(Recreate(C)));
        play.go(&[Expire(A)]);
        play.expect("B has contact", |_| !play.can(Recreate(C)));
        play.go(&[Expire(B), Recreate(C), View(C, v(2)), back(A, B)]);
        play.expect("A holds the acknowledgement, and commits nothing", |w| {
            commit(w, A) < last(w, A) && committed(w) == 0
        });
        play.hear();
        play.expect("nobody was told so", |w| acknowledged(w) == 0);
        play
    }
    run(history, Mutant::ContactIgnored);
}

#[test]
fn a_restarted_replica_that_forgot_its_terms_accepts_an_old_primarys_resend() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 3, 3);
        // The publish reached nobody when B took over, and C follows B.
        play.go(&[Publish, Switch(seat(B)), View(B, v(2)), to(B, C), back(B, C)]);
        play.go(&[Crash(C), Restart(3)]);
        let again = if mutant == Some(Mutant::IncarnationKept) { C } else { C2 };
        play.pump(A, again);
        play.pump(A, B);
        play.expect("A sent nothing to the successor", |w| process(w, C2).slot().held().is_none());
        play.expect("A commits nothing", |w| commit(w, A) < last(w, A));
        play
    }
    run(history, Mutant::IncarnationKept);
}

#[test]
fn match_state_survives_remove_and_readd() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 2, 2);
        play.go(&[Publish, to(A, B), Remove(seat(B)), Admit(B), View(A, v(3)), back(A, B), View(B, v(3))]);
        play.expect("the old seat's acknowledgement is not the new one's", |w| {
            process(w, A).slot().led().is_some_and(|led| led.matched().is_empty())
        });
        play.expect("the new seat begins empty", |w| {
            process(w, B).slot().held().is_some_and(|h| !h.is_filled() && h.seat().since == v(3))
        });
        play.expect("and nobody proposes it", |w| w.ready().is_empty());
        play
    }
    run(history, Mutant::Slot(Rule::SeatsNamed));
}

#[test]
fn a_restarted_primary_takes_itself_for_the_primary_of_its_old_term() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 2, 2);
        play.go(&[Publish]);
        play.pump(A, B);
        play.go(&[Crash(A), Restart(1)]);
        play.expect("its successor holds no seat", |w| {
            w.processes().iter().all(|(i, p)| *i == B || (p.slot().held().is_none() && p.slot().led().is_none()))
        });
        play
    }
    run(history, Mutant::IncarnationKept);
}

#[test]
fn a_term_jumps_by_two_and_an_old_acknowledgement_is_counted() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 3, 3);
        play.go(&[Publish, to(A, C), Switch(seat(B)), View(B, v(2)), to(B, C)]);
        play.expect("C dropped what B lacks", |w| last(w, C) == last(w, B) && last(w, A) > last(w, B));
        play.go(&[Switch(seat(A)), View(A, v(3)), back(A, C)]);
        play.expect("A is primary again, and counts nothing of its first term", |w| {
            process(w, A).slot().led().is_some_and(|led| led.term().0 == 3 && led.matched().is_empty())
        });
        play
    }
    run(history, Mutant::Slot(Rule::CountsItsTermOnly));
}

#[test]
fn a_compare_and_swap_that_timed_out_had_landed() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 2, 1);
        play.go(&[Admit(B), View(A, v(2)), View(B, v(2))]);
        play.pump(A, B);
        let ready = *play.world.ready().first().expect("A proposes B");
        play.go(&[Land(ready), Publish]);
        play.expect("A does not know, and waits all the same", |w| commit(w, A) < last(w, A) && committed(w) == 0);
        play.pump(A, B);
        play.expect("B has it: it is committed", |w| committed(w) == 1);
        play
    }
    run(history, Mutant::Slot(Rule::WaitsForProposed));
}

#[test]
fn a_falsely_evicted_last_copy_comes_back_empty() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 2, 1);
        play.go(&[Publish, Admit(B), View(A, v(2)), View(B, v(2)), Evict(A), View(A, v(3))]);
        play.expect("the last copy keeps its seat", |w| {
            !w.register().is_active(A) && w.register().record().primary == seat(A) && last(w, A) == Lsn(3)
        });
        play.go(&[Admit(A), View(A, v(4))]);
        play.expect("it is a member again, with what it had", |w| {
            w.register().is_active(A) && w.register().record().in_sync == [seat(A)] && commit(w, A) == Lsn(3)
        });
        play
    }
    run(history, Mutant::LastCopyEvicted);
}

#[test]
fn a_publish_is_sent_again_after_ids_were_forgotten() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 2, 1);
        // Committed at A; the answer is lost with the link. B learns it from a snapshot.
        play.go(&[Publish, Admit(B), View(A, v(2)), View(B, v(2))]);
        play.pump(A, B);
        play.expect("B has a snapshot", |w| process(w, B).slot().held().is_some_and(|h| h.base() == Lsn(3)));
        if play.broken.is_none() {
            let ready = *play.world.ready().first().expect("A proposes B");
            let heir = ready.seat;
            play.go(&[Land(ready), Switch(heir), View(B, v(4)), View(A, v(4))]);
            play.pump(B, A);
            play.go(&[Attach(v(4))]);
            play.hear();
        }
        play.expect("sent again, acknowledged, and made once", |w| {
            w.router().has_resent() && acknowledged(w) == 1 && committed(w) == 1
        });
        play
    }
    run(history, Mutant::Slot(Rule::SnapshotCarriesNumbers));
}

#[test]
fn a_new_primary_answers_an_attach_or_lets_a_learner_in_before_its_tail_is_committed() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 4, 3);
        // D is a learner that has everything but the last entry, which of the others B alone has.
        play.go(&[Admit(D), View(A, v(2)), View(B, v(2)), View(D, v(2))]);
        play.pump(A, D);
        play.go(&[Publish, to(A, B), Switch(seat(B)), View(B, v(3)), Attach(v(3))]);
        play.pump(B, D);
        play.hear();
        play.expect("D holds the tail, A and C have not acknowledged it", |w| {
            last(w, D) == last(w, B) && committed(w) == 0
        });
        play.expect("the attach waits", |w| w.router().attached().is_none());
        play.expect("and D is not proposed", |w| w.ready().is_empty());
        play.pump(B, A);
        play.expect("nor do they come while C lacks it", |w| committed(w) == 0 && w.ready().is_empty());
        play.pump(B, C);
        play.hear();
        play.expect("both come once the tail is committed", |w| {
            committed(w) == 1 && w.router().attached().is_some() && w.ready().len() == 1
        });
        play
    }
    run(history, Mutant::Slot(Rule::CommitsTailFirst));
}

#[test]
fn a_learners_divergent_tail_is_taken_for_progress() {
    let mut play = Play::new(None, 3, 2);
    play.go(&[Admit(C), View(A, v(2)), View(B, v(2)), View(C, v(2))]);
    play.pump(A, C);
    // Only the learner has the entry. B becomes primary, and takes the publish anew.
    play.go(&[Publish, to(A, C), Switch(seat(B)), View(B, v(3)), View(A, v(3))]);
    play.expect("the learner is ahead of its primary", |w| last(w, C) > last(w, B));
    play.pump(B, A);
    play.go(&[Attach(v(3))]);
    play.hear();
    play.expect("B has another entry there", |w| last(w, C) == last(w, B) && committed(w) == 0);
    play.expect("nothing of C counts yet", |w| {
        process(w, B).slot().led().is_some_and(|led| led.matched().keys().all(|s| s.incarnation == A))
    });
    play.go(&[to(B, C), back(B, C), to(B, C), back(B, C), back(A, C)]);
    play.pump(B, C);
    play.pump(B, A);
    play.expect("C holds B's log, and is proposed", |w| {
        let entry = |p| process(w, p).slot().held().and_then(|h| h.entry(Lsn(3)).cloned());
        entry(C) == entry(B) && committed(w) == 1 && w.ready().iter().any(|r| r.seat.incarnation == C)
    });
    play.well();
}

#[test]
fn a_replica_acknowledges_before_it_sees_its_own_removal() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 2, 2);
        play.go(&[Remove(seat(B)), Admit(B), Publish, to(A, B), back(A, B)]);
        play.expect("neither knows: A counts the old seat, and holds it itself", |w| commit(w, A) == Lsn(3));
        play.go(&[View(B, v(3)), View(A, v(3))]);
        play.expect("the new seat is empty, and nothing counts for it", |w| {
            let matched = process(w, A).slot().led().is_some_and(|led| led.matched().is_empty());
            matched && process(w, B).slot().held().is_some_and(|h| !h.is_filled())
        });
        play.go(&[Publish, Tick(A)]);
        play.expect("A goes on alone", |w| committed(w) == 2);
        play.pump(A, B);
        play.expect("B is proposed once it has caught up", |w| w.ready().iter().any(|r| r.seat.incarnation == B));
        play
    }
    run(history, Mutant::SeatReused);
}

#[test]
fn a_wrongly_evicted_primary_holds_an_old_acknowledgement_of_a_replica_whose_restart_allowed_recreate() {
    fn history(mutant: Option<Mutant>) -> Play {
        let mut play = Play::new(mutant, 2, 2);
        play.go(&[Publish, to(A, B), Evict(A), Crash(B), Restart(2), Admit(B2)]);
        play.expect("the only copy is proved dead, but A may still have contact", |_| !play.can(Recreate(B2)));
        if mutant.is_none() {
            play.go(&[Expire(A)]);
        }
        play.go(&[Recreate(B2), View(B2, v(4)), back(A, B)]);
        play.hear();
        play.expect("A holds what it waited for, and says nothing", |w| committed(w) == 0 && acknowledged(w) == 0);
        play
    }
    run(history, Mutant::RecreateUnsettled);
}
