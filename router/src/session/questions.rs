//! What the business server is asked on a session's behalf, side by side.

use std::future::pending;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use roomring_proto::RoomId;

use crate::auth::{Question, Verdict};

type Answer = Pin<Box<dyn Future<Output = (RoomId, Verdict)> + Send>>;

/// Questions under way. They end with this. The session bounds their number; few have any.
#[derive(Default)]
pub(super) struct Questions(Option<Box<FuturesUnordered<Answer>>>);

impl Questions {
    pub(super) fn ask(&mut self, question: Question) {
        let Question { room, answer } = question;
        self.0.get_or_insert_default().push(Box::pin(async move { (room, answer.await) }));
    }

    /// The next answer. Safe to cancel.
    pub(super) async fn answer(&mut self) -> (RoomId, Verdict) {
        let Some(all) = &mut self.0 else { return pending().await };
        match all.next().await {
            Some(answer) => answer,
            None => {
                self.0 = None;
                pending().await
            }
        }
    }
}
