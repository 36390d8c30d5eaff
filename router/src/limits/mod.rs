//! What keeps floods and rogues from everybody else: who may connect from where, how often, and how fast.

mod addresses;
mod memory;
mod origin;
mod rate;
mod source;

use std::sync::Arc;

pub use addresses::{Addresses, Place};
pub use memory::{Memory, most_memory};
pub use origin::Origins;
pub use rate::{Bucket, Rate, Rates};
pub use source::{BadHeader, Proxies, read_header};

/// What every connection passes before it is a session.
#[derive(Debug, Default)]
pub struct Guards {
    /// How many there are from each address.
    pub addresses: Arc<Addresses>,
    /// How often one is accepted.
    pub accepts: Bucket,
    /// From which pages browsers may connect.
    pub origins: Origins,
    /// The proxies that are believed.
    pub proxies: Proxies,
    /// They put a PROXY header in front.
    pub proxy_protocol: bool,
}
