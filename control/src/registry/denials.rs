//! Denials in etcd: written for a while, and followed by routers.

use etcd_client::{Event, EventType, GetOptions, KeyValue, PutOptions, Txn, TxnOp, WatchOptions};
use prost::Message;

use super::Registry;
use super::backoff::Backoff;
use super::client::{self, EtcdError};
use crate::denials::Denial;

/// How long one that is taken back stays, in seconds: whoever watches sees it, whoever comes later need not.
const LIFTED: u64 = 10;

/// What became of the denials in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These are all of them.
    All(Vec<Denial>),
    /// One is new, or has changed.
    Put(Denial),
    /// The one of this [`Denial::name`] is no more.
    Gone(String),
}

impl Registry {
    /// Writes a denial, which etcd forgets after `seconds`. An error says nothing about whether it is written.
    ///
    /// # Errors
    /// If etcd does not answer.
    pub async fn put_denial(&self, denial: &Denial, seconds: u64) -> Result<(), EtcdError> {
        let ttl = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        let etcd = &self.shared.etcd;
        let lease = etcd.call(|c| async move { c.lease_client().grant(ttl, None).await }).await?.id();
        let options = PutOptions::new().with_lease(lease);
        let (key, value) = (self.denial_key(denial), denial.to_wire().encode_to_vec());
        let txn = Txn::new().and_then([TxnOp::put(key, value, Some(options))]);
        etcd.call(|c| async move { client::kv(&c).txn(txn).await }).await.map(drop)
    }

    /// Takes one back: from now on it is over.
    ///
    /// # Errors
    /// If etcd does not answer.
    pub async fn lift_denial(&self, denial: &Denial) -> Result<(), EtcdError> {
        self.put_denial(&Denial { until: 0, ..denial.clone() }, LIFTED).await
    }

    /// Tells of all denials, and then of what changes, for ever. Without etcd what was told last stands.
    pub async fn follow_denials(&self, mut told: impl FnMut(Change)) {
        let mut backoff = Backoff::default();
        loop {
            let error = self.follow_denials_once(&mut told, &mut backoff).await;
            tracing::debug!(%error, "the watch of denials broke");
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn follow_denials_once(&self, told: &mut impl FnMut(Change), backoff: &mut Backoff) -> EtcdError {
        let (etcd, prefix) = (&self.shared.etcd, self.shared.keys.denials());
        let all = GetOptions::new().with_prefix();
        let answer = match etcd.call(|c| async move { client::kv(&c).get(prefix, Some(all)).await }).await {
            Ok(answer) => answer,
            Err(error) => return error,
        };
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        told(Change::All(answer.kvs().iter().filter_map(decode).collect()));
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let watch = etcd.call(|c| async move { c.watch_client().watch(prefix, Some(options)).await });
        let mut watch = match watch.await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        loop {
            let ended = |reason: &str| EtcdError::new(etcd.url(), reason);
            match watch.message().await {
                Ok(Some(response)) if response.compact_revision() != 0 => return ended("the watch fell behind"),
                Ok(Some(response)) if response.canceled() => return ended("the watch was cancelled"),
                Ok(Some(response)) => {
                    backoff.reset();
                    response.events().iter().filter_map(|event| change(prefix, event)).for_each(&mut *told);
                }
                Ok(None) => return ended("the watch ended"),
                Err(error) => return ended(&client::reason(&error)),
            }
        }
    }

    /// Where a denial is in etcd.
    fn denial_key(&self, denial: &Denial) -> String {
        format!("{}{}", self.shared.keys.denials(), denial.name())
    }
}

fn change(prefix: &str, event: &Event) -> Option<Change> {
    let kv = event.kv()?;
    match event.event_type() {
        EventType::Put => decode(kv).map(Change::Put),
        EventType::Delete => Some(Change::Gone(String::from_utf8_lossy(kv.key()).strip_prefix(prefix)?.to_owned())),
    }
}

fn decode(kv: &KeyValue) -> Option<Denial> {
    match Denial::decode(kv.value()) {
        Ok(denial) => Some(denial),
        Err(error) => {
            let key = String::from_utf8_lossy(kv.key());
            tracing::warn!(%key, %error, "skipping a denial in etcd that can't be read");
            None
        }
    }
}
