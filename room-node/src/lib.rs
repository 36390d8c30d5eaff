//! The room node: holds seats in slots, and orders and keeps the messages of the rooms of those slots.
//!
//! [`slot`] and [`room`] are pure state machines: an event and a time in, effects out. The rest is the shell around them.

pub mod entry;
pub mod room;
