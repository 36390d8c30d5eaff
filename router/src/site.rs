//! How the router is, as its admin port tells.

use std::sync::{Arc, OnceLock};

use roomring_control::daemon::admin::{AdminRequest, Answering, Site};
use roomring_control::metrics::Cluster;
use roomring_control::wire::Wire;

use crate::http::{App, Readiness};
use crate::hub::Hub;
use crate::operator::Operator;

/// What the admin port knows of the router.
#[derive(Debug)]
pub(crate) struct RouterSite {
    pub(crate) app: Arc<App<Hub>>,
    pub(crate) cluster: Cluster,
    hub: OnceLock<Hub>,
    operator: Operator,
}

impl RouterSite {
    pub(crate) fn new(app: Arc<App<Hub>>, wire: Wire) -> Self {
        Self { app, cluster: Cluster::default(), hub: OnceLock::new(), operator: Operator::new(wire) }
    }

    /// The hub has started. Only the first call counts.
    pub(crate) fn started(&self, hub: Hub) {
        // There is one hub in a router's life.
        let _ = self.hub.set(hub);
    }

    pub(crate) fn hub(&self) -> Option<&Hub> {
        self.hub.get()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.app.readiness() == Readiness::Ready
    }
}

impl Site for RouterSite {
    fn ready(&self) -> Result<(), String> {
        match self.app.readiness() {
            Readiness::Ready => Ok(()),
            other => Err(other.to_string()),
        }
    }

    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn answer<'a>(&'a self, request: AdminRequest) -> Answering<'a> {
        Box::pin(async move { self.operator.answer(&self.app, &self.cluster, request).await })
    }
}
