//! The sending half of a client's socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use tokio::net::tcp::OwnedWriteHalf;

use crate::frame::Frame;
use crate::metrics::{SENT_BYTES, SENT_WRITES};

/// Most frames in one write. Past this a larger write is no cheaper a frame.
const GATHER: usize = 64;

/// How far a write came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Everything is out.
    All,
    /// The socket takes no more now.
    Full,
    /// The socket is gone.
    Broken,
}

/// The sending half of a client's socket, and the frames that are next.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: OwnedWriteHalf,
    next: VecDeque<Frame>,
    /// Bytes of the first of `next` that are out.
    out: usize,
}

impl Wire {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Self {
        Self { socket, next: VecDeque::new(), out: 0 }
    }

    /// Puts a frame at the end.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.next.push_back(frame);
    }

    /// Writes what is next, and after it the frames at the front of `then`, as far as the socket takes them. `frame` says which
    /// are frames; `taken` is told of each one that left `then`. Many frames go out in one write.
    pub(crate) fn write<T>(
        &mut self,
        then: &mut VecDeque<T>,
        frame: impl Fn(&T) -> Option<&Frame>,
        mut taken: impl FnMut(&Frame),
    ) -> Written {
        loop {
            let mut slices = [IoSlice::new(&[]); GATHER];
            let (mut count, mut bytes) = (0, 0);
            let mut skip = self.out;
            let frames = self.next.iter().chain(then.iter().map_while(&frame));
            for (slice, frame) in slices.iter_mut().zip(frames) {
                *slice = IoSlice::new(&frame.bytes()[skip..]);
                bytes += frame.len() - skip;
                skip = 0;
                count += 1;
            }
            let written = match count {
                0 => {
                    self.rest();
                    return Written::All;
                }
                1 => self.socket.try_write(&slices[0]),
                _ => self.socket.try_write_vectored(&slices[..count]),
            };
            let mut rest = match written {
                Ok(0) => return Written::Broken,
                Ok(written) => {
                    SENT_BYTES.add(written as u64);
                    SENT_WRITES.add(1);
                    written
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Written::Full,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Written::Broken,
            };
            let whole = rest == bytes;
            while let Some(first) = self.next.front()
                && rest > 0
            {
                let left = first.len() - self.out;
                if rest < left {
                    self.out += rest;
                    rest = 0;
                } else {
                    rest -= left;
                    self.out = 0;
                    self.next.pop_front();
                }
            }
            while rest > 0
                && let Some(first) = then.pop_front()
                && let Some(first) = frame(&first)
            {
                taken(first);
                if rest < first.len() {
                    self.next.push_back(first.clone());
                    self.out = rest;
                }
                rest = rest.saturating_sub(first.len());
            }
            if whole && count < GATHER {
                self.rest();
                return Written::All;
            }
        }
    }

    /// Gives back what is empty: only what the client's own task says goes through here, and that is seldom.
    fn rest(&mut self) {
        if self.next.is_empty() {
            self.next = VecDeque::new();
        }
    }

    /// Waits until the socket may take something again. Safe to cancel.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Writes what is next to its end and closes the sending half.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        loop {
            match self.write(&mut VecDeque::<()>::new(), |()| None, |_| {}) {
                Written::All => return tokio::io::AsyncWriteExt::shutdown(&mut self.socket).await,
                Written::Full => self.writable().await?,
                Written::Broken => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}
