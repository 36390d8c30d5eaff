//! Writes of the intents, by compare-and-swap.

use bytes::Bytes;
use etcd_client::{Compare, CompareOp};
use roomring_proto::keys::Keys;
use roomring_proto::{Malformed, NodeId};

use super::access::EtcdAccess;
use super::client::{self, Etcd, EtcdError};
use super::write::{ATTEMPTS, Swap, swap};
use crate::intents::Intents;

/// The intents of a cluster, for whoever does not follow the rest of its keys.
#[derive(Debug)]
pub struct IntentsStore {
    etcd: Etcd,
    key: String,
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
    #[error("{key}: changed by others {ATTEMPTS} times in a row; nothing was changed, try again")]
    Contended {
        /// The key.
        key: String,
    },
}

impl IntentsStore {
    /// The intents of `cluster` in the etcd at `urls`. Connects on first use.
    ///
    /// # Errors
    /// If a URL can't be used.
    pub fn open(urls: &[String], access: EtcdAccess, cluster: &NodeId) -> Result<Self, EtcdError> {
        Ok(Self { etcd: Etcd::new(urls, access)?, key: Keys::new(cluster).intents() })
    }

    /// Changes the intents on top of whatever is there; `change` may be called several times, each time on what others wrote
    /// meanwhile. Nothing is written where it refuses, which comes back as the inner error, or changes nothing.
    ///
    /// # Errors
    /// If etcd does not answer, or holds something unreadable.
    pub async fn update<T, E>(
        &self,
        change: impl FnMut(&mut Intents) -> Result<T, E>,
    ) -> Result<Result<T, E>, IntentsError> {
        update(&self.etcd, &self.key, change).await
    }
}

/// See [`IntentsStore::update`].
pub(super) async fn update<T, E>(
    etcd: &Etcd,
    key: &str,
    mut change: impl FnMut(&mut Intents) -> Result<T, E>,
) -> Result<Result<T, E>, IntentsError> {
    let answer = etcd.call(|c| async move { client::kv(&c).get(key, None).await }).await?;
    let mut current = answer.kvs().first().map(|kv| (Bytes::copy_from_slice(kv.value()), kv.mod_revision()));
    for _ in 0..ATTEMPTS {
        let unreadable = |source| IntentsError::Unreadable { key: key.to_owned(), source };
        let (before, revision) = match &current {
            Some((value, revision)) => (Intents::decode(value).map_err(unreadable)?, *revision),
            None => (Intents::default(), 0),
        };
        let mut after = before.clone();
        let told = match change(&mut after) {
            Ok(told) if after != before => told,
            settled => return Ok(settled),
        };
        let condition = Compare::mod_revision(key, CompareOp::Equal, revision);
        match swap(etcd, key, vec![condition], after.encode().into()).await? {
            Swap::Done { .. } => return Ok(Ok(told)),
            Swap::Refused { current: found } => current = found,
        }
    }
    Err(IntentsError::Contended { key: key.to_owned() })
}
