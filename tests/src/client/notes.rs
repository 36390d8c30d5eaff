//! What a client did and was told, as lines for the checker. Lines of all clients of this process have one order.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::wire::{Error, Push, SubscribeReply};
use crate::checker::{Line, Position, What};

/// The order of all lines. Taken while the client's lock is held, after what was received and before what is sent.
static ORDER: AtomicU64 = AtomicU64::new(0);
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What an answer will be recorded as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Publish,
    Presence { room: String },
    Subscribe { room: String },
    Unsubscribe { room: String },
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Notes {
    client: String,
    close_wanted: bool,
    lines: Vec<(u64, Line)>,
}

impl Notes {
    pub(super) fn all(&self) -> &[(u64, Line)] {
        &self.lines
    }

    pub(super) fn opened(&mut self, client: &str, user: &str) {
        client.clone_into(&mut self.client);
        self.note(What::Opened { user: user.to_owned() });
    }

    pub(super) fn close_wanted(&mut self) {
        self.close_wanted = true;
    }

    pub(super) fn closed(&mut self, code: Option<u16>) {
        self.note(What::Closed { code, wanted: self.close_wanted });
    }

    /// A command is about to go out.
    pub(super) fn asked(&mut self, id: u32, method: &str, request: &Value) -> Asked {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let room = text(&request["channel"]);
        match method {
            "publish" => self.publishes(id, request, None),
            "rpc" if request["method"] == "room.publish" => {
                self.publishes(id, &request["data"], request["data"]["id"].as_str())
            }
            "presence" => Asked::Presence { room },
            "subscribe" => {
                let offset = request["offset"].as_u64().unwrap_or(0);
                let position = || Position { epoch: text(&request["epoch"]), offset };
                let recover = (request["recover"] == true).then(position);
                self.note(What::Subscribing { room: room.clone(), recover });
                Asked::Subscribe { room }
            }
            "unsubscribe" => Asked::Unsubscribe { room },
            _ => Asked::Other,
        }
    }

    fn publishes(&mut self, id: u32, request: &Value, given: Option<&str>) -> Asked {
        let room = request["channel"].as_str().unwrap_or_default().to_owned();
        let (data, given) = (request["data"].to_string(), given.filter(|g| !g.is_empty()).map(str::to_owned));
        self.note(What::Sent { room, number: id.into(), data, id: given });
        Asked::Publish
    }

    /// The answer to a command came. `line` is its text.
    pub(super) fn answered(&mut self, id: u32, asked: &Asked, result: &Result<Value, Error>, line: &str) {
        let number = u64::from(id);
        match (asked, result) {
            (Asked::Publish, Ok(answer)) => {
                // Only the answer to `room.publish` says where.
                let data = &answer["data"];
                let place = data["epoch"].as_str().zip(data["offset"].as_u64());
                let place = place.map(|(epoch, offset)| Position { epoch: epoch.to_owned(), offset });
                self.note(What::Acked { number, place });
            }
            (Asked::Publish, Err(Error { code: 1000, .. })) => self.note(What::Unknown { number, code: 1000 }),
            (Asked::Publish, Err(error)) => self.note(What::Refused { number, code: error.code }),
            (Asked::Presence { room }, Ok(answer)) => {
                let clients = answer["presence"].as_object().into_iter().flatten();
                let clients = clients.map(|(id, _)| id.clone()).collect();
                self.note(What::Presence { room: room.clone(), clients });
            }
            (Asked::Subscribe { room }, Ok(_)) => self.subscribed(room, line),
            (Asked::Unsubscribe { room }, Ok(_)) => self.note(What::Gone { room: room.clone() }),
            (Asked::Presence { .. } | Asked::Subscribe { .. } | Asked::Unsubscribe { .. }, Err(_))
            | (Asked::Other, _) => {}
        }
    }

    fn subscribed(&mut self, room: &str, line: &str) {
        // What can't be read is reported as a fault by the caller.
        let Ok(reply) = serde_json::from_str::<SubscribeReply>(line) else { return };
        let (room, subscribed) = (room.to_owned(), reply.subscribe);
        let position = Position { epoch: subscribed.epoch, offset: subscribed.offset };
        let (was_recovering, recovered) = (subscribed.was_recovering, subscribed.recovered);
        self.note(What::Subscribed { room: room.clone(), position, was_recovering, recovered });
        for publication in subscribed.publications {
            let (offset, data) = (publication.offset, publication.data.get().to_owned());
            self.note(What::Message { room: room.clone(), offset, data });
        }
    }

    pub(super) fn pushed(&mut self, push: &Push) {
        let room = push.channel.clone();
        if let Some(publication) = &push.publication {
            let (offset, data) = (publication.offset, publication.data.get().to_owned());
            self.note(What::Message { room, offset, data });
        } else if let Some(join) = &push.join {
            self.note(What::Joined { room, who: join.info.client.clone() });
        } else if let Some(leave) = &push.leave {
            self.note(What::Left { room, who: leave.info.client.clone() });
        } else if let Some(unsubscribe) = &push.unsubscribe {
            self.note(What::Unsubscribed { room, code: unsubscribe.code });
        }
    }

    /// The connection ended before the answer.
    pub(super) fn unanswered(&mut self, id: u32, asked: &Asked) {
        if *asked == Asked::Publish {
            self.note(What::Unknown { number: id.into(), code: 0 });
        }
    }

    fn note(&mut self, what: What) {
        let at_us = u64::try_from(BEGIN.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = Line { at_us, client: self.client.clone(), what };
        self.lines.push((ORDER.fetch_add(1, Ordering::SeqCst), line));
    }
}
