//! The task that loads everything under the cluster's prefix and watches it from there.

use std::sync::Arc;

use etcd_client::{EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use futures_util::FutureExt;
use roomring_proto::limits::GRPC_MESSAGE_BYTES;

use super::backoff::Backoff;
use super::client::{self, EtcdError, REQUEST_DEADLINE};
use super::state::{Event, KeyValue, Load};
use super::{Shared, log_bad, now};

/// Why a watch ended.
enum Ended {
    /// The connection broke: go on from the next revision.
    Broken(EtcdError),
    /// Events were missed, or the check says so: load everything again.
    Incomplete(String),
}

/// Follows for ever, from what was loaded last.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let reason = watch_until_incomplete(&shared).await;
        tracing::info!("loading the cluster's keys again: {reason}");
        load(&shared).await;
    }
}

/// Loads everything, trying until it succeeds.
pub(super) async fn load(shared: &Shared) {
    let mut backoff = Backoff::default();
    loop {
        match load_once(shared).await {
            Ok(true) => break,
            // A write of our own came between.
            Ok(false) => {}
            Err(error) => {
                let wait = backoff.next();
                shared.outage.failed(&error, wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
    // What a check wished for before is done now.
    let _ = shared.reload.notified().now_or_never();
}

async fn load_once(shared: &Shared) -> Result<bool, EtcdError> {
    let before = shared.lock().before();
    let prefix = shared.keys.prefix();
    let answer = shared
        .etcd
        .call(|c| async move { client::kv(&c).get(prefix, Some(GetOptions::new().with_prefix())).await })
        .await?;
    shared.outage.over(shared.etcd.url());
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let values = answer.kvs().iter().map(key_value).collect();
    let load = Load { values, revision, before, received: now() };
    let loaded = shared.update(|state| state.load(load));
    Ok(loaded.map(log_bad).is_some())
}

async fn watch_until_incomplete(shared: &Shared) -> String {
    let mut backoff = Backoff::default();
    loop {
        let ended = match open(shared).await {
            Ok(stream) => consume(shared, stream, &mut backoff).await,
            Err(error) => Ended::Broken(error),
        };
        match ended {
            Ended::Incomplete(reason) => return reason,
            Ended::Broken(error) => {
                let wait = backoff.next();
                tracing::debug!(%error, "the watch broke");
                shared.outage.failed(&error, wait);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    // A wiped etcd would let us wait for a revision that is long in coming.
                    () = shared.reload.notified() => return "etcd has other keys than were seen".into(),
                }
            }
        }
    }
}

async fn open(shared: &Shared) -> Result<WatchStream, EtcdError> {
    let start = shared.lock().next_revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(start);
    let prefix = shared.keys.prefix();
    shared
        .etcd
        .call(|c| async move {
            c.watch_client().max_decoding_message_size(GRPC_MESSAGE_BYTES).watch(prefix, Some(options)).await
        })
        .await
}

async fn consume(shared: &Shared, mut stream: WatchStream, backoff: &mut Backoff) -> Ended {
    let url = shared.etcd.url().to_owned();
    let broken = |reason: String| Ended::Broken(EtcdError::new(&url, reason));
    // The first message confirms the watch; afterwards silence is fine, the check finds out if it lasts too long.
    let mut confirmed = false;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            () = shared.reload.notified() => {
                // If the watch went quiet it may be this server's fault.
                shared.etcd.next();
                return Ended::Incomplete("etcd has other keys than the watch has shown".into());
            }
            () = tokio::time::sleep(REQUEST_DEADLINE), if !confirmed => return broken("the watch is not confirmed".into()),
        };
        match message {
            Ok(Some(response)) if response.compact_revision() != 0 => {
                return Ended::Incomplete(format!("revisions up to {} are compacted", response.compact_revision()));
            }
            Ok(Some(response)) if response.canceled() => {
                return broken(format!("the watch was cancelled: {}", response.cancel_reason()));
            }
            Ok(Some(response)) => {
                confirmed = true;
                backoff.reset();
                let events = events(&response);
                if !events.is_empty() {
                    log_bad(shared.update(|state| state.apply(events)));
                }
            }
            Ok(None) => return broken("the watch ended".into()),
            Err(error) => return broken(client::reason(&error)),
        }
    }
}

fn events(response: &WatchResponse) -> Vec<Event> {
    let event = |e: &etcd_client::Event| {
        let kv = e.kv()?;
        Some(match e.event_type() {
            EventType::Put => Event::Put(key_value(kv)),
            EventType::Delete => {
                let key = String::from_utf8_lossy(kv.key()).into_owned();
                Event::Delete { key, mod_revision: kv.mod_revision() }
            }
        })
    };
    response.events().iter().filter_map(event).collect()
}

fn key_value(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        mod_revision: kv.mod_revision(),
    }
}
