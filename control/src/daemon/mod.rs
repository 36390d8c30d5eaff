//! What every Roomring process needs around its work: configuration, logs, signals, and an admin port
//! where it tells how it is.

pub mod admin;
mod build;
pub mod config;
pub mod metrics;
mod process;
pub mod shutdown;
pub mod telemetry;
mod units;

pub use build::{RELEASE, REVISION, version};
pub use config::{Invalid, load};
pub use process::resident_bytes;
pub use units::{ByteSize, Span};
