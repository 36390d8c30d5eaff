//! What a client sends: bytes in, WebSocket messages out. Pure.
//!
//! Nearly everything that clients send is a message in one frame that comes in one read: it is taken from where it was read.
//! For the rest of the protocol there is tungstenite, but no connection keeps one: it is made for what was read and dropped
//! with it, unless a message is incomplete. So an idle connection has no buffer.

use std::io::{self, Cursor, Read, Write};

use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Read buffer of a message that comes in pieces, in bytes.
const PIECE: usize = 4 << 10;

/// Bytes of a client's control frame before its payload.
const CONTROL_HEADER: usize = 6;

/// A message may take so many times its largest size, with the headers of its parts and what comes between them.
const WASTE: usize = 4;

/// The reading half of a WebSocket without its socket.
#[derive(Debug)]
pub struct Frames {
    max_message: usize,
    /// Present while a message is incomplete.
    partial: Option<Box<WebSocket<Feed>>>,
    /// Bytes read since the last message was complete.
    unfinished: usize,
}

/// What a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message.
    Data {
        /// Its payload; UTF-8 if it is text.
        data: &'a [u8],
        /// It came as text.
        text: bool,
    },
    /// A ping; its answer is among the answers.
    Ping,
    /// Answer to a ping.
    Pong,
    /// The end.
    Close,
}

/// A socket in memory.
#[derive(Debug, Default)]
struct Feed {
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

impl Frames {
    /// `max_message` bounds the client's messages, in bytes.
    pub fn new(max_message: usize) -> Self {
        Self { max_message, partial: None, unfinished: 0 }
    }

    /// Takes what was read and hands each message that is complete to `f`, until `f` says otherwise. What the protocol wants
    /// answered, such as a ping, is in `answers` then, as whole frames. `read` is used up.
    pub fn take<E: From<Error>>(
        &mut self,
        mut read: &mut [u8],
        answers: &mut Vec<u8>,
        mut f: impl FnMut(Incoming<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.partial.is_none()
            && let Some(simple) = Simple::at_front(read, self.max_message)
        {
            let (frame, rest) = read.split_at_mut(simple.end);
            let data = &mut frame[simple.payload..];
            unmask(data, simple.mask);
            if simple.text {
                std::str::from_utf8(data).map_err(Error::from)?;
            }
            f(Incoming::Data { data, text: simple.text })?;
            read = rest;
        }
        if read.is_empty() {
            return Ok(());
        }
        self.take_slowly(read, answers, |message| match &message {
            Message::Text(data) => f(Incoming::Data { data: data.as_ref(), text: true }),
            Message::Binary(data) => f(Incoming::Data { data, text: false }),
            // Answered by tungstenite.
            Message::Ping(_) => f(Incoming::Ping),
            Message::Pong(_) => f(Incoming::Pong),
            Message::Close(_) => f(Incoming::Close),
            // It is never read.
            Message::Frame(_) => Ok(()),
        })
    }

    fn take_slowly<E: From<Error>>(
        &mut self,
        read: &[u8],
        answers: &mut Vec<u8>,
        mut f: impl FnMut(Message) -> Result<(), E>,
    ) -> Result<(), E> {
        let whole = if self.partial.is_none() { whole_messages(read) } else { None };
        let mut ws = match self.partial.take() {
            Some(mut ws) => {
                ws.get_mut().put(read);
                ws
            }
            None => {
                let config = WebSocketConfig::default()
                    .read_buffer_size(if whole.is_some() { 0 } else { PIECE })
                    .max_message_size(Some(self.max_message))
                    .max_frame_size(Some(self.max_message));
                Box::new(WebSocket::from_partially_read(Feed::default(), read.to_vec(), Role::Server, Some(config)))
            }
        };
        let mut left = whole.unwrap_or(usize::MAX);
        let mut end = Ok(());
        self.unfinished += read.len();
        while left > 0 && end.is_ok() {
            match ws.read() {
                Ok(message) => {
                    self.unfinished = match &message {
                        Message::Ping(data) | Message::Pong(data) => {
                            self.unfinished.saturating_sub(CONTROL_HEADER + data.len())
                        }
                        _ => 0,
                    };
                    end = f(message);
                }
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => end = Err(e.into()),
            }
            left -= 1;
        }
        // It fails only where there is nothing to say any more.
        let _ = ws.flush();
        answers.append(&mut ws.get_mut().output);
        if whole.is_none() {
            self.partial = Some(ws);
        } else {
            self.unfinished = 0;
        }
        end?;
        // Parts may be empty, and then no number of them is a message.
        let (size, max_size) = (self.unfinished, self.max_message);
        if size > WASTE * max_size + PIECE {
            return Err(Error::Capacity(CapacityError::MessageTooLong { size, max_size }).into());
        }
        Ok(())
    }
}

/// A message in a frame of its own, all of it there.
struct Simple {
    text: bool,
    mask: [u8; 4],
    /// Where its payload begins.
    payload: usize,
    end: usize,
}

impl Simple {
    /// What `read` begins with, if it is that.
    fn at_front(read: &[u8], max_message: usize) -> Option<Self> {
        let mut cursor = Cursor::new(read);
        let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
        let text = match header.opcode {
            OpCode::Data(Data::Text) => true,
            OpCode::Data(Data::Binary) => false,
            OpCode::Data(_) | OpCode::Control(_) => return None,
        };
        let plain = header.is_final && !(header.rsv1 || header.rsv2 || header.rsv3);
        let length = usize::try_from(length).ok().filter(|length| plain && *length <= max_message)?;
        let payload = usize::try_from(cursor.position()).ok()?;
        let end = payload.checked_add(length).filter(|end| *end <= read.len())?;
        Some(Self { text, mask: header.mask?, payload, end })
    }
}

fn unmask(data: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// How many messages `read` holds, if it holds nothing but whole messages.
fn whole_messages(read: &[u8]) -> Option<usize> {
    let mut cursor = Cursor::new(read);
    let (mut messages, mut complete) = (0, true);
    while cursor.position() < read.len() as u64 {
        let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
        let end = cursor.position().checked_add(length).filter(|end| *end <= read.len() as u64)?;
        cursor.set_position(end);
        match header.opcode {
            OpCode::Data(_) => complete = header.is_final,
            // It breaks the rules, which is not told here.
            OpCode::Control(_) if !header.is_final => return None,
            OpCode::Control(_) => {}
        }
        messages += usize::from(header.is_final);
    }
    complete.then_some(messages)
}

impl Feed {
    fn put(&mut self, read: &[u8]) {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.extend_from_slice(read);
    }
}

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = &self.input[self.taken..];
        if left.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = left.len().min(buf.len());
        buf[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        Ok(count)
    }
}

impl Write for Feed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use roomring_proto::limits;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::Control;

    use super::*;

    const MAX: usize = limits::CLIENT_MESSAGE_BYTES;

    fn frame(data: Data, last: bool, payload: &[u8]) -> Vec<u8> {
        encode(OpCode::Data(data), last, payload)
    }

    fn encode(opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { opcode, is_final, mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
        let mut bytes = Vec::new();
        header.format(payload.len() as u64, &mut bytes).unwrap();
        bytes.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(b, m)| b ^ m));
        bytes
    }

    /// What came, with its payload.
    #[derive(Debug, PartialEq)]
    enum Came {
        Text(Vec<u8>),
        Binary(Vec<u8>),
        Ping,
        Pong,
        Close,
    }

    /// Messages and answers when `bytes` comes in pieces of `piece`.
    fn read(bytes: &[u8], piece: usize) -> (Vec<Came>, Vec<u8>, Result<(), Error>, Frames) {
        let (mut frames, mut messages, mut answers) = (Frames::new(MAX), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            let end = frames.take(&mut piece.to_vec(), &mut answers, |m| {
                messages.push(match m {
                    Incoming::Data { data, text: true } => Came::Text(data.to_vec()),
                    Incoming::Data { data, text: false } => Came::Binary(data.to_vec()),
                    Incoming::Ping => Came::Ping,
                    Incoming::Pong => Came::Pong,
                    Incoming::Close => Came::Close,
                });
                Ok::<(), Error>(())
            });
            if end.is_err() {
                return (messages, answers, end, frames);
            }
        }
        (messages, answers, Ok(()), frames)
    }

    #[test]
    fn messages_are_the_same_however_they_come() {
        let big = vec![b'y'; 40_000];
        let all = [
            frame(Data::Text, true, b"one"),
            encode(OpCode::Control(Control::Ping), true, b"p"),
            frame(Data::Text, false, b"tw"),
            encode(OpCode::Control(Control::Pong), true, b""),
            frame(Data::Continue, true, b"o"),
            frame(Data::Binary, true, &big),
            frame(Data::Text, true, b""),
        ]
        .concat();
        let expected = [
            Came::Text(b"one".to_vec()),
            Came::Ping,
            Came::Pong,
            Came::Text(b"two".to_vec()),
            Came::Binary(big),
            Came::Text(Vec::new()),
        ];
        for piece in [1, 2, 3, 7, 100, 5_000, all.len()] {
            let (messages, answers, end, frames) = read(&all, piece);
            end.unwrap();
            assert_eq!(messages, expected, "in pieces of {piece}");
            assert_eq!(answers, [0x8a, 1, b'p'], "in pieces of {piece}");
            assert_eq!(frames.partial.is_none(), piece == all.len(), "in pieces of {piece}");
        }
    }

    #[test]
    fn nothing_is_kept_between_whole_messages() {
        let one = frame(Data::Text, true, b"x");
        let two = [one.clone(), frame(Data::Text, false, b"y")].concat();
        assert!(read(&one, 100).3.partial.is_none());
        assert!(read(&two, 100).3.partial.is_some());
    }

    #[test]
    fn payloads_of_every_length_are_unmasked() {
        for length in 0..100 {
            let payload: Vec<u8> = (0..length).collect();
            let bytes = frame(Data::Binary, true, &payload);
            assert!(Simple::at_front(&bytes, MAX).is_some());
            assert_eq!(read(&bytes, bytes.len()).0, [Came::Binary(payload)]);
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_found() {
        let mut unmasked = Vec::new();
        FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() }.format(1, &mut unmasked).unwrap();
        unmasked.push(b'x');
        let bad: [(&str, Vec<u8>); 6] = [
            ("unmasked", unmasked),
            ("not UTF-8", frame(Data::Text, true, b"\xff")),
            ("no beginning", frame(Data::Continue, true, b"x")),
            ("reserved", vec![0xf1, 0x80, 0, 0, 0, 0]),
            ("opcode", vec![0x83, 0x80, 0, 0, 0, 0]),
            ("too long", frame(Data::Text, true, &vec![b'x'; MAX + 1])),
        ];
        for (what, bytes) in bad {
            for piece in [1, bytes.len()] {
                assert!(read(&bytes, piece).2.is_err(), "{what} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_message_without_end_is_too_long() {
        let mut frames = Frames::new(1_000);
        let mut take = |bytes: &[u8]| frames.take(&mut bytes.to_vec(), &mut Vec::new(), |_| Ok::<(), Error>(()));
        let begin = frame(Data::Text, false, b"x");
        let parts = frame(Data::Continue, false, b"").repeat(100);
        let end = frame(Data::Continue, true, b"");
        for _ in 0..20 {
            take(&begin).unwrap();
            (0..10).for_each(|_| take(&parts).unwrap());
            take(&end).unwrap();
        }
        take(&begin).unwrap();
        let taken = (0..100).take_while(|_| take(&parts).is_ok()).count();
        assert_eq!(taken, (4 * 1_000 + PIECE - begin.len()) / parts.len());
    }

    #[test]
    fn a_close_is_answered() {
        let close = encode(OpCode::Control(Control::Close), true, b"\x03\xe8");
        for piece in [1, close.len()] {
            let (messages, answers, end, _) = read(&close, piece);
            assert!(matches!(end, Ok(()) | Err(Error::ConnectionClosed)), "{end:?}");
            assert_eq!(messages, [Came::Close]);
            assert_eq!(answers, [0x88, 2, 0x03, 0xe8]);
        }
    }
}
