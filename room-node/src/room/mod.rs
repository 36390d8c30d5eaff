//! The rooms of one slot: what committed entries make of them. Pure and deterministic: equal entries in equal order give
//! equal state on every replica. The slot's replication drives it, and guards what is logged; an entry does what it says.
//!
//! "Now" is the time of the newest entry; nothing here reads a clock.

mod dedup;
mod history;
mod keeps;
mod limits;
mod numbers;
mod presence;
#[cfg(test)]
mod properties;
mod quiet;
mod rooms;
mod snapshot;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use keeps::Keeps;
pub use limits::LimitMet;
pub use numbers::Number;
pub use roomring_control::placement::RoomLimits;
pub use rooms::{Applied, Rooms, Visit};
pub use state::Room;
