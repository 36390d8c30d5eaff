//! What clients did and were told, in one order: the only thing the checker looks at.
//!
//! As text it is one JSON object a line, such as `{"at_us":17,"client":"c1","what":"message","room":"lobby","offset":3,"data":"\"hi\""}`.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// A position in a room's history.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The history's name.
    pub epoch: String,
    /// The last publication counted in.
    pub offset: u64,
}

/// What a run is said to have been; some rules hold only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// No slot lost every in-sync replica: at most one node died at a time, with the slots fully replicated.
    NoLoss,
    /// No router and no client was killed: every socket must stay.
    SocketsStay,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The connection is up.
    Opened {
        /// Of this user.
        user: String,
    },
    /// The connection ended.
    Closed {
        /// Close code, if there was one.
        code: Option<u16>,
        /// The client wanted it.
        wanted: bool,
    },
    /// A subscribe went out.
    Subscribing {
        /// The room.
        room: String,
        /// Continue after this.
        recover: Option<Position>,
    },
    /// It was granted.
    Subscribed {
        /// The room.
        room: String,
        /// Where the client stands now.
        position: Position,
        /// It had asked to recover.
        was_recovering: bool,
        /// It was promised that nothing is missing.
        recovered: bool,
    },
    /// A publication, live or recovered.
    Message {
        /// The room.
        room: String,
        /// Its place in the epoch of the subscription.
        offset: u64,
        /// The payload as JSON text.
        data: String,
    },
    /// Somebody came.
    Joined {
        /// The room.
        room: String,
        /// Id of the connection.
        who: String,
    },
    /// Somebody went.
    Left {
        /// The room.
        room: String,
        /// Id of the connection.
        who: String,
    },
    /// The server ended the subscription.
    Unsubscribed {
        /// The room.
        room: String,
        /// Why.
        code: u32,
    },
    /// The client ended the subscription.
    Gone {
        /// The room.
        room: String,
    },
    /// A publish went out.
    Sent {
        /// The room.
        room: String,
        /// Names it among the client's publishes.
        number: u64,
        /// The payload as JSON text, unlike that of any other publish.
        data: String,
        /// Id that makes a retry harmless, if one was given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// It is in the room.
    Acked {
        /// Which.
        number: u64,
        /// Where, if the answer said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Position>,
    },
    /// It is not in the room and never will be.
    Refused {
        /// Which.
        number: u64,
        /// The error.
        code: u32,
    },
    /// Nobody knows.
    Unknown {
        /// Which.
        number: u64,
        /// The error; 0 if the connection ended first.
        code: u32,
    },
    /// Answer to the question who is in a room.
    Presence {
        /// The room.
        room: String,
        /// Ids of connections.
        clients: Vec<String>,
    },
    /// Said by the driver of the run.
    Claimed {
        /// What the run was.
        claim: Claim,
    },
    /// Said by the driver: faults are over, everything has settled, nobody comes or goes any more.
    Calm,
}

impl What {
    /// The room it is about.
    pub fn room(&self) -> Option<&str> {
        match self {
            Self::Subscribing { room, .. }
            | Self::Subscribed { room, .. }
            | Self::Message { room, .. }
            | Self::Joined { room, .. }
            | Self::Left { room, .. }
            | Self::Unsubscribed { room, .. }
            | Self::Gone { room }
            | Self::Sent { room, .. }
            | Self::Presence { room, .. } => Some(room),
            Self::Opened { .. }
            | Self::Closed { .. }
            | Self::Acked { .. }
            | Self::Refused { .. }
            | Self::Unknown { .. }
            | Self::Claimed { .. }
            | Self::Calm => None,
        }
    }
}

/// One thing that happened, when, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Time since some beginning, µs; for people. What counts is the order of lines.
    pub at_us: u64,
    /// Id of the connection; empty for what the driver says.
    pub client: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// A run. Lines are in the order in which they happened, seen by one clock: what was received before something was sent
/// comes before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recording {
    /// In order.
    pub lines: Vec<Line>,
}

impl Recording {
    /// Reads JSON lines; empty ones are skipped.
    ///
    /// # Errors
    /// If it can't be read, or a line is no such object; the error names the line.
    pub fn read(from: impl BufRead) -> io::Result<Self> {
        let mut lines = Vec::new();
        for (number, text) in (1..).zip(from.lines()) {
            let text = text?;
            if text.trim().is_empty() {
                continue;
            }
            let line = serde_json::from_str(&text).map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("line {number} is no event of a recording: {e}"))
            })?;
            lines.push(line);
        }
        Ok(Self { lines })
    }

    /// Writes JSON lines.
    ///
    /// # Errors
    /// If `to` does not take them.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        for line in &self.lines {
            serde_json::to_writer(&mut to, line)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    }

    /// Puts what several clients noted into one order; notes come with their places in it.
    pub fn gather(notes: impl IntoIterator<Item = Vec<(u64, Line)>>) -> Self {
        let mut all: Vec<(u64, Line)> = notes.into_iter().flatten().collect();
        all.sort_by_key(|(order, _)| *order);
        Self { lines: all.into_iter().map(|(_, line)| line).collect() }
    }

    /// What there is in it about one room, with connections that open and close and what the driver said.
    pub fn room(self, name: &str) -> Self {
        let mut numbers = BTreeSet::new();
        let mut about = |line: &Line| match &line.what {
            What::Sent { room, number, .. } => {
                let here = room == name;
                if here {
                    numbers.insert((line.client.clone(), *number));
                }
                here
            }
            What::Acked { number, .. } | What::Refused { number, .. } | What::Unknown { number, .. } => {
                numbers.contains(&(line.client.clone(), *number))
            }
            what => what.room().is_none_or(|room| room == name),
        };
        Self { lines: self.lines.into_iter().filter(|line| about(line)).collect() }
    }

    /// Adds a line of the driver at the end.
    pub fn say(&mut self, what: What) {
        let at_us = self.lines.last().map_or(0, |l| l.at_us);
        self.lines.push(Line { at_us, client: String::new(), what });
    }
}
