//! A recording, sorted out once for all rules: memberships, publishes, and what is where.

use std::collections::{BTreeMap, BTreeSet};

use super::recording::{Claim, Position, Recording, What};

/// Something heard in a membership.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'a> {
    /// Index of the line.
    pub line: usize,
    /// Its offset.
    pub offset: u64,
    /// The payload.
    pub data: &'a str,
}

/// How a membership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It did not.
    Open,
    /// By the server, with a code.
    Unsubscribed(u32),
    /// By the client.
    Gone,
    /// With the connection.
    Closed,
}

/// One membership, from a granted subscribe to its end.
#[derive(Debug)]
pub struct Span<'a> {
    /// Who.
    pub client: &'a str,
    /// Where.
    pub room: &'a str,
    /// Index of the line that granted it.
    pub from: usize,
    /// Index of the line of its subscribe.
    pub asked_at: Option<usize>,
    /// The position that was asked for.
    pub asked: Option<&'a Position>,
    /// The epoch.
    pub epoch: &'a str,
    /// Where it began.
    pub start: u64,
    /// It had asked to recover.
    pub was_recovering: bool,
    /// It was promised that nothing is missing.
    pub recovered: bool,
    /// What it heard.
    pub heard: Vec<Heard<'a>>,
    /// Joins (true) and leaves: line, who.
    pub presence: Vec<(usize, &'a str, bool)>,
    /// How it ended.
    pub end: End,
    /// Index of the membership before it, of the same client in the same room.
    pub before: Option<usize>,
}

/// What a publisher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It is in, there if said.
    Acked(Option<&'a Position>),
    /// It never will be.
    Refused(u32),
    /// Nobody knows.
    Unknown,
}

/// One publish.
#[derive(Debug)]
pub struct Publish<'a> {
    /// Where to.
    pub room: &'a str,
    /// Whose.
    pub client: &'a str,
    /// Its name among them.
    pub number: u64,
    /// Index of its line.
    pub line: usize,
    /// The payload.
    pub data: &'a str,
    /// Its id, if any.
    pub id: Option<&'a str>,
    /// Every answer with its line: there should be at most one.
    pub answers: Vec<(usize, Answer<'a>)>,
}

/// Where a payload was heard first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place<'a> {
    /// Epoch.
    pub epoch: &'a str,
    /// Offset.
    pub offset: u64,
    /// Index of the line.
    pub line: usize,
}

/// All of it.
#[derive(Debug, Default)]
pub struct History<'a> {
    /// The recording's claims.
    pub claims: Vec<Claim>,
    /// Memberships in the order in which they were granted.
    pub spans: Vec<Span<'a>>,
    /// Publishes in the order in which they were sent.
    pub publishes: Vec<Publish<'a>>,
    /// By room and payload: where it was heard, each place once.
    pub places: BTreeMap<(&'a str, &'a str), Vec<Place<'a>>>,
    /// How often a payload went out to a room.
    pub sends: BTreeMap<(&'a str, &'a str), usize>,
    /// Events of a room that came to a client which was not in it: line, client, room.
    pub strays: Vec<(usize, &'a str, &'a str)>,
    /// Subscribes that were granted to a client that was in already.
    pub twice: Vec<(usize, &'a str, &'a str)>,
    /// Epochs of a room that some client saw follow each other.
    pub successions: BTreeSet<(&'a str, &'a str, &'a str)>,
    /// Connections that ended though the client did not want it: line, client, code.
    pub cut: Vec<(usize, &'a str, Option<u16>)>,
    /// Answers to presence questions after the driver said that all is calm: line, client, room, who.
    pub presence: Vec<(usize, &'a str, &'a str, BTreeSet<&'a str>)>,
    /// Answers to publishes that were never sent.
    pub unasked: Vec<(usize, &'a str, u64)>,
}

impl<'a> History<'a> {
    /// Sorts out a recording.
    pub fn of(recording: &'a Recording) -> Self {
        let mut sorter = Sorter::default();
        for (line, event) in recording.lines.iter().enumerate() {
            sorter.take(line, &event.client, &event.what);
        }
        sorter.history
    }

    /// Memberships that are open at the end of the recording, each with the unbroken run of recovered ones before it,
    /// oldest first.
    pub fn standing(&self) -> impl Iterator<Item = Vec<&Span<'a>>> {
        self.spans.iter().filter(|s| s.end == End::Open).map(|last| {
            let mut run = vec![last];
            let mut at = last;
            while at.was_recovering
                && at.recovered
                && let Some(before) = at.before
            {
                at = &self.spans[before];
                run.push(at);
            }
            run.reverse();
            run
        })
    }

    /// Whether that payload went out once only, so that it names one publish.
    pub fn is_one(&self, room: &'a str, data: &'a str) -> bool {
        self.sends.get(&(room, data)) == Some(&1)
    }

    /// Where a publish is, as heard or else as acknowledged.
    pub fn place_of(&self, publish: &Publish<'a>) -> Option<(&'a str, u64)> {
        let heard = self.places.get(&(publish.room, publish.data)).and_then(|p| p.first());
        heard.map(|p| (p.epoch, p.offset)).or_else(|| {
            publish.answers.iter().find_map(|(_, a)| match a {
                Answer::Acked(Some(p)) => Some((p.epoch.as_str(), p.offset)),
                _ => None,
            })
        })
    }

    /// Whether some client saw `later` follow `earlier` in that room, directly or through others.
    pub fn is_later(&self, room: &'a str, earlier: &'a str, later: &'a str) -> bool {
        let mut seen = BTreeSet::from([earlier]);
        let mut open = vec![earlier];
        while let Some(epoch) = open.pop() {
            let next = self.successions.range((room, epoch, "")..).take_while(|(r, e, _)| (*r, *e) == (room, epoch));
            for (_, _, l) in next.copied() {
                if l == later {
                    return true;
                }
                if seen.insert(l) {
                    open.push(l);
                }
            }
        }
        false
    }
}

impl Publish<'_> {
    /// Its acknowledgement.
    pub fn is_acked(&self) -> bool {
        self.answers.iter().any(|(_, a)| matches!(a, Answer::Acked(_)))
    }
}

#[derive(Default)]
struct Sorter<'a> {
    history: History<'a>,
    /// Open memberships.
    open: BTreeMap<(&'a str, &'a str), usize>,
    /// The latest membership, open or not.
    latest: BTreeMap<(&'a str, &'a str), usize>,
    /// Subscribes that wait for their answer.
    asked: BTreeMap<(&'a str, &'a str), (usize, Option<&'a Position>)>,
    publishes: BTreeMap<(&'a str, u64), usize>,
    calm: bool,
}

impl<'a> Sorter<'a> {
    fn take(&mut self, line: usize, client: &'a str, what: &'a What) {
        let history = &mut self.history;
        match what {
            What::Opened { .. } => {}
            What::Closed { code, wanted } => {
                if !wanted {
                    history.cut.push((line, client, *code));
                }
                let theirs: Vec<_> = self.open.keys().filter(|(c, _)| *c == client).copied().collect();
                for key in theirs {
                    self.end(key, End::Closed);
                }
            }
            What::Subscribing { room, recover } => {
                self.asked.insert((client, room), (line, recover.as_ref()));
            }
            What::Subscribed { room, position, was_recovering, recovered } => {
                let key = (client, room.as_str());
                if self.open.contains_key(&key) {
                    history.twice.push((line, client, room));
                }
                let asked = self.asked.remove(&key);
                let before = self.latest.get(&key).copied();
                if let Some(old) = before.map(|b| history.spans[b].epoch).filter(|old| old != &position.epoch) {
                    history.successions.insert((room, old, &position.epoch));
                }
                self.open.insert(key, history.spans.len());
                self.latest.insert(key, history.spans.len());
                history.spans.push(Span {
                    client,
                    room,
                    from: line,
                    asked_at: asked.map(|(at, _)| at),
                    asked: asked.and_then(|(_, position)| position),
                    epoch: &position.epoch,
                    start: position.offset,
                    was_recovering: *was_recovering,
                    recovered: *recovered,
                    heard: Vec::new(),
                    presence: Vec::new(),
                    end: End::Open,
                    before,
                });
            }
            What::Message { room, offset, data } => {
                let Some(span) = self.span(line, client, room) else { return };
                span.heard.push(Heard { line, offset: *offset, data });
                let epoch = span.epoch;
                let places = self.history.places.entry((room, data)).or_default();
                if !places.iter().any(|p| (p.epoch, p.offset) == (epoch, *offset)) {
                    places.push(Place { epoch, offset: *offset, line });
                }
            }
            What::Joined { room, who } => {
                if let Some(span) = self.span(line, client, room) {
                    span.presence.push((line, who, true));
                }
            }
            What::Left { room, who } => {
                if let Some(span) = self.span(line, client, room) {
                    span.presence.push((line, who, false));
                }
            }
            What::Unsubscribed { room, code } => self.end((client, room), End::Unsubscribed(*code)),
            What::Gone { room } => self.end((client, room), End::Gone),
            What::Sent { room, number, data, id } => {
                self.publishes.insert((client, *number), history.publishes.len());
                *history.sends.entry((room, data)).or_default() += 1;
                let id = id.as_deref();
                let (number, answers) = (*number, Vec::new());
                history.publishes.push(Publish { room, client, number, line, data, id, answers });
            }
            What::Acked { number, place } => self.answer(line, client, *number, Answer::Acked(place.as_ref())),
            What::Refused { number, code } => self.answer(line, client, *number, Answer::Refused(*code)),
            What::Unknown { number, .. } => self.answer(line, client, *number, Answer::Unknown),
            What::Presence { room, clients } => {
                if self.calm {
                    let who = clients.iter().map(String::as_str).collect();
                    history.presence.push((line, client, room, who));
                }
            }
            What::Claimed { claim } => history.claims.push(*claim),
            What::Calm => self.calm = true,
        }
    }

    fn span(&mut self, line: usize, client: &'a str, room: &'a str) -> Option<&mut Span<'a>> {
        let Some(at) = self.open.get(&(client, room)) else {
            self.history.strays.push((line, client, room));
            return None;
        };
        self.history.spans.get_mut(*at)
    }

    fn end(&mut self, key: (&'a str, &'a str), end: End) {
        if let Some(at) = self.open.remove(&key) {
            self.history.spans[at].end = end;
        }
    }

    fn answer(&mut self, line: usize, client: &'a str, number: u64, answer: Answer<'a>) {
        match self.publishes.get(&(client, number)) {
            Some(at) => self.history.publishes[*at].answers.push((line, answer)),
            None => self.history.unasked.push((line, client, number)),
        }
    }
}
