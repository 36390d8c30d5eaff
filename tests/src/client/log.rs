//! What one client was told about one room, in order.

use std::collections::BTreeMap;

/// Another client, as pushes name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The user.
    pub user: String,
    /// The connection.
    pub client: String,
}

/// One thing it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is in, and stands at this position.
    Subscribed {
        /// The room's history.
        epoch: String,
        /// The last publication that it has.
        offset: u64,
        /// It asked to recover.
        was_recovering: bool,
        /// It was promised that nothing is missing.
        recovered: bool,
    },
    /// A message, recovered or live.
    Message {
        /// Its place.
        offset: u64,
        /// The payload, as JSON text.
        data: String,
        /// Who said it.
        from: Option<Member>,
        /// What is said of it beside.
        tags: BTreeMap<String, String>,
    },
    /// Somebody came.
    Joined(Member),
    /// Somebody went.
    Left(Member),
    /// The server ended the subscription, with this code.
    Unsubscribed(u32),
    /// The client ended it.
    Gone,
}

/// Everything one client was told about one room.
#[derive(Debug, Clone)]
pub struct RoomLog {
    /// The client's name.
    pub name: String,
    /// In order of arrival.
    pub events: Vec<Event>,
    /// In the room at the moment.
    pub subscribed: bool,
    /// Epoch it stands in, empty before the first subscription.
    pub epoch: String,
    /// Offset it stands at.
    pub offset: u64,
}

impl RoomLog {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), events: Vec::new(), subscribed: false, epoch: String::new(), offset: 0 }
    }

    pub(super) fn push(&mut self, event: Event) {
        match &event {
            Event::Subscribed { epoch, offset, .. } => {
                self.epoch.clone_from(epoch);
                self.offset = *offset;
                self.subscribed = true;
            }
            Event::Message { offset, .. } => self.offset = *offset,
            Event::Unsubscribed(_) | Event::Gone => self.subscribed = false,
            Event::Joined(_) | Event::Left(_) => {}
        }
        self.events.push(event);
    }

    /// Payloads in order of arrival, as JSON text.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|e| if let Event::Message { data, .. } = e { Some(data.as_str()) } else { None })
    }

    /// The tags of the message at `offset`, once it came.
    pub fn tags(&self, offset: u64) -> Option<&BTreeMap<String, String>> {
        self.events.iter().find_map(|e| match e {
            Event::Message { offset: at, tags, .. } if *at == offset => Some(tags),
            _ => None,
        })
    }

    /// Codes with which the server ended the subscription.
    pub fn unsubscribed(&self) -> Vec<u32> {
        self.events.iter().filter_map(|e| if let Event::Unsubscribed(code) = e { Some(*code) } else { None }).collect()
    }

    /// What attempts to recover led to.
    pub fn recoveries(&self) -> Vec<bool> {
        let outcome = |e: &Event| match e {
            Event::Subscribed { was_recovering: true, recovered, .. } => Some(*recovered),
            _ => None,
        };
        self.events.iter().filter_map(outcome).collect()
    }

    /// The end of it, for messages to people.
    pub fn brief(&self) -> &[Event] {
        &self.events[self.events.len().saturating_sub(8)..]
    }
}
