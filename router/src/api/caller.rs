//! The business server as the hub sees it: a client that is nobody and in no room.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomring_proto::client::Format;
use tokio::time::{Instant, timeout_at};

use crate::backend::Backend;
use crate::hub::api::{Client, Codec, Command, ToClient};
use crate::hub::queue::ClientQueue;

/// Answers that may wait at once, in bytes: a page of a full history fits.
const QUEUE_BYTES: usize = 32 << 20;

/// By then the hub has answered every command: it promises it in less.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

/// Commands to the hub from outside of any connection.
pub(super) struct Caller<'a, B> {
    backend: &'a B,
    client: Arc<Client>,
}

impl<'a, B: Backend> Caller<'a, B> {
    pub(super) fn new(backend: &'a B) -> Self {
        let client = Client {
            id: String::new(),
            user: String::new(),
            conn_info: Bytes::new(),
            codec: Codec::Centrifuge(Format::Json),
            queue: ClientQueue::new(QUEUE_BYTES),
        };
        Self { backend, client: Arc::new(client) }
    }

    /// Hands over commands, which `make` makes with the number of their request, and gives their answers in the same order;
    /// `None` where there is none.
    pub(super) async fn ask(
        &self,
        count: usize,
        mut make: impl FnMut(usize, u32, Arc<Client>) -> Command,
    ) -> Vec<Option<ToClient>> {
        let mut answers: Vec<Option<ToClient>> = (0..count).map(|_| None).collect();
        let mut waiting = 0;
        for index in 0..count {
            let Ok(request) = u32::try_from(index) else { break };
            let command = make(index, request, self.client.clone());
            waiting += usize::from(self.backend.send(command).known().await.is_ok());
        }
        let by = Instant::now() + ANSWER_WITHIN;
        while waiting > 0 {
            let mut arrived = Vec::new();
            let Ok(Ok(1..)) = timeout_at(by, self.client.queue.recv_many(&mut arrived, count)).await else { break };
            for answer in arrived {
                let request = match &answer {
                    ToClient::Published { request, .. }
                    | ToClient::Retracted { request, .. }
                    | ToClient::History { request, .. }
                    | ToClient::Presence { request, .. } => *request,
                    // It is in no room.
                    _ => continue,
                };
                if let Some(place) = answers.get_mut(request as usize) {
                    waiting -= usize::from(place.is_none());
                    *place = Some(answer);
                }
            }
        }
        answers
    }

    /// The answer to one command.
    pub(super) async fn ask_one(&self, make: impl FnOnce(u32, Arc<Client>) -> Command) -> Option<ToClient> {
        let mut make = Some(make);
        let answers = self.ask(1, |_, request, client| make.take().expect("asked once")(request, client));
        answers.await.pop().flatten()
    }
}

impl<B> Drop for Caller<'_, B> {
    fn drop(&mut self) {
        // Whatever is answered later has nobody to go to.
        self.client.queue.close();
    }
}
