use super::*;

const ME: Incarnation = Incarnation(1);
const FENCE: Duration = Duration::from_secs(60);
const FRESH: Option<Duration> = Some(Duration::from_millis(200));

fn at(ms: u64) -> Time {
    Time(Duration::from_millis(1_000_000 + ms))
}

fn set(members: impl IntoIterator<Item = u64>) -> BTreeSet<Incarnation> {
    members.into_iter().map(Incarnation).collect()
}

/// A detector that has just heard `members - 1` others.
fn detector(members: u64) -> Detector {
    let mut d = Detector::new(ME, Timing::default());
    list(&mut d, 0, 1..=members);
    (2..=members).for_each(|i| hear(&mut d, 0, i));
    d
}

fn list(d: &mut Detector, ms: u64, members: impl IntoIterator<Item = u64>) {
    d.handle(at(ms), Event::Members { active: set(members), others: set([]), fence_after: FENCE }, &mut vec![]);
}

fn hear(d: &mut Detector, ms: u64, from: u64) {
    beat(d, ms, from, Duration::ZERO, Duration::ZERO);
}

fn beat(d: &mut Detector, ms: u64, from: u64, worker_age: Duration, contact_age: Duration) {
    d.handle(at(ms), Event::Heard { from: Incarnation(from), worker_age, contact_age }, &mut vec![]);
}

fn refuse(d: &mut Detector, ms: u64, who: u64) {
    d.handle(at(ms), Event::Broken(Incarnation(who)), &mut vec![]);
    d.handle(at(ms), Event::Refused(Incarnation(who)), &mut vec![]);
}

/// Another process says that it has not heard 2 for `silent` ms.
fn opinion(d: &mut Detector, ms: u64, silent: u64) {
    let silent_for = Some(Duration::from_millis(silent));
    d.handle(at(ms), Event::Opinion { about: Incarnation(2), silent_for }, &mut vec![]);
}

/// Ticks every 100 ms from `from` to `to`, with heartbeats from `heard`; returns who was asked about.
fn run(d: &mut Detector, from: u64, to: u64, heard: &[u64]) -> BTreeSet<Incarnation> {
    let mut effects = Vec::new();
    for ms in (from..=to).step_by(100) {
        heard.iter().for_each(|i| hear(d, ms, *i));
        d.handle(at(ms), Event::Tick { contact_age: FRESH }, &mut effects);
    }
    effects.into_iter().map(|Effect::Ask(i)| i).collect()
}

fn dead(d: &Detector, ms: u64) -> Vec<(u64, Cause)> {
    d.evidence(at(ms)).dead.into_iter().map(|(i, death)| (i.0, death.cause)).collect()
}

#[test]
fn a_refused_reconnect_confirms_a_crash_at_once() {
    let mut d = detector(3);
    d.handle(at(10), Event::Refused(Incarnation(2)), &mut vec![]);
    assert_eq!(dead(&d, 10), [], "its stream stands");
    d.handle(at(10), Event::Broken(Incarnation(2)), &mut vec![]);
    assert_eq!(dead(&d, 10), [], "it may be back");
    assert_eq!(d.evidence(at(10)).answering, set([3]));
    d.handle(at(11), Event::Refused(Incarnation(2)), &mut vec![]);
    assert_eq!(dead(&d, 11), [(2, Cause::Refused)]);
    assert_eq!(d.evidence(at(11)).dead[&Incarnation(2)].heard, Some(at(0)));
    assert_eq!(d.evidence(at(11)).suspects, set([2]));
    hear(&mut d, 20, 2);
    assert_eq!(dead(&d, 20), [], "it speaks");
}

#[test]
fn silence_needs_a_second_opinion() {
    let mut d = detector(3);
    assert_eq!(run(&mut d, 0, 700, &[3]), set([]));
    assert_eq!(run(&mut d, 800, 800, &[3]), set([2]));
    assert_eq!(dead(&d, 800), []);
    assert_eq!(d.evidence(at(800)).suspects, set([2]));
    opinion(&mut d, 810, 100);
    assert_eq!(dead(&d, 810), [], "another hears it");
    d.handle(at(815), Event::Opinion { about: Incarnation(2), silent_for: None }, &mut vec![]);
    assert_eq!(dead(&d, 815), [], "another knows nothing");
    opinion(&mut d, 820, 700);
    assert_eq!(dead(&d, 820), [(2, Cause::Silent)]);
    assert_eq!(d.evidence(at(820)).answering, set([3]));
}

#[test]
fn a_suspicion_is_put_to_the_others_again() {
    let mut d = detector(3);
    let mut asked = 0;
    for ms in (0..=1_400).step_by(100) {
        let mut effects = Vec::new();
        hear(&mut d, ms, 3);
        d.handle(at(ms), Event::Tick { contact_age: FRESH }, &mut effects);
        asked += effects.len();
    }
    assert_eq!(asked, 4, "at 800, 1000, 1200 and 1400 ms");
}

#[test]
fn an_opinion_that_was_not_asked_for_or_comes_too_late_kills_nobody() {
    let mut d = detector(3);
    opinion(&mut d, 100, 9_000);
    assert_eq!(dead(&d, 100), []);
    run(&mut d, 0, 900, &[3]);
    hear(&mut d, 950, 2);
    opinion(&mut d, 960, 9_000);
    assert_eq!(dead(&d, 960), []);
}

#[test]
fn a_worker_that_hangs_is_suspect_though_its_process_speaks() {
    let mut d = detector(3);
    let hang = Timing::default().hang;
    beat(&mut d, 50, 2, hang - Duration::from_millis(1), Duration::ZERO);
    assert_eq!(run(&mut d, 100, 100, &[3]), set([]));
    assert_eq!(d.silent_for(at(100), Incarnation(2)), Some(Duration::from_millis(50)), "a busy worker is no silence");
    beat(&mut d, 150, 2, hang, Duration::ZERO);
    assert_eq!(run(&mut d, 200, 200, &[3]), set([2]));
    assert_eq!(d.silent_for(at(200), Incarnation(2)), Some(hang));
    opinion(&mut d, 210, 2_000);
    assert_eq!(dead(&d, 210), [(2, Cause::Hung)]);
    beat(&mut d, 220, 2, hang, Duration::ZERO);
    assert_eq!(dead(&d, 220), [(2, Cause::Hung)], "it hangs on");
    hear(&mut d, 230, 2);
    assert_eq!(dead(&d, 230), []);
}

#[test]
fn whoever_was_held_up_itself_suspects_nobody_and_says_nothing() {
    let mut d = detector(3);
    run(&mut d, 0, 100, &[2, 3]);
    assert_eq!(d.silent_for(at(4_999), Incarnation(2)), None);
    assert_eq!(run(&mut d, 5_000, 5_000, &[]), set([]));
    assert_eq!(d.evidence(at(5_000)).suspects, set([]));
    assert_eq!(run(&mut d, 5_100, 5_700, &[3]), set([]));
    assert_eq!(run(&mut d, 5_800, 5_800, &[3]), set([2]));
    opinion(&mut d, 9_000, 2_000);
    assert_eq!(dead(&d, 9_000), [], "an answer read after a pause is about before it");
}

#[test]
fn fast_evictions_leave_half_of_the_members_of_a_window_ago() {
    let mut d = detector(5);
    [2, 3, 4].into_iter().for_each(|i| refuse(&mut d, 10, i));
    assert_eq!(dead(&d, 10).len(), 2, "3 of 5 stay");
    list(&mut d, 20, [1, 4, 5]);
    assert_eq!(dead(&d, 20), [], "4 waits for its lease");
    assert_eq!(d.evidence(at(20)).suspects, set([4]));
    assert_eq!(dead(&d, 60_019), []);
    assert_eq!(dead(&d, 60_021), [(4, Cause::Refused)], "half of 3 is 2");
}

#[test]
fn of_two_one_may_go() {
    let mut d = detector(2);
    refuse(&mut d, 10, 2);
    assert_eq!(dead(&d, 10), [(2, Cause::Refused)]);
}

#[test]
fn what_is_no_member_is_listened_to_and_not_suspected() {
    let mut d = detector(3);
    d.handle(at(0), Event::Members { active: set([1, 3]), others: set([2]), fence_after: FENCE }, &mut vec![]);
    assert_eq!(d.evidence(at(0)).answering, set([2, 3]));
    assert_eq!(run(&mut d, 0, 2_000, &[3]), set([]));
    let evidence = d.evidence(at(2_000));
    assert_eq!((evidence.answering, evidence.suspects, evidence.dead.len()), (set([3]), set([]), 0));
    hear(&mut d, 2_000, 2);
    assert_eq!(d.evidence(at(2_000)).answering, set([2, 3]), "it is back");
}

#[test]
fn cut_off_is_who_lost_etcd_while_we_had_it_all_the_time() {
    let lost = |d: &Detector, ms| d.evidence(at(ms)).cut_off;
    let mut d = detector(3);
    run(&mut d, 0, 2_900, &[2, 3]);
    beat(&mut d, 2_950, 2, Duration::ZERO, Duration::from_secs(3));
    assert_eq!(lost(&d, 2_950), set([]), "we have not been there for long enough");
    beat(&mut d, 3_000, 2, Duration::ZERO, Duration::from_secs(3));
    run(&mut d, 3_000, 3_000, &[3]);
    assert_eq!(lost(&d, 3_000), set([2]));
    beat(&mut d, 3_050, 2, Duration::ZERO, Duration::from_millis(100));
    assert_eq!((lost(&d, 3_050), d.evidence(at(3_050)).contactless), (set([]), set([])));

    // etcd was away for both, and came back here first.
    d.handle(at(3_100), Event::Tick { contact_age: Some(Duration::from_secs(2)) }, &mut vec![]);
    beat(&mut d, 3_150, 2, Duration::ZERO, Duration::from_secs(20));
    d.handle(at(3_200), Event::Tick { contact_age: FRESH }, &mut vec![]);
    assert_eq!(lost(&d, 3_200), set([]));
    assert_eq!(d.evidence(at(3_200)).contactless, set([2]), "it says so all the same");
}

#[test]
fn who_has_just_started_has_not_lost_etcd() {
    const NEVER: Duration = Duration::from_millis(u64::MAX);
    let mut d = detector(2);
    run(&mut d, 0, 4_000, &[2]);
    list(&mut d, 4_000, 1..=3);
    for ms in (4_000..7_000).step_by(100) {
        run(&mut d, ms, ms, &[2]);
        beat(&mut d, ms, 3, Duration::ZERO, NEVER);
        assert_eq!(d.evidence(at(ms)).cut_off, set([]), "it registered a moment ago");
    }
    run(&mut d, 7_000, 7_000, &[2]);
    beat(&mut d, 7_000, 3, Duration::ZERO, NEVER);
    assert_eq!(d.evidence(at(7_000)).cut_off, set([3]), "it should have contact by now");
}
