//! Watches: nothing missed, nothing twice, and the truth where the past is gone.

use etcd_client::{Client, EventType, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use tonic::Code;

use crate::{code, soon};

async fn next(watch: &mut WatchStream) -> WatchResponse {
    soon("a watch response", watch.message()).await.unwrap().expect("the stream is open")
}

async fn events(watch: &mut WatchStream, wanted: usize) -> Vec<(EventType, String, i64)> {
    let mut seen = Vec::new();
    while seen.len() < wanted {
        let message = next(watch).await;
        assert!(!message.canceled(), "{}", message.cancel_reason());
        for event in message.events() {
            let kv = event.kv().unwrap();
            seen.push((event.event_type(), kv.key_str().unwrap().to_owned(), kv.mod_revision()));
        }
    }
    seen
}

pub(crate) async fn past_and_present(mut etcd: Client) {
    let base = etcd.put("w/a", "1", None).await.unwrap().header().unwrap().revision();
    etcd.put("w/b", "1", None).await.unwrap();
    etcd.put("elsewhere", "1", None).await.unwrap();
    etcd.delete("w/a", None).await.unwrap();
    let options = WatchOptions::new().with_prefix().with_start_revision(base);
    let mut watch = etcd.watch("w/", Some(options)).await.unwrap();
    let created = next(&mut watch).await;
    assert!(created.created() && !created.canceled() && created.events().is_empty());
    etcd.put("w/c", "1", None).await.unwrap();
    let key = |k: &str, kind, revision| (kind, format!("w/{k}"), revision);
    let wanted = [
        key("a", EventType::Put, base),
        key("b", EventType::Put, base + 1),
        key("a", EventType::Delete, base + 3),
        key("c", EventType::Put, base + 4),
    ];
    assert_eq!(events(&mut watch, wanted.len()).await, wanted);

    let filters = [WatchFilterType::NoPut];
    let options = WatchOptions::new().with_prefix().with_start_revision(base).with_filters(filters);
    let mut deletions = etcd.watch("w/", Some(options)).await.unwrap();
    assert_eq!(events(&mut deletions, 1).await, [key("a", EventType::Delete, base + 3)]);

    let mut from_now = etcd.watch("w/a", None).await.unwrap();
    assert!(next(&mut from_now).await.created());
    etcd.put("w/a", "now", None).await.unwrap();
    assert_eq!(events(&mut from_now, 1).await, [key("a", EventType::Put, base + 5)]);
}

pub(crate) async fn several_on_one_stream(mut etcd: Client) {
    let mut watch = etcd.watch("many/a", None).await.unwrap();
    let first = next(&mut watch).await.watch_id();
    watch.watch("many/b", None).await.unwrap();
    let second = next(&mut watch).await;
    assert!(second.created() && second.watch_id() != first);
    etcd.put("many/b", "1", None).await.unwrap();
    let message = next(&mut watch).await;
    assert_eq!((message.watch_id(), message.events().len()), (second.watch_id(), 1));
    watch.cancel(second.watch_id()).await.unwrap();
    let cancelled = next(&mut watch).await;
    assert!(cancelled.canceled() && cancelled.watch_id() == second.watch_id());
    etcd.put("many/b", "2", None).await.unwrap();
    etcd.put("many/a", "1", None).await.unwrap();
    assert_eq!(next(&mut watch).await.watch_id(), first, "nothing of the cancelled one");
}

pub(crate) async fn progress(mut etcd: Client) {
    let mut watch = etcd.watch("progress/a", None).await.unwrap();
    assert!(next(&mut watch).await.created());
    let revision = etcd.put("progress/elsewhere", "1", None).await.unwrap().header().unwrap().revision();
    // An old etcd stays silent while a watcher is not synced: asked until it answers.
    let reached = soon("progress", async {
        loop {
            watch.request_progress().await.unwrap();
            if let Ok(message) = tokio::time::timeout(std::time::Duration::from_secs(1), watch.message()).await {
                break message.unwrap().unwrap();
            }
        }
    })
    .await;
    assert!(reached.events().is_empty() && reached.header().unwrap().revision() >= revision);
}

pub(crate) async fn starting_in_the_future(mut etcd: Client) {
    let now = etcd.put("future/a", "0", None).await.unwrap().header().unwrap().revision();
    let options = WatchOptions::new().with_start_revision(now + 2);
    let mut watch = etcd.watch("future/a", Some(options)).await.unwrap();
    assert!(next(&mut watch).await.created());
    etcd.put("future/a", "1", None).await.unwrap();
    etcd.put("future/a", "2", None).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].2, now + 2);
}

pub(crate) async fn compaction(mut etcd: Client) {
    let first = etcd.put("compact/a", "1", None).await.unwrap().header().unwrap().revision();
    for value in ["2", "3"] {
        etcd.put("compact/a", value, None).await.unwrap();
    }
    etcd.compact(first + 1, None).await.unwrap();
    assert_eq!(code(etcd.compact(first + 1, None).await.unwrap_err()), Code::OutOfRange);
    assert_eq!(code(etcd.compact(first + 100, None).await.unwrap_err()), Code::OutOfRange);
    let at = |revision| Some(etcd_client::GetOptions::new().with_revision(revision));
    assert_eq!(code(etcd.get("compact/a", at(first)).await.unwrap_err()), Code::OutOfRange);
    assert_eq!(etcd.get("compact/a", at(first + 1)).await.unwrap().kvs()[0].value(), b"2");

    let mut late = etcd.watch("compact/a", Some(WatchOptions::new().with_start_revision(first))).await.unwrap();
    assert!(next(&mut late).await.created());
    let told = next(&mut late).await;
    assert!(told.canceled());
    assert_eq!(told.compact_revision(), first + 1);
    let options = WatchOptions::new().with_start_revision(first + 2);
    let mut whole = etcd.watch("compact/a", Some(options)).await.unwrap();
    assert_eq!(events(&mut whole, 1).await[0].2, first + 2);
}
