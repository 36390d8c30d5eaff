//! Decides when which member publishes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::conn::{MARKER, STAMP};
use super::order::Pace;

/// Shortest interval of the timer; more than one message may be due at a tick.
const TICK: Duration = Duration::from_micros(500);

/// Whose turn it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    pub(crate) room: usize,
    pub(crate) member: usize,
    /// Another for each message of the room.
    pub(crate) number: u64,
}

/// Rooms take turns, and in each room its members.
#[derive(Debug)]
pub(crate) struct Pacer {
    members: usize,
    /// Messages published in each room.
    sent: Vec<u64>,
    due: u64,
    room: usize,
    pace: Option<Pace>,
    since: Instant,
    /// Messages since then.
    count: u64,
    late: Duration,
    payload: Vec<u8>,
    timer: TimerFd,
}

impl Pacer {
    pub(crate) fn new(rooms: usize, members: usize) -> std::io::Result<Self> {
        Ok(Self {
            members,
            sent: vec![0; rooms],
            due: 0,
            room: 0,
            pace: None,
            since: Instant::now(),
            count: 0,
            late: Duration::ZERO,
            payload: Vec::new(),
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?,
        })
    }

    /// Begins, with payloads of so many bytes.
    pub(crate) fn start(&mut self, payload: usize, pace: Pace) -> std::io::Result<()> {
        let mut text = format!("{{\"t\":\"{}{}\",\"text\":\"", char::from(MARKER), "0".repeat(STAMP)).into_bytes();
        text.resize(payload.max(text.len() + 2) - 2, b'x');
        text.extend(b"\"}");
        self.payload = text;
        self.pace = Some(pace);
        (self.since, self.count, self.late) = (Instant::now(), 0, Duration::ZERO);
        match pace {
            Pace::Rate(_) => {
                let tick = Expiration::Interval(TimeSpec::from_duration(self.interval().max(TICK)));
                self.timer.set(tick, TimerSetTimeFlags::empty())?;
            }
            Pace::Backlog(_) => self.timer.unset()?,
        }
        Ok(())
    }

    /// The payload with a time.
    pub(crate) fn payload(&mut self, now: u64) -> &[u8] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        const AT: usize = r#"{"t":"|"#.len();
        for place in 0..STAMP {
            self.payload[AT + place] = DIGITS[(now >> (60 - 4 * place)) as usize & 15];
        }
        &self.payload
    }

    /// No more.
    pub(crate) fn stop(&mut self) {
        self.pace = None;
    }

    /// Who publishes now; `None` if it is not the time. A `Some` counts as published.
    pub(crate) fn next(&mut self, under_way: u64) -> Option<Next> {
        match self.pace? {
            Pace::Backlog(most) => {
                if under_way > 0 && under_way + self.members as u64 > most {
                    return None;
                }
            }
            Pace::Rate(_) => {
                let when = self.interval().mul_f64(self.count as f64);
                let lag = self.since.elapsed().checked_sub(when)?;
                self.late = self.late.max(lag);
            }
        }
        let room = self.room;
        self.room = (room + 1) % self.sent.len();
        let member = (self.sent[room] % self.members as u64) as usize;
        self.sent[room] += 1;
        self.count += 1;
        self.due += self.members as u64;
        Some(Next { room, member, number: self.sent[room] })
    }

    fn interval(&self) -> Duration {
        match self.pace {
            Some(Pace::Rate(rate)) => Duration::from_secs_f64(self.members as f64 / rate),
            _ => Duration::ZERO,
        }
    }

    /// Deliveries that everything published leads to.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Messages published in a room.
    pub(crate) fn sent(&self, room: usize) -> u64 {
        self.sent[room]
    }

    /// How late the latest publish was, in ns.
    pub(crate) fn late(&self) -> u64 {
        self.late.as_nanos() as u64
    }

    /// To be polled; only what is due at its ticks is published.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Makes the timer ready for the next tick.
    pub(crate) fn on_timer(&self) {
        // Without this an edge-triggered poll would not tell of the next tick; it never blocks, and fails only if it was no tick.
        let _ = self.timer.wait();
    }
}
