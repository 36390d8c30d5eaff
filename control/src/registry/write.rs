//! Writes by compare-and-swap: the placement, and how the intents are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use roomring_proto::NodeId;

use crate::placement::Placement;
use crate::view::Intents;

use super::Registry;
use super::backoff::Backoff;
use super::client::{self, Etcd, EtcdError};
use super::intents::{self, IntentsError};

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

/// How often a write is tried: several elections of an etcd leader.
pub(super) const ATTEMPTS: u32 = 5;

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
            match swap(&self.shared.etcd, &keys.placement(), conditions.clone(), value.clone()).await {
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

    /// Changes what operators want: see [`IntentsStore::update`](super::IntentsStore::update).
    ///
    /// # Errors
    /// If etcd does not answer, or holds something unreadable.
    pub async fn update_intents<T, E>(
        &self,
        change: impl FnMut(&mut Intents) -> Result<T, E>,
    ) -> Result<Result<T, E>, IntentsError> {
        intents::update(&self.shared.etcd, &self.shared.keys.intents(), change).await
    }
}

/// Writes `value` if `when` holds.
pub(super) async fn swap(etcd: &Etcd, key: &str, when: Vec<Compare>, value: Bytes) -> Result<Swap, EtcdError> {
    let txn = Txn::new().when(when).and_then([TxnOp::put(key, value, None)]).or_else([TxnOp::get(key, None)]);
    let answer = etcd.call(|c| async move { client::kv(&c).txn(txn).await }).await?;
    if answer.succeeded() {
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        return Ok(Swap::Done { revision });
    }
    Ok(Swap::Refused { current: first_value(&answer) })
}

pub(super) enum Swap {
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
