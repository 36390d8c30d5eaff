//! A load process: very many clients on one thread, who count what they receive instead of reading it.
//!
//! It is told by lines on standard input what to do. All members of a room are in one process, so it knows by itself how
//! many deliveries are under way.

mod conn;
pub(crate) mod dialect;
pub(crate) mod frame;
pub(crate) mod order;
mod pacer;

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use conn::{Conn, Place, Tally};
use dialect::{Dialect, FIRST_ID};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use order::{Crowd, Order, Report};
use pacer::Pacer;

use crate::histogram::Histogram;

/// Read at once: more than one connection ever has waiting, so that a short read tells that the socket is empty.
const BUFFER: usize = 1 << 20;
/// Connections that share a source address; each has a port of its own there.
const PER_ADDRESS: usize = 5_000;
/// Time that messages under way have to arrive after the last publish.
const ARRIVE: Duration = Duration::from_secs(15);
/// Time for something that should not come.
const EXTRA: Duration = Duration::from_millis(100);
/// Faults that are told; of the rest only the number.
const TOLD: usize = 3;

/// Deliveries under way while something is said in every room.
const SAYING: u64 = 2_000;
/// Time that this may take.
const SAID: Duration = Duration::from_secs(60);

/// Numbers of publishes begin above those of all subscribes.
const PUBLISHES: u64 = 1_000_000;

const ORDERS: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);
const CONTROL: Token = Token(usize::MAX - 3);

/// Something is being said in every room.
#[derive(Debug, Clone, Copy)]
struct Saying {
    since: Instant,
    /// The next connection that says something.
    speaker: usize,
    /// Deliveries before.
    before: u64,
}

struct Load {
    poll: Poll,
    crowd: Crowd,
    conns: Vec<Conn>,
    /// The floor's connection of publishes.
    control: Option<Conn>,
    pacer: Pacer,
    tally: Tally,
    /// What the tally was at the last mark.
    marked: (u64, u64),
    clock: Instant,
    /// When connecting or subscribing began, and how many have not answered.
    joining: Option<(Instant, usize)>,
    /// More rooms of each connection, and the number of the first of all of them.
    more: (usize, usize),
    /// The next connection that subscribes to them.
    subscriber: Option<usize>,
    saying: Option<Saying>,
    stopping: Option<Instant>,
    faults: Vec<String>,
    fault_count: usize,
    scratch: Vec<u8>,
    /// The number of the next room of which nobody is a member.
    fresh_room: usize,
}

/// Runs until standard input ends.
pub(crate) fn run() -> std::io::Result<()> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), ORDERS)?;
    let (tx, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = serde_json::from_str::<Order>(&line).expect("the benchmark speaks our language");
            if tx.send(order).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(tx);
        let _ = waker.wake();
    });
    let crowd = Crowd {
        dialect: Dialect::Plain,
        targets: Vec::new(),
        first_room: 0,
        rooms: 0,
        members: 0,
        at_once: 0,
        source: 0,
    };
    let load = Load {
        poll,
        crowd,
        conns: Vec::new(),
        control: None,
        pacer: Pacer::new(0, 0)?,
        tally: Tally::default(),
        marked: (0, 0),
        clock: Instant::now(),
        joining: None,
        more: (0, 0),
        subscriber: None,
        saying: None,
        stopping: None,
        faults: Vec::new(),
        fault_count: 0,
        scratch: Vec::new(),
        fresh_room: 0,
    };
    load.run(&orders)
}

fn tell(report: &Report) {
    let line = serde_json::to_string(report).expect("reports are plain data");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the benchmark listens");
}

impl Load {
    fn run(mut self, orders: &mpsc::Receiver<Order>) -> std::io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER];
        loop {
            let wait = (self.stopping.is_some() || self.saying.is_some()).then_some(Duration::from_millis(10));
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    ORDERS => loop {
                        match orders.try_recv() {
                            Ok(order) => self.on_order(order)?,
                            Err(mpsc::TryRecvError::Empty) => break,
                            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
                        }
                    },
                    TIMER => self.pacer.on_timer(),
                    CONTROL => self.flush_control(),
                    Token(n) => self.on_event(n, event, &mut buffer),
                }
            }
            self.publish();
            self.say();
            self.on_time();
        }
    }

    fn on_order(&mut self, order: Order) -> std::io::Result<()> {
        match order {
            Order::Connect(crowd) => self.connect(crowd)?,
            Order::Run { payload, pace } => {
                self.pacer.start(payload, pace)?;
                let timer = self.pacer.timer().as_raw_fd();
                let _ = self.poll.registry().deregister(&mut SourceFd(&timer));
                self.poll.registry().register(&mut SourceFd(&timer), TIMER, Interest::READABLE)?;
            }
            Order::Mark => {
                let (came, reads) = (self.tally.came, self.tally.reads);
                tell(&Report::Marked {
                    deliveries: came - self.marked.0,
                    reads: reads - self.marked.1,
                    latency: std::mem::take(&mut self.tally.latency),
                });
                self.marked = (came, reads);
            }
            Order::Stop => {
                self.pacer.stop();
                self.stopping = Some(Instant::now());
            }
            Order::Subscribe { more } => self.subscribe(more),
            Order::Say => {
                self.saying = Some(Saying { since: Instant::now(), speaker: 0, before: self.tally.came });
                self.tally.latency = Histogram::default();
            }
            Order::Close => {
                self.conns.clear();
                self.control = None;
                tell(&Report::Closed);
            }
        }
        Ok(())
    }

    fn connect(&mut self, crowd: Crowd) -> std::io::Result<()> {
        self.pacer = Pacer::new(crowd.rooms, crowd.members)?;
        self.tally = Tally::default();
        self.marked = (0, 0);
        self.faults.clear();
        self.fault_count = 0;
        // Also of those who were there before.
        self.fresh_room = self.fresh_room.max(crowd.first_room + crowd.rooms);
        (self.more, self.subscriber, self.saying) = ((0, 0), None, None);
        self.crowd = crowd;
        let total = self.crowd.rooms * self.crowd.members;
        self.joining = Some((Instant::now(), total));
        if self.crowd.dialect == Dialect::Floor {
            let mut control = Conn::open(self.crowd.targets[0], self.source(0))?;
            self.poll.registry().register(&mut control.socket, CONTROL, Interest::WRITABLE)?;
            let sizes = [crate::floor::CONTROL, self.crowd.rooms as u32, self.crowd.members as u32];
            let hello: Vec<u8> = sizes.into_iter().flat_map(u32::to_le_bytes).collect();
            std::thread::sleep(EXTRA);
            if let Err(e) = control.send(&hello) {
                tell(&Report::Failed(e));
            }
            self.control = Some(control);
        }
        for _ in 0..self.crowd.at_once.min(total) {
            self.open_next();
        }
        Ok(())
    }

    fn source(&self, number: usize) -> Ipv4Addr {
        Ipv4Addr::new(127, self.crowd.source, (number / PER_ADDRESS) as u8, 1)
    }

    fn open_next(&mut self) {
        let number = self.conns.len();
        if number == self.crowd.rooms * self.crowd.members {
            return;
        }
        let target = self.crowd.targets[number % self.crowd.targets.len()];
        let opened = Conn::open(target, self.source(number)).and_then(|mut conn| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut conn.socket, Token(number), interest)?;
            Ok(conn)
        });
        match opened {
            Ok(conn) => self.conns.push(conn),
            Err(e) => tell(&Report::Failed(format!("connection {number}: {e}"))),
        }
    }

    fn place(&self, number: usize) -> Place {
        let members = self.crowd.members;
        Place { room: self.crowd.first_room + number / members, member: number % members }
    }

    fn on_event(&mut self, number: usize, event: &mio::event::Event, buffer: &mut [u8]) {
        let (place, dialect) = (self.place(number), self.crowd.dialect);
        let Some(conn) = self.conns.get_mut(number) else { return };
        let mut done = Ok(false);
        if event.is_writable() {
            // The floor's connections have their number within the process.
            done = conn.on_writable(place, number, dialect).map(|()| false);
        }
        if event.is_readable() && done.is_ok() {
            done = conn.on_readable(place, dialect, buffer, &mut self.tally, self.clock);
        }
        match done {
            Ok(false) => {}
            Ok(true) => self.on_joined(),
            Err(why) => {
                let _ = self.poll.registry().deregister(&mut conn.socket);
                self.fault(format!("connection {number}: {why}"));
            }
        }
    }

    fn on_joined(&mut self) {
        let Some((since, left)) = &mut self.joining else { return };
        *left -= 1;
        if *left == 0 {
            tell(&Report::Connected { seconds: since.elapsed().as_secs_f64() });
            (self.joining, self.subscriber) = (None, None);
        } else if self.subscriber.is_some() {
            self.subscribe_next();
        } else {
            self.open_next();
        }
    }

    fn fault(&mut self, why: String) {
        self.fault_count += 1;
        if self.joining.is_some() {
            tell(&Report::Failed(why));
        } else if self.faults.len() < TOLD {
            self.faults.push(why);
        }
    }

    fn subscribe(&mut self, more: usize) {
        self.joining = Some((Instant::now(), self.conns.len()));
        self.more = (more, self.fresh_room);
        self.fresh_room += self.crowd.rooms * more;
        self.subscriber = Some(0);
        for _ in 0..self.crowd.at_once.min(self.conns.len()) {
            self.subscribe_next();
        }
    }

    /// The rooms beside its own of a connection.
    fn more_rooms(&self, number: usize) -> std::ops::Range<usize> {
        let (more, first) = self.more;
        let first = first + number / self.crowd.members * more;
        first..first + more
    }

    fn subscribe_next(&mut self) {
        let Some(number) = self.subscriber.filter(|number| *number < self.conns.len()) else { return };
        self.subscriber = Some(number + 1);
        self.scratch.clear();
        for (n, room) in self.more_rooms(number).enumerate() {
            if !self.crowd.dialect.subscribe(room, FIRST_ID + 1 + n as u64, &mut self.scratch) {
                return tell(&Report::Failed("one room a connection".to_owned()));
            }
        }
        self.conns[number].joining = self.more.0;
        if let Err(why) = self.conns[number].send(&self.scratch) {
            self.fault(why);
        }
    }

    /// Publishes in the rooms that every connection has beside its own, as fast as it comes back.
    fn say(&mut self) {
        let Some(Saying { since, speaker, before }) = self.saying else { return };
        let (mut speaker, came) = (speaker, self.tally.came - before);
        let each = (self.more.0 * self.crowd.members) as u64;
        while speaker < self.conns.len() && (speaker as u64 * each).saturating_sub(came) < SAYING {
            self.scratch.clear();
            let now = self.clock.elapsed().as_nanos();
            let payload = format!("{{\"t\":\"{}{now:016x}\"}}", char::from(conn::MARKER));
            for (n, room) in self.more_rooms(speaker).enumerate() {
                self.crowd.dialect.publish(room, PUBLISHES + n as u64, payload.as_bytes(), &mut self.scratch);
            }
            if let Err(why) = self.conns[speaker].send(&self.scratch) {
                self.fault(format!("connection {speaker}: {why}"));
            }
            speaker += 1;
        }
        self.saying = Some(Saying { since, speaker, before });
        let due = self.conns.len() as u64 * each;
        if came >= due || since.elapsed() >= SAID {
            self.saying = None;
            let mut faults = std::mem::take(&mut self.faults);
            if self.fault_count > faults.len() {
                faults.push(format!("{} faults in all", self.fault_count));
            }
            let latency = std::mem::take(&mut self.tally.latency);
            tell(&Report::Said { due, came, seconds: since.elapsed().as_secs_f64(), latency, faults });
        }
    }

    /// Publishes whatever is due.
    fn publish(&mut self) {
        let under_way = |load: &Self| load.pacer.due().saturating_sub(load.tally.came);
        let mut published = false;
        while let Some(next) = self.pacer.next(under_way(self)) {
            published = true;
            self.scratch.clear();
            let now = self.clock.elapsed().as_nanos() as u64;
            let payload = self.pacer.payload(now);
            let dialect = self.crowd.dialect;
            if let Some(control) = &mut self.control {
                dialect.publish(next.room, 0, payload, &mut self.scratch);
                control.hold(&self.scratch);
                continue;
            }
            dialect.publish(self.crowd.first_room + next.room, PUBLISHES + next.number, payload, &mut self.scratch);
            let number = next.room * self.crowd.members + next.member;
            if let Err(why) = self.conns[number].send(&self.scratch) {
                self.fault(format!("connection {number}: {why}"));
            }
        }
        if published {
            self.flush_control();
        }
    }

    fn flush_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        if let Err(why) = control.flush() {
            self.fault(format!("the floor's publishes: {why}"));
        }
    }

    fn on_time(&mut self) {
        let Some(since) = self.stopping else { return };
        let (due, came) = (self.pacer.due(), self.tally.came);
        if since.elapsed() < EXTRA || (came < due && since.elapsed() < ARRIVE) {
            return;
        }
        self.stopping = None;
        let members = self.crowd.members;
        let wrong = |(number, conn): &(usize, &Conn)| conn.received != self.pacer.sent(number / members);
        let wrong = self.conns.iter().enumerate().filter(wrong).count();
        let mut faults = std::mem::take(&mut self.faults);
        if self.fault_count > faults.len() {
            faults.push(format!("{} faults in all", self.fault_count));
        }
        tell(&Report::Stopped { due, came, wrong, faults, late: self.pacer.late() });
    }
}
