//! How each server is spoken to: what is sent to join a room and to publish, and how an answer is told from a message.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::frame;

/// A server's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dialect {
    /// The floor: no HTTP; the connection gives its number, publishes go over a connection of their own.
    Floor,
    /// Text in, text out, the room in the query: the plain server.
    Plain,
    /// nchan's, with the room in the path.
    Nchan,
    /// The Centrifuge protocol in JSON: ours and Centrifugo's.
    Centrifuge,
    /// The NATS protocol over WebSocket.
    Nats,
    /// Socket.IO 4 over WebSocket only.
    SocketIo,
}

/// Number of a connection's first command after its connect.
pub(crate) const FIRST_ID: u64 = 2;

/// What an answer means for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many subscribes were confirmed; an answer may have been written.
    Joined(usize),
    /// The server refused something.
    Refused(String),
}

impl Dialect {
    /// Target of the HTTP request; `None` for no HTTP at all.
    pub(crate) fn path(self, room: usize) -> Option<String> {
        match self {
            Self::Floor => None,
            Self::Plain => Some(format!("/?room=r{room}")),
            Self::Nchan => Some(format!("/room/r{room}")),
            Self::Centrifuge => Some("/connection/websocket".to_owned()),
            Self::Nats => Some("/".to_owned()),
            Self::SocketIo => Some("/socket.io/?EIO=4&transport=websocket".to_owned()),
        }
    }

    /// Frames sent right after the handshake. True if that alone makes a member.
    pub(crate) fn open(self, room: usize, member: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Floor => false,
            Self::Plain | Self::Nchan => true,
            Self::Centrifuge => {
                let connect = format!("{{\"id\":1,\"connect\":{{\"data\":{{\"user\":\"u{room}-{member}\"}}}}}}");
                frame::text(out, &[connect.as_bytes(), b"\n", Self::centrifuge_subscribe(FIRST_ID, room).as_bytes()]);
                false
            }
            Self::Nats => {
                let options = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":true}\r\n";
                frame::text(out, &[options.as_bytes(), format!("SUB r.{room} 1\r\nPING\r\n").as_bytes()]);
                false
            }
            Self::SocketIo => false,
        }
    }

    /// Subscribes an open connection to one more room; false if the server knows no such thing.
    pub(crate) fn subscribe(self, room: usize, id: u64, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Floor | Self::Plain | Self::Nchan => return false,
            Self::Centrifuge => frame::text(out, &[Self::centrifuge_subscribe(id, room).as_bytes()]),
            Self::Nats => frame::text(out, &[format!("SUB r.{room} {room}\r\nPING\r\n").as_bytes()]),
            Self::SocketIo => frame::text(out, &[format!("420[\"join\",\"r{room}\"]").as_bytes()]),
        }
        true
    }

    /// Whether there is a question among messages, that must be answered.
    pub(crate) fn asks(self, text: &[u8]) -> bool {
        self == Self::Centrifuge && (text.starts_with(b"{}") || contains(text, b"\n{}"))
    }

    /// Takes a message of the server that holds no payload of ours, and may answer it.
    pub(crate) fn on_other(self, room: usize, text: &[u8], out: &mut Vec<u8>) -> Step {
        match self {
            Self::Floor => Step::Joined(1),
            Self::Plain | Self::Nchan => Step::Joined(0),
            Self::Centrifuge => {
                let mut joined = 0;
                for line in text.split(|&b| b == b'\n') {
                    if line == b"{}" {
                        frame::text(out, &[b"{}"]);
                    } else if contains(line, b"\"error\"") {
                        return refused(line);
                    } else if contains(line, b"\"subscribe\":") {
                        joined += 1;
                    }
                }
                Step::Joined(joined)
            }
            Self::Nats => {
                if contains(text, b"-ERR") {
                    return refused(text);
                }
                if contains(text, b"PING") {
                    frame::text(out, &[b"PONG\r\n"]);
                }
                Step::Joined(memchr::memmem::find_iter(text, b"PONG").count())
            }
            Self::SocketIo => {
                match text {
                    b"2" => frame::text(out, &[b"3"]),
                    [b'0', ..] => frame::text(out, &[b"40"]),
                    [b'4', b'0', ..] => {
                        self.subscribe(room, FIRST_ID, out);
                    }
                    [b'4', b'3', ..] => return Step::Joined(1),
                    _ => return refused(text),
                }
                Step::Joined(0)
            }
        }
    }

    /// A publish of `payload`, which is JSON. `id` is another for each command of a connection.
    pub(crate) fn publish(self, room: usize, id: u64, payload: &[u8], out: &mut Vec<u8>) {
        // Written into a fixed buffer: this is done for every message.
        let mut head = [0_u8; 96];
        let mut rest = &mut head[..];
        let written = match self {
            Self::Floor => {
                out.extend((room as u32).to_le_bytes());
                out.extend((payload.len() as u32).to_le_bytes());
                out.extend_from_slice(payload);
                return;
            }
            Self::Plain | Self::Nchan => Ok(()),
            Self::Centrifuge => write!(rest, "{{\"id\":{id},\"publish\":{{\"channel\":\"r{room}\",\"data\":"),
            Self::Nats => write!(rest, "PUB r.{room} {}\r\n", payload.len()),
            Self::SocketIo => write!(rest, "42[\"say\",\"r{room}\","),
        };
        written.expect("fits the buffer");
        let left = rest.len();
        let head = &head[..head.len() - left];
        let tail: &[u8] = match self {
            Self::Centrifuge => b"}}",
            Self::Nats => b"\r\n",
            Self::SocketIo => b"]",
            Self::Floor | Self::Plain | Self::Nchan => b"",
        };
        frame::text(out, &[head, payload, tail]);
    }

    fn centrifuge_subscribe(id: u64, room: usize) -> String {
        format!("{{\"id\":{id},\"subscribe\":{{\"channel\":\"r{room}\"}}}}")
    }
}

fn refused(text: &[u8]) -> Step {
    Step::Refused(String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned())
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(text, what).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_share_a_frame_are_all_counted() {
        let mut out = Vec::new();
        let nats = Dialect::Nats.on_other(1, b"PONG\r\nPONG\r\nPING\r\n", &mut out);
        assert_eq!(nats, Step::Joined(2));
        assert!(out.ends_with(b"PONG\r\n"), "a ping is answered");
        let text = b"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{}}\n{}\n{\"id\":3,\"subscribe\":{}}";
        out.clear();
        assert_eq!(Dialect::Centrifuge.on_other(1, text, &mut out), Step::Joined(2));
        assert!(out.ends_with(b"{}"), "a ping is answered");
        let refused = Dialect::Centrifuge.on_other(1, b"{\"id\":2,\"error\":{\"code\":103}}", &mut out);
        assert!(matches!(refused, Step::Refused(why) if why.contains("103")));
    }

    #[test]
    fn pings_among_messages_are_seen() {
        assert!(Dialect::Centrifuge.asks(b"{}\n{\"push\":{}}"));
        assert!(Dialect::Centrifuge.asks(b"{\"push\":{}}\n{}"));
        assert!(!Dialect::Centrifuge.asks(b"{\"push\":{}}"));
    }
}
