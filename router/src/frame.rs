//! A WebSocket frame, ready to be sent: encoded once, and shared by everybody who gets it.

use std::fmt;

use bytes::{Buf, Bytes};
use roomring_proto::client::{Format, Push, Reply};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame as Plain, FrameHeader};

/// Longest header of a server's frame, in bytes.
const HEADER: usize = 10;

/// What a push and a reply take as a rule, in bytes: they grow if it is more.
const PUSH: usize = 400;
const REPLY: usize = 64;

/// Whole frames, one as a rule, as they go over the wire. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// An empty native ping.
    pub(crate) const PING: Self = Self(Bytes::from_static(&[0x89, 0]));

    /// A text message. The bytes must be UTF-8.
    pub fn text(payload: &[u8]) -> Self {
        Self::of(Data::Text, payload)
    }

    /// A binary message.
    pub fn binary(payload: &[u8]) -> Self {
        Self::of(Data::Binary, payload)
    }

    /// A push of the client protocol for `channel`.
    pub(crate) fn push(format: Format, channel: &str, push: &Push<'_>) -> Self {
        Self::written(data(format), PUSH, |out| format.write_push(channel, push, out))
    }

    /// A reply of the client protocol.
    pub(crate) fn reply(format: Format, reply: &Reply) -> Self {
        Self::written(data(format), REPLY, |out| format.write_reply(reply, out))
    }

    fn of(data: Data, payload: &[u8]) -> Self {
        Self::written(data, payload.len(), |out| out.extend_from_slice(payload))
    }

    /// A message of about `size` bytes, which `write` puts at the end of what it is given.
    fn written(data: Data, size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        // The payload is written once, to where it stays; the header, whose length depends on it, before it after that.
        let mut frame = Vec::with_capacity(HEADER + size);
        frame.resize(HEADER, 0);
        write(&mut frame);
        let header = FrameHeader { opcode: OpCode::Data(data), ..FrameHeader::default() };
        let (mut head, length) = ([0; HEADER], frame.len() - HEADER);
        let mut rest = &mut head[..];
        header.format(length as u64, &mut rest).expect("the longest header fits");
        let used = HEADER - rest.len();
        frame[HEADER - used..HEADER].copy_from_slice(&head[..used]);
        let mut frame = Bytes::from(frame);
        frame.advance(HEADER - used);
        Self(frame)
    }

    /// Closes the connection.
    pub(crate) fn close(code: u16, reason: &str) -> Self {
        let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let close = Plain::close(Some(close)).into_payload();
        let header = FrameHeader { opcode: OpCode::Control(Control::Close), ..FrameHeader::default() };
        let mut frame = Vec::with_capacity(HEADER + close.len());
        header.format(close.len() as u64, &mut frame).expect("a vector takes everything");
        frame.extend_from_slice(&close);
        Self(frame.into())
    }

    /// Frames that somebody else encoded, whole.
    pub(crate) fn encoded(frames: Vec<u8>) -> Self {
        Self(frames.into())
    }

    /// The bytes on the wire.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The message in the frame.
    pub fn payload(&self) -> Bytes {
        let header = match self.0.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        self.0.slice(header.min(self.0.len())..)
    }
}

fn data(format: Format) -> Data {
    match format {
        Format::Json => Data::Text,
        Format::Protobuf => Data::Binary,
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?})", self.payload())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_header_and_its_payload() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let payload = vec![b'x'; length];
            let frame = Frame::text(&payload);
            assert_eq!((frame.len(), frame.bytes()[0]), (header + length, 0x81));
            assert_eq!(frame.payload(), payload);
        }
        assert_eq!(Frame::close(3000, "bye").bytes(), b"\x88\x05\x0b\xb8bye");
    }
}
