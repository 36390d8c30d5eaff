//! As much of WebSocket's framing as a client needs that counts.

/// A whole frame at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its opcode.
    pub(crate) opcode: u8,
    /// Where its payload begins.
    pub(crate) start: usize,
    /// Where it ends.
    pub(crate) end: usize,
}

/// Close.
pub(crate) const CLOSE: u8 = 8;
/// Ping.
pub(crate) const PING: u8 = 9;
/// Pong.
pub(crate) const PONG: u8 = 10;

/// The frame at `from`, if it is there as a whole. Frames of servers are not masked.
pub(crate) fn at(bytes: &[u8], from: usize) -> Option<Frame> {
    let head = bytes.get(from..)?;
    let opcode = head.first()? & 0x0f;
    let (size, length) = match head.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(head.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(head.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    (head.len() >= size + length).then_some(Frame { opcode, start: from + size, end: from + size + length })
}

/// Appends a text frame of a client: masked with zero, which leaves the payload as it is.
pub(crate) fn text(out: &mut Vec<u8>, parts: &[&[u8]]) {
    client(out, 1, parts);
}

/// Appends a pong.
pub(crate) fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    client(out, PONG, &[payload]);
}

fn client(out: &mut Vec<u8>, opcode: u8, parts: &[&[u8]]) {
    const MASKED: u8 = 0x80;
    header(out, opcode, parts.iter().map(|p| p.len()).sum(), MASKED);
    out.extend([0; 4]);
    parts.iter().for_each(|p| out.extend_from_slice(p));
}

/// Appends a text frame of a server.
pub(crate) fn server_text(out: &mut Vec<u8>, payload: &[u8]) {
    header(out, 1, payload.len(), 0);
    out.extend_from_slice(payload);
}

fn header(out: &mut Vec<u8>, opcode: u8, length: usize, masked: u8) {
    out.push(0x80 | opcode);
    match length {
        0..=125 => out.push(masked | length as u8),
        126..=0xffff => {
            out.push(masked | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_once_it_is_whole() {
        for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            let mut bytes = vec![9; 3];
            server_text(&mut bytes, &vec![b'x'; length]);
            let whole = bytes.len();
            let frame = at(&bytes, 3).expect("whole");
            assert_eq!((frame.opcode, frame.end, frame.end - frame.start), (1, whole, length));
            assert_eq!(at(&bytes[..whole - 1], 3), None);
            assert_eq!(at(&bytes, whole), None);
        }
    }
}
