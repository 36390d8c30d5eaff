//! WebSocket frames of clients. Where they are cut into reads makes no difference.

use roomring_router::session::frames::{Frames, Incoming};
use tokio_tungstenite::tungstenite::Error;

const MAX_MESSAGE: usize = 512;

/// What came, and whether it ended in an error.
#[derive(Debug, Default, PartialEq, Eq)]
struct Came {
    messages: Vec<(Vec<u8>, bool)>,
    pings: usize,
    pongs: usize,
    closed: bool,
    failed: bool,
}

/// WebSocket frames of a client.
pub fn frames(data: &[u8]) {
    let (size, stream) = super::choice(data);
    let whole = read(stream, stream.len().max(1));
    let pieces = read(stream, usize::from(size).max(1));
    for (message, text) in &whole.messages {
        assert!(message.len() <= MAX_MESSAGE);
        assert!(!text || std::str::from_utf8(message).is_ok());
    }
    assert_eq!(whole, pieces, "in reads of {size}: {stream:x?}");
}

fn read(stream: &[u8], size: usize) -> Came {
    let (mut frames, mut came) = (Frames::new(MAX_MESSAGE), Came::default());
    for chunk in stream.chunks(size) {
        let mut answers = Vec::new();
        let taken = frames.take(&mut chunk.to_vec(), &mut answers, |incoming| {
            match incoming {
                Incoming::Data { data, text } => came.messages.push((data.to_vec(), text)),
                Incoming::Ping => came.pings += 1,
                Incoming::Pong => came.pongs += 1,
                Incoming::Close => came.closed = true,
            }
            Ok::<_, Error>(())
        });
        // After its end nothing counts any more.
        came.failed |= taken.is_err() && !came.closed;
        if came.failed || came.closed {
            break;
        }
    }
    came
}
