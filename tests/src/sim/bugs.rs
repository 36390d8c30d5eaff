//! Bugs of a router that its slots have no switch for: between a router and its clients, and its nodes.

use std::sync::Arc;

use bytes::Bytes;
use roomring_proto::client::Format;
use roomring_proto::close::ErrorCode;
use roomring_proto::v1::router_message::Kind as ToNode;
use roomring_router::hub::api::{Client, Codec, ToClient};
use roomring_router::hub::core::Output;
use roomring_router::hub::queue::ClientQueue;

use super::Mutant;

/// One in so many goes wrong.
const ONE_IN: u64 = 50;

/// What a client gets of what its router has for it. `count` is kept between calls.
pub(super) fn spoil_pushes(mutant: Option<Mutant>, count: &mut u64, messages: Vec<ToClient>) -> Vec<ToClient> {
    let Some(mutant) = mutant else { return messages };
    let spoil = |message: ToClient| {
        let kind = (mutant, &message);
        let is_push =
            |key: &[u8]| matches!(&message, ToClient::Push(f) if f.payload().windows(key.len()).any(|w| w == key));
        let applies = match kind {
            (Mutant::LosesDeliveries, ToClient::Push(_)) => is_push(b"\"pub\""),
            (Mutant::JoinsTwice, ToClient::Push(_)) => is_push(b"\"join\""),
            (Mutant::AnswersTwice, ToClient::Published { .. }) => true,
            (Mutant::CallsUnknownRefused, ToClient::Published { result: Err(e), .. }) => {
                e.code == ErrorCode::OUTCOME_UNKNOWN.code
            }
            _ => return vec![message],
        };
        if !applies {
            return vec![message];
        }
        *count += 1;
        match (mutant, message) {
            (Mutant::CallsUnknownRefused, ToClient::Published { request, .. }) => {
                vec![ToClient::Published { request, result: Err(ErrorCode::INTERNAL) }]
            }
            (_, message) if !count.is_multiple_of(ONE_IN) => vec![message],
            (Mutant::LosesDeliveries, _) => Vec::new(),
            (_, message) => vec![message.clone(), message],
        }
    };
    messages.into_iter().flat_map(spoil).collect()
}

/// What a node gets of what a router says.
pub(super) fn spoil_presence(mutant: Option<Mutant>, message: &mut ToNode) {
    if let (Some(Mutant::TellsNoJoins), ToNode::Presence(presence)) = (mutant, message) {
        presence.joined.clear();
    }
}

/// What goes out in one turn.
pub(super) fn reverse_publishes(out: &mut [Output]) {
    let is_publish = |output: &Output| matches!(output.message, ToNode::Publish(_));
    let publishes: Vec<usize> = (0..out.len()).filter(|i| is_publish(&out[*i])).collect();
    let (half, count) = (publishes.len() / 2, publishes.len());
    for (first, last) in (0..half).map(|i| (publishes[i], publishes[count - 1 - i])) {
        out.swap(first, last);
    }
}

/// A client in whose name a router sends again what was of unknown outcome.
pub(super) fn nobody() -> Arc<Client> {
    let (id, user) = ("nobody".to_owned(), "nobody".to_owned());
    Arc::new(Client {
        id,
        user,
        conn_info: Bytes::new(),
        codec: Codec::Centrifuge(Format::Json),
        queue: ClientQueue::new(1 << 20),
    })
}
