//! The Watch service: one task a stream, which reads on in the store whenever the revision rises.
//!
//! A watcher is only a place in the store's past, so a slow one costs no memory; one that the compaction overtakes is
//! cancelled and told so, as by etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::EventType;
use etcd_client::proto::{PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::error::Error;
use super::range::KeyRange;
use super::shared::Shared;
use super::store::Events;

/// Responses that may wait for the client: few, since what comes later is read from the store when there is room.
const QUEUE: usize = 4;

/// Most watchers on one stream, as each costs a look at every revision. We use one.
const MAX_WATCHERS: usize = 1000;

/// How often an idle watcher that asked for it hears how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// The id that stands for the whole stream in the answer to a progress request, and for none in a refusal.
const NO_WATCHER: i64 = -1;

/// Serves watches.
#[derive(Debug)]
pub(super) struct Service(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbWatchService for Service {
    type WatchStream = ReceiverStream<Result<PbWatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (out, responses) = mpsc::channel(QUEUE);
        let stream = WatchStream { shared: Arc::clone(&self.0), watchers: BTreeMap::new(), last_id: 0, out };
        let cancel = self.0.cancel.clone();
        // Ends when the client goes or the server stops.
        tokio::spawn(async move {
            let _ = cancel.run_until_cancelled(stream.run(request.into_inner())).await;
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// One range being watched.
#[derive(Debug)]
struct Watcher {
    range: KeyRange,
    /// First revision not looked at yet.
    next: i64,
    prev_kv: bool,
    puts: bool,
    deletes: bool,
    progress: bool,
    /// Something was sent since the last progress tick.
    busy: bool,
}

/// All watchers of one client stream.
struct WatchStream {
    shared: Arc<Shared>,
    watchers: BTreeMap<i64, Watcher>,
    last_id: i64,
    out: mpsc::Sender<Result<PbWatchResponse, Status>>,
}

/// The client is gone.
#[derive(Debug)]
struct Gone;

impl WatchStream {
    /// Runs until the client is gone.
    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) -> Result<std::convert::Infallible, Gone> {
        let mut revisions = self.shared.revisions();
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        let mut asking = true;
        loop {
            tokio::select! {
                () = self.out.closed() => return Err(Gone),
                request = requests.message(), if asking => match request {
                    Ok(Some(PbWatchRequest { request_union: Some(request) })) => self.on_request(request).await?,
                    Ok(Some(_)) => {}
                    // A client may stop asking and still listen.
                    Ok(None) => asking = false,
                    Err(_) => return Err(Gone),
                },
                changed = revisions.changed() => {
                    changed.map_err(|_| Gone)?;
                    self.pump().await?;
                }
                _ = progress.tick() => self.on_progress_tick().await?,
            }
        }
    }

    async fn on_request(&mut self, request: PbWatchRequestUnion) -> Result<(), Gone> {
        match request {
            PbWatchRequestUnion::CreateRequest(wanted) => {
                let key: &[u8] = if wanted.key.is_empty() { &[0] } else { &wanted.key };
                let range = KeyRange::new(key, &wanted.range_end);
                let id = if wanted.watch_id != 0 { wanted.watch_id } else { self.free_id() };
                let problem = if self.watchers.contains_key(&id) {
                    Some("mvcc: duplicate watch ID provided on the WatchStream")
                } else if range.is_empty() {
                    Some("mvcc: empty watcher range")
                } else if self.watchers.len() >= MAX_WATCHERS {
                    Some("embedded etcd: too many watchers on one stream")
                } else {
                    None
                };
                if let Some(reason) = problem {
                    let cancel_reason = reason.to_owned();
                    let response =
                        PbWatchResponse { created: true, canceled: true, cancel_reason, ..answer(NO_WATCHER) };
                    return self.send(response, None).await;
                }
                let next = if wanted.start_revision > 0 { wanted.start_revision } else { self.revision() + 1 };
                let watcher = Watcher {
                    range,
                    next,
                    prev_kv: wanted.prev_kv,
                    puts: !wanted.filters.contains(&(etcd_client::WatchFilterType::NoPut as i32)),
                    deletes: !wanted.filters.contains(&(etcd_client::WatchFilterType::NoDelete as i32)),
                    progress: wanted.progress_notify,
                    busy: true,
                };
                self.send(PbWatchResponse { created: true, ..answer(id) }, None).await?;
                self.watchers.insert(id, watcher);
                self.pump().await
            }
            PbWatchRequestUnion::CancelRequest(cancel) => match self.watchers.remove(&cancel.watch_id) {
                Some(_) => self.send(PbWatchResponse { canceled: true, ..answer(cancel.watch_id) }, None).await,
                None => Ok(()),
            },
            PbWatchRequestUnion::ProgressRequest(_) => {
                self.pump().await?;
                let reached = self.reached();
                self.send(answer(NO_WATCHER), Some(reached)).await
            }
        }
    }

    /// Sends every watcher what happened since it was last looked at.
    async fn pump(&mut self) -> Result<(), Gone> {
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for id in ids {
            while self.pump_one(id).await? {}
        }
        Ok(())
    }

    /// One part for one watcher; true if there is more.
    async fn pump_one(&mut self, id: i64) -> Result<bool, Gone> {
        let Some(watcher) = self.watchers.get_mut(&id) else { return Ok(false) };
        let (found, compacted, revision) = {
            let store = self.shared.read();
            (store.events(&watcher.range, watcher.next), store.compacted(), store.revision())
        };
        match found {
            Ok(Events { events, next, more }) => {
                watcher.next = next;
                let events: Vec<PbEvent> = events.into_iter().filter_map(|event| watcher.select(event)).collect();
                if !events.is_empty() {
                    watcher.busy = true;
                    self.send(PbWatchResponse { events, ..answer(id) }, Some(revision)).await?;
                }
                Ok(more)
            }
            Err(error) => {
                self.watchers.remove(&id);
                let response = PbWatchResponse {
                    canceled: true,
                    compact_revision: if error == Error::Compacted { compacted } else { 0 },
                    cancel_reason: error.to_string(),
                    ..answer(id)
                };
                self.send(response, Some(revision)).await?;
                Ok(false)
            }
        }
    }

    async fn on_progress_tick(&mut self) -> Result<(), Gone> {
        self.pump().await?;
        let reached = self.reached();
        let idle: Vec<i64> = self
            .watchers
            .iter_mut()
            .filter_map(|(id, w)| (!std::mem::take(&mut w.busy) && w.progress).then_some(*id))
            .collect();
        for id in idle {
            self.send(answer(id), Some(reached)).await?;
        }
        Ok(())
    }

    /// The revision up to which every watcher has been sent everything.
    fn reached(&self) -> i64 {
        // A watcher that starts in the future has missed nothing up to now.
        self.watchers.values().map(|w| w.next - 1).fold(self.revision(), i64::min)
    }

    fn revision(&self) -> i64 {
        self.shared.read().revision()
    }

    fn free_id(&mut self) -> i64 {
        let id = (self.last_id..).find(|id| !self.watchers.contains_key(id)).unwrap_or(NO_WATCHER);
        self.last_id = id + 1;
        id
    }

    /// `revision`: the one the response was made at; `None` for now.
    async fn send(&self, response: PbWatchResponse, revision: Option<i64>) -> Result<(), Gone> {
        let header = self.shared.header(revision.unwrap_or_else(|| self.revision()));
        self.out.send(Ok(PbWatchResponse { header: Some(header), ..response })).await.map_err(|_| Gone)
    }
}

impl Watcher {
    /// The event as this watcher wants it, if it does.
    fn select(&self, mut event: PbEvent) -> Option<PbEvent> {
        let wanted = if event.r#type == EventType::Put as i32 { self.puts } else { self.deletes };
        if !self.prev_kv {
            event.prev_kv = None;
        }
        wanted.then_some(event)
    }
}

fn answer(watch_id: i64) -> PbWatchResponse {
    PbWatchResponse { watch_id, ..PbWatchResponse::default() }
}
