//! Writes of the placement and the intents, by compare-and-swap.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use roomring_proto::{Malformed, NodeId};

use crate::placement::Placement;
use crate::view::Intents;

use super::Registry;
use super::backoff::Backoff;
use super::client::{self, EtcdError};

/// A placement to be written.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// mod_revision of the placement it is based on; 0 = there is none yet.
    pub base_revision: i64,
    /// What to write.
    pub placement: Arc<Placement>,
    /// mod_revisions of node keys (0 = absent) that the proposal counts on: etcd compares them in the same transaction. So a
    /// process that registered again at the last moment can't be taken for gone.
    pub counts_on: BTreeMap<NodeId, i64>,
}

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed {
    /// It is written, and in the view.
    Won,
    /// Something it was based on had changed: the watch brings what.
    Lost,
    /// No answer: it may be written, or may yet be.
    Unknown,
}

/// Why the intents were not changed.
#[derive(Debug, thiserror::Error)]
pub enum IntentsError {
    /// No answer: the change may have been made.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// What is there can't be read, so it is not overwritten.
    #[error("{key}: {source}")]
    Unreadable {
        /// The key.
        key: String,
        /// What is wrong with its value.
        source: Malformed,
    },
    /// Others changed them all the time.
    #[error("{key}: changed by others {ATTEMPTS} times in a row, try again")]
    Contended {
        /// The key.
        key: String,
    },
}

/// How often a write is tried: several elections of an etcd leader.
const ATTEMPTS: u32 = 5;

impl Registry {
    /// Writes a placement if everything it is based on still is as it was. Repeated without harm if the answer got lost.
    pub async fn propose(&self, proposal: &Proposal) -> Proposed {
        let keys = &self.shared.keys;
        let value = proposal.placement.encode();
        let mut conditions = vec![Compare::mod_revision(keys.placement(), CompareOp::Equal, proposal.base_revision)];
        for (node, &revision) in &proposal.counts_on {
            conditions.push(Compare::mod_revision(keys.node(node), CompareOp::Equal, revision));
        }
        let mut backoff = Backoff::default();
        while backoff.attempts() < ATTEMPTS {
            match self.swap(keys.placement(), conditions.clone(), value.clone()).await {
                Ok(Swap::Done { revision }) => return self.won(proposal, revision),
                // An earlier attempt whose answer got lost had landed.
                Ok(Swap::Refused { current: Some((current, revision)) })
                    if revision > proposal.base_revision && current == value =>
                {
                    return self.won(proposal, revision);
                }
                Ok(Swap::Refused { .. }) => return Proposed::Lost,
                Err(error) => {
                    let wait = backoff.next();
                    self.shared.outage.failed(&error, wait);
                    tokio::time::sleep(wait).await;
                }
            }
        }
        Proposed::Unknown
    }

    fn won(&self, proposal: &Proposal, revision: i64) -> Proposed {
        self.shared.update(|state| state.written(proposal.placement.clone(), revision));
        Proposed::Won
    }

    /// Changes what operators want, on top of whatever is there. `change` may be called several times.
    ///
    /// # Errors
    /// If etcd does not answer, or holds something unreadable.
    pub async fn update_intents(&self, mut change: impl FnMut(&mut Intents)) -> Result<(), IntentsError> {
        let key = self.shared.keys.intents();
        // Expected to be absent first: the refusal brings what is there.
        let (mut intents, mut revision) = (Intents::default(), 0);
        for _ in 0..ATTEMPTS {
            change(&mut intents);
            let condition = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            match self.swap(key.clone(), vec![condition], intents.encode().into()).await? {
                Swap::Done { .. } => return Ok(()),
                Swap::Refused { current: None } => (intents, revision) = (Intents::default(), 0),
                Swap::Refused { current: Some((value, at)) } => {
                    let unreadable = |source| IntentsError::Unreadable { key: key.clone(), source };
                    (intents, revision) = (Intents::decode(&value).map_err(unreadable)?, at);
                }
            }
        }
        Err(IntentsError::Contended { key })
    }

    async fn swap(&self, key: String, when: Vec<Compare>, value: Bytes) -> Result<Swap, EtcdError> {
        let txn = Txn::new()
            .when(when)
            .and_then([TxnOp::put(key.as_str(), value, None)])
            .or_else([TxnOp::get(key.as_str(), None)]);
        let answer = self.shared.etcd.call(|c| async move { client::kv(&c).txn(txn).await }).await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            return Ok(Swap::Done { revision });
        }
        Ok(Swap::Refused { current: first_value(&answer) })
    }
}

enum Swap {
    Done { revision: i64 },
    Refused { current: Option<(Bytes, i64)> },
}

fn first_value(answer: &TxnResponse) -> Option<(Bytes, i64)> {
    answer.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(range) => {
            range.kvs().first().map(|kv| (Bytes::copy_from_slice(kv.value()), kv.mod_revision()))
        }
        _ => None,
    })
}
