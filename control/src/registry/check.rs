//! The task that renews contact with etcd, and finds out when the watch no longer tells the truth.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::GetOptions;

use super::client::{self, EtcdError};
use super::state::{Check, Finding, KeyRevision};
use super::{Shared, check_interval, now};

/// How long the watch may lag behind a linearizable read before everything is loaded again.
const STALLED: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut behind_since = None;
    loop {
        let interval = check_interval(&shared.view.borrow());
        let started = tokio::time::Instant::now();
        match check(&shared).await {
            Ok(Finding::InSync) => behind_since = None,
            Ok(Finding::Behind) if now().since(*behind_since.get_or_insert_with(now)) < STALLED => {}
            Ok(Finding::Behind | Finding::Contradiction) => {
                behind_since = None;
                shared.reload.notify_one();
            }
            Err(error) => shared.outage.failed(&error, interval),
        }
        shared.tick();
        tokio::select! {
            () = tokio::time::sleep_until(started + interval) => {}
            () = shared.check_soon.notified() => {}
        }
    }
}

/// One linearizable read of every key's revision. Ranges are linearizable unless asked otherwise.
async fn check(shared: &Shared) -> Result<Finding, EtcdError> {
    let before = shared.lock().before();
    let sent = now();
    let prefix = shared.keys.prefix();
    let options = GetOptions::new().with_prefix().with_keys_only();
    let answer = shared.etcd.call(|c| async move { client::kv(&c).get(prefix, Some(options)).await }).await?;
    shared.outage.over(shared.etcd.url());
    let keys = answer.kvs().iter().map(|kv| KeyRevision {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        mod_revision: kv.mod_revision(),
        lease: kv.lease(),
    });
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let check = Check { keys: keys.collect(), revision, before, sent, received: now() };
    let (finding, own) = shared.update(|state| (state.check(&check), state.holds_own_key(&check)));
    if !own {
        shared.own_key_lost.notify_one();
    }
    Ok(finding)
}
