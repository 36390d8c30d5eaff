//! Streams between nodes: each node opens one to each other, which carries what it says as a primary and brings back the
//! answers.

mod caller;
mod dialer;
mod inbox;

pub(crate) use self::caller::PeerService;
pub(crate) use self::dialer::Dialer;

use roomring_proto::{LINK_VERSION, v1};

use crate::shell::Shell;

fn hello(shell: &Shell) -> v1::PeerMessage {
    let hello = v1::PeerHello {
        version: Some(LINK_VERSION),
        cluster: shell.cluster.to_string(),
        node_id: shell.node.to_string(),
        incarnation: shell.incarnation.0,
        placement: shell.hello_placement(),
    };
    v1::PeerMessage { kind: Some(v1::peer_message::Kind::Hello(hello)) }
}

fn batch(messages: Vec<v1::PeerMessage>) -> v1::PeerBatch {
    v1::PeerBatch { messages }
}
