//! Where a slot's router side stands: attached to which primary, or on its way there. Pure.
//!
//! Follows the placement and what nodes say of it. Which rooms are attached, and what is delivered, is left to [`super::slot`].

use std::time::Duration;

use roomring_control::clock::Time;
use roomring_proto::{Generation, Incarnation, Term};

/// First wait after a node said that it cannot serve the slot; doubles up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(20);

/// Longest such wait: as often as this the slot is tried while nothing else changes.
const BACK_OFF_MAX: Duration = Duration::from_millis(500);

/// An attach that is not answered by then is sent again: a primary that was not promoted yet may have let it fall.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// One link to one node process. Sessions rise within this router process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// The node process.
    pub node: Incarnation,
    /// Which of the links there.
    pub session: u64,
}

/// Where the placement says the slot is, and the link there, if open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The primary's process.
    pub primary: Incarnation,
    /// The slot's term.
    pub term: Term,
    /// The open link there.
    pub session: Option<u64>,
}

impl Route {
    fn link(&self) -> Option<Link> {
        self.session.map(|session| Link { node: self.primary, session })
    }
}

/// An attachment that a primary confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Attached {
    pub(super) link: Link,
    pub(super) term: Term,
    pub(super) generation: Generation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Unattached,
    Attaching { link: Link, attach_id: u64, term_seen: Term, since: Time },
    Attached(Attached),
}

/// A slot's attachment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Attachment {
    route: Option<Route>,
    state: State,
    /// Highest term heard of, from the placement or a node.
    term_seen: Term,
    back_off: Duration,
    retry_at: Option<Time>,
}

impl Attachment {
    pub(super) fn new() -> Self {
        Self { route: None, state: State::Unattached, term_seen: Term(0), back_off: BACK_OFF_MIN, retry_at: None }
    }

    pub(super) fn term_seen(&self) -> Term {
        self.term_seen
    }

    /// The confirmed attachment, if there is one.
    pub(super) fn attached(&self) -> Option<Attached> {
        if let State::Attached(attached) = self.state { Some(attached) } else { None }
    }

    /// Whether a message from `link` is listened to: only the link that the slot is attached on, or attaching on, counts.
    pub(super) fn listens_to(&self, link: Link) -> bool {
        self.link() == Some(link)
    }

    /// The link that the slot is attached on, or attaching on.
    pub(super) fn link(&self) -> Option<Link> {
        match self.state {
            State::Unattached => None,
            State::Attaching { link, .. } => Some(link),
            State::Attached(attached) => Some(attached.link),
        }
    }

    /// Takes the placement's word. True if an attachment, confirmed or not, was given up for it.
    pub(super) fn follow(&mut self, route: Route) -> bool {
        self.term_seen = self.term_seen.max(route.term);
        let keep = match self.state {
            State::Unattached => true,
            // The node is asked with the highest term known, so that an older primary refuses instead of answering.
            State::Attaching { link, term_seen, .. } => Some(link) == route.link() && term_seen >= route.term,
            State::Attached(attached) => Some(attached.link) == route.link() && attached.term >= route.term,
        };
        if !keep {
            self.state = State::Unattached;
        }
        if self.route != Some(route) {
            // News: what was refused before may be granted now.
            self.route = Some(route);
            self.back_off = BACK_OFF_MIN;
            self.retry_at = None;
        }
        !keep
    }

    /// The link on which an attach should be sent now, if any.
    pub(super) fn ready(&self, now: Time) -> Option<Link> {
        let waits = self.retry_at.is_some_and(|at| at > now);
        if waits || !matches!(self.state, State::Unattached) {
            return None;
        }
        self.route.as_ref().and_then(Route::link)
    }

    /// An attach of the whole slot went out on `link`.
    pub(super) fn sent(&mut self, now: Time, link: Link, attach_id: u64) {
        self.retry_at = None;
        self.state = State::Attaching { link, attach_id, term_seen: self.term_seen, since: now };
    }

    /// The attach that is waited for.
    pub(super) fn awaits(&self) -> Option<u64> {
        if let State::Attaching { attach_id, .. } = self.state { Some(attach_id) } else { None }
    }

    /// The primary confirmed the attach that was waited for. False if its term is too low: then it is tried again later.
    pub(super) fn confirmed(&mut self, now: Time, term: Term, generation: Generation) -> bool {
        let State::Attaching { link, .. } = self.state else { return false };
        if term < self.term_seen {
            self.lost(now);
            return false;
        }
        self.term_seen = term;
        self.back_off = BACK_OFF_MIN;
        self.state = State::Attached(Attached { link, term, generation });
        true
    }

    /// A node named a term.
    pub(super) fn saw(&mut self, term: Term) {
        self.term_seen = self.term_seen.max(term);
    }

    /// What the node said cannot be relied on any more: it is asked again, at once.
    pub(super) fn doubt(&mut self) {
        self.state = State::Unattached;
        self.retry_at = None;
    }

    /// The node refused, or is no primary any more: tried again after a while, or at once when the placement changes.
    pub(super) fn lost(&mut self, now: Time) {
        self.state = State::Unattached;
        self.retry_at = Some(now + self.back_off);
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
    }

    /// Forgets everything: the placement has a new uid.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// True if an attach went unanswered for too long: it was given up, to be sent again at once.
    pub(super) fn overdue(&mut self, now: Time) -> bool {
        let State::Attaching { since, .. } = self.state else { return false };
        if now < since + ANSWER_WITHIN {
            return false;
        }
        self.state = State::Unattached;
        true
    }

    /// When [`Self::overdue`] or [`Self::ready`] may say something else.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        match self.state {
            State::Unattached => self.retry_at.filter(|_| self.route.is_some_and(|r| r.session.is_some())),
            State::Attaching { since, .. } => Some(since + ANSWER_WITHIN),
            State::Attached(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    fn route(primary: u64, term: u64, session: Option<u64>) -> Route {
        Route { primary: Incarnation(primary), term: Term(term), session }
    }

    fn attached(primary: u64, term: u64, session: u64) -> Attachment {
        let mut a = Attachment::new();
        a.follow(route(primary, term, Some(session)));
        let link = a.ready(at(0)).unwrap();
        a.sent(at(0), link, 1);
        assert!(a.confirmed(at(1), Term(term), Generation(1)));
        a
    }

    #[test]
    fn attaches_once_the_link_is_up() {
        let mut a = Attachment::new();
        assert_eq!(a.ready(at(0)), None);
        a.follow(route(7, 1, None));
        assert_eq!(a.ready(at(0)), None);
        a.follow(route(7, 1, Some(3)));
        assert_eq!(a.ready(at(0)), Some(Link { node: Incarnation(7), session: 3 }));
    }

    #[test]
    fn a_higher_term_another_primary_or_another_session_end_an_attachment() {
        assert!(!attached(7, 1, 3).follow(route(7, 1, Some(3))));
        assert!(attached(7, 1, 3).follow(route(7, 2, Some(3))));
        assert!(attached(7, 1, 3).follow(route(8, 2, Some(4))));
        assert!(attached(7, 1, 3).follow(route(7, 1, Some(5))));
        assert!(attached(7, 1, 3).follow(route(7, 1, None)));
        // A node may be ahead of the placement seen here.
        assert!(!attached(7, 5, 3).follow(route(7, 4, Some(3))));
    }

    #[test]
    fn an_answer_of_a_lower_term_is_not_taken() {
        let mut a = Attachment::new();
        a.follow(route(7, 4, Some(3)));
        a.sent(at(0), a.ready(at(0)).unwrap(), 1);
        assert!(!a.confirmed(at(1), Term(3), Generation(1)));
        assert_eq!(a.attached(), None);
    }

    #[test]
    fn waits_longer_each_time_it_is_refused_until_the_placement_changes() {
        let mut a = Attachment::new();
        a.follow(route(7, 1, Some(3)));
        let mut waits = Vec::new();
        for _ in 0..7 {
            a.sent(at(0), a.ready(at(0)).unwrap(), 1);
            a.lost(at(0));
            waits.push(a.next_deadline().unwrap().0.as_millis());
            a.retry_at = None;
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 500, 500]);
        a.lost(at(0));
        a.follow(route(7, 1, Some(3)));
        assert_eq!(a.ready(at(1)), None, "nothing changed");
        a.follow(route(7, 2, Some(3)));
        assert!(a.ready(at(1)).is_some());
    }

    #[test]
    fn an_unanswered_attach_is_sent_again() {
        let mut a = Attachment::new();
        a.follow(route(7, 1, Some(3)));
        a.sent(at(0), a.ready(at(0)).unwrap(), 1);
        assert!(!a.overdue(at(999)));
        assert_eq!(a.next_deadline(), Some(at(1000)));
        assert!(a.overdue(at(1000)));
        assert!(a.ready(at(1000)).is_some());
    }
}
