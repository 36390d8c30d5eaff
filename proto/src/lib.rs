//! Every byte that crosses a Roomring process boundary, and the vocabulary those bytes speak.
//!
//! Prost structs stop at the conversions into the types of [`ids`]; logic never sees a maybe-missing field.
//! This crate opens no socket and reads no clock.

pub mod client;
pub mod close;
mod ids;
pub mod keys;
pub mod limits;
mod publication;

pub use ids::*;

/// The generated gRPC services and messages of package `roomring.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("roomring.v1");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("roomring");
}

/// Protocol version that this build speaks on links: another major is refused, a higher minor only adds.
pub const LINK_VERSION: v1::Version = v1::Version { major: 1, minor: 0 };
