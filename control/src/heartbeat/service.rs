//! Beating: what this process tells those who listen.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt, stream};
use roomring_proto::v1::watch_server::{Watch, WatchServer};
use roomring_proto::{Incarnation, LINK_VERSION, v1};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::ear::check;
use super::{BEAT, LoadNow, Shared};
use crate::clock::Time;
use crate::load::SAMPLE;
use crate::view::ClusterView;

/// How often a listener that says nothing is probed, and how long its answer may take: one that vanished holds nothing for long.
const PROBE: Duration = Duration::from_secs(3);

/// Age of the slowest worker's last turn.
type WorkerAge = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Serves `Watch`.
#[derive(Clone)]
pub(super) struct WatchService {
    shared: Arc<Shared>,
    view: watch::Receiver<ClusterView>,
    worker_age: WorkerAge,
    load: Option<LoadNow>,
}

impl fmt::Debug for WatchService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchService").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl WatchService {
    pub(super) fn new(
        shared: Arc<Shared>,
        view: watch::Receiver<ClusterView>,
        worker_age: WorkerAge,
        load: Option<LoadNow>,
    ) -> Self {
        Self { shared, view, worker_age, load }
    }

    pub(super) async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        self.shared
            .config
            .wire
            .server()?
            .http2_keepalive_interval(Some(PROBE))
            .http2_keepalive_timeout(Some(PROBE))
            .add_service(WatchServer::new(self))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
            .await
    }

    fn beat(&self) -> v1::Beat {
        let (placement, contact) = {
            let view = self.view.borrow();
            (view.placement.as_ref().map(|p| p.reference().into()), view.contact)
        };
        let config = &self.shared.config;
        v1::Beat {
            version: Some(LINK_VERSION),
            cluster: config.cluster.to_string(),
            id: config.id.to_string(),
            incarnation: config.me.0,
            placement,
            worker_age_ms: millis((self.worker_age)()),
            contact_age_ms: contact.map_or(u64::MAX, |at| millis(Time::now().since(at))),
            load: None,
        }
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type ListenStream = Pin<Box<dyn Stream<Item = Result<v1::Beat, Status>> + Send>>;

    async fn listen(&self, request: Request<v1::ListenRequest>) -> Result<Response<Self::ListenStream>, Status> {
        let request = request.into_inner();
        check(request.version, &request.cluster, &self.shared)?;
        let mut ticks = interval(BEAT);
        // After a pause one beat says it all.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let loads = request.loads.then(|| interval(SAMPLE));
        let first = (self.clone(), ticks, loads);
        let beats = stream::unfold(first, |(service, mut ticks, mut loads)| async move {
            ticks.tick().await;
            let mut beat = service.beat();
            let due = loads.as_mut().is_some_and(|due| due.tick().now_or_never().is_some());
            beat.load = service.load.as_ref().filter(|_| due).map(|load| load().wire());
            Some((Ok(beat), (service, ticks, loads)))
        });
        let stop = self.shared.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(beats.take_until(stop))))
    }

    async fn opinion(&self, request: Request<v1::OpinionRequest>) -> Result<Response<v1::OpinionReply>, Status> {
        let request = request.into_inner();
        check(Some(LINK_VERSION), &request.cluster, &self.shared)?;
        let silent_for = self.shared.detector().silent_for(Time::now(), Incarnation(request.about));
        Ok(Response::new(v1::OpinionReply { silent_ms: silent_for.map(millis) }))
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
