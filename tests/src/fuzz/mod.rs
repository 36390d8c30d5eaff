//! What reads bytes from outside, each as a function of bytes that panics where something is wrong: `make fuzz` feeds them, and a
//! test does so with the inputs that are kept under `tests/fuzz/corpus`.

mod client;
mod edge;
mod frames;
mod session;
mod shard;
mod stored;

pub use client::client;
pub use edge::edge;
pub use frames::frames;
pub use session::session;
pub use shard::shard;
pub use stored::stored;

/// Takes bytes as they may come.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 6] = [
    ("client", client),
    ("edge", edge),
    ("frames", frames),
    ("session", session),
    ("shard", shard),
    ("stored", stored),
];

/// Splits off the first byte, which chooses something.
fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// Splits off as many bytes as the first one says.
fn piece(data: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = choice(data);
    rest.split_at(usize::from(length).min(rest.len()))
}
