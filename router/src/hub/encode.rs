//! Pushes in the codecs of a room's members: each codec once, at most.

use std::cell::OnceCell;

use roomring_proto::client::{Format, Push, plain};
use roomring_proto::{Epoch, RoomId, v1};

use super::api::Codec;
use crate::frame::Frame;

/// What is pushed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event<'a> {
    Publication(&'a v1::Publication),
    Join(&'a v1::ClientInfo),
    Leave(&'a v1::ClientInfo),
}

impl<'a> From<Event<'a>> for Push<'a> {
    fn from(event: Event<'a>) -> Self {
        match event {
            Event::Publication(publication) => Self::Publication(publication),
            Event::Join(info) => Self::Join(info),
            Event::Leave(info) => Self::Leave(info),
        }
    }
}

/// One event of a room, encoded when the first member of a codec needs it, and shared by all others of that codec.
#[derive(Debug)]
pub(super) struct Encoded<'a> {
    room: &'a RoomId,
    epoch: Epoch,
    event: Event<'a>,
    json: OnceCell<Frame>,
    protobuf: OnceCell<Frame>,
    plain: OnceCell<Frame>,
}

impl<'a> Encoded<'a> {
    pub(super) fn new(room: &'a RoomId, epoch: Epoch, event: Event<'a>) -> Self {
        Self { room, epoch, event, json: OnceCell::new(), protobuf: OnceCell::new(), plain: OnceCell::new() }
    }

    /// The push for members that speak `codec`.
    pub(super) fn get(&self, codec: Codec) -> Frame {
        let room = self.room.as_str();
        match codec {
            Codec::Centrifuge(format) => {
                let frame = match format {
                    Format::Json => &self.json,
                    Format::Protobuf => &self.protobuf,
                };
                frame.get_or_init(|| Frame::push(format, room, &self.event.into()))
            }
            Codec::Plain => self.plain.get_or_init(|| {
                Frame::text(&match self.event {
                    Event::Publication(publication) => plain::message(room, self.epoch, publication),
                    Event::Join(info) => plain::join(room, self.epoch, info),
                    Event::Leave(info) => plain::leave(room, self.epoch, info),
                })
            }),
        }
        .clone()
    }
}
