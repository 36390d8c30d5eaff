//! What every Roomring process needs around its work: configuration, logs, signals.

pub mod config;
pub mod shutdown;
pub mod telemetry;
mod units;

pub use config::{Invalid, load};
pub use units::{ByteSize, Span};
