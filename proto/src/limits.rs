//! Every cap that crosses a process boundary, named, with its reason.

use std::time::Duration;

/// Longest room name, in bytes; the reference server's limit.
pub const ROOM_NAME_BYTES: usize = 255;

/// Largest message from a client, in bytes, whole WebSocket message; the reference server's read limit.
pub const CLIENT_MESSAGE_BYTES: usize = 65_536;

/// Largest payload of a publish, in bytes: a client message less its envelope.
pub const PAYLOAD_BYTES: usize = CLIENT_MESSAGE_BYTES;

/// Longest user name, in bytes: it is repeated in every publication.
pub const USER_BYTES: usize = 255;

/// Largest conn_info or chan_info, in bytes: it is repeated in every publication.
pub const INFO_BYTES: usize = 4_096;

/// Longest publish id given by a client, in bytes; fits a UUID or a ULID with room to spare.
pub const PUBLISH_ID_BYTES: usize = 64;

/// Largest gRPC message either way, in bytes: an attach of tens of thousands of rooms, or a snapshot part, fits.
pub const GRPC_MESSAGE_BYTES: usize = 16 << 20;

/// Target size of one batch on a link, in bytes: past it a batch is sent even if more is waiting.
pub const BATCH_BYTES: usize = 256 << 10;

/// Most slots of a cluster: a placement of so many stays under etcd's 1.5 MiB request limit.
pub const SLOTS: u32 = 16_384;

/// A link between a router and a node on which nothing came for so long is given up, by either: twelve heartbeats.
pub const LINK_SILENCE: Duration = Duration::from_secs(3);
