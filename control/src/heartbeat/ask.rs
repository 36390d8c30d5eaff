//! Second opinions: what others hear of a node that has fallen silent here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::IteratorRandom;
use roomring_proto::v1::watch_client::WatchClient;
use roomring_proto::{Incarnation, v1};
use tokio::time::timeout;
use tonic::transport::Channel;

use super::Shared;
use crate::detector::Event;

/// How long an opinion may take: a process that takes longer has troubles of its own.
const DEADLINE: Duration = Duration::from_millis(300);

/// Most that are asked at a time: one that agrees is enough, and a large cluster must not ask itself to death.
const ASKED: usize = 8;

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Asker {
    shared: Arc<Shared>,
    nodes: BTreeMap<Incarnation, String>,
    routers: Vec<String>,
    /// By address; they connect when they are first used.
    channels: BTreeMap<String, Channel>,
}

impl Asker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, nodes: BTreeMap::new(), routers: Vec::new(), channels: BTreeMap::new() }
    }

    /// These may be asked from now on.
    pub(super) fn may_ask<'a>(&mut self, nodes: &BTreeMap<Incarnation, &str>, routers: impl Iterator<Item = &'a str>) {
        self.nodes = nodes.iter().map(|(i, addr)| (*i, (*addr).to_owned())).collect();
        self.routers = routers.map(str::to_owned).collect();
        let (nodes, routers) = (&self.nodes, &self.routers);
        self.channels.retain(|addr, _| routers.contains(addr) || nodes.values().any(|a| a == addr));
    }

    /// Asks; the answers come as events.
    pub(super) fn ask(&mut self, about: Incarnation) {
        let nodes = self.nodes.iter().filter(|(i, _)| **i != about).map(|(_, addr)| addr);
        let asked = nodes.chain(&self.routers).cloned().choose_multiple(&mut rand::rng(), ASKED);
        for addr in asked {
            let channel = match self.channels.get(&addr) {
                Some(channel) => channel.clone(),
                None => {
                    let Ok(endpoint) = self.shared.config.wire.endpoint(&addr) else { continue };
                    let channel = endpoint.connect_timeout(DEADLINE).tcp_nodelay(true).connect_lazy();
                    self.channels.entry(addr).or_insert(channel).clone()
                }
            };
            let shared = Arc::clone(&self.shared);
            // Ends by its deadline.
            tokio::spawn(async move {
                let cluster = shared.config.cluster.to_string();
                let request = v1::OpinionRequest { cluster, about: about.0 };
                let reply = timeout(DEADLINE, WatchClient::new(channel).opinion(request)).await;
                let silent_ms = reply.ok().and_then(Result::ok).and_then(|r| r.into_inner().silent_ms);
                let silent_for = silent_ms.map(Duration::from_millis);
                let _ = shared.events.send(Event::Opinion { about, silent_for }).await;
            });
        }
    }
}
