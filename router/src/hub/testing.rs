//! Helpers of the hub's tests.

use std::sync::Arc;

use bytes::Bytes;

use super::api::{Client, Codec, ToClient};
use super::queue::ClientQueue;

/// A client named `id` whose queue takes everything.
pub(super) fn client(id: &str) -> Arc<Client> {
    let queue = ClientQueue::new(usize::MAX / 2);
    Arc::new(Client {
        id: id.to_owned(),
        user: format!("user-{id}"),
        conn_info: Bytes::new(),
        codec: Codec::Json,
        queue,
    })
}

/// What the client was told since it was asked last.
pub(super) fn answers(client: &Client) -> Vec<ToClient> {
    let mut out = Vec::new();
    if let Some(taken) = client.queue.try_recv_many(&mut out, usize::MAX) {
        taken.expect("not slow");
    }
    out
}
