//! One look at a cluster's keys in etcd.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use etcd_client::{Client, ConnectOptions, GetOptions, KeyValue};
use roomring_control::placement::Placement;
use roomring_control::registry::EtcdAccess;
use roomring_control::view::{ClusterView, Intents, NodeEntry, RouterEntry};
use roomring_control::wire::Wire;
use roomring_proto::keys::Keys;
use roomring_proto::{Incarnation, NodeId, limits};

use crate::cli::{Target, Usage};

/// How long one etcd may take to answer before the next is asked.
const DEADLINE: Duration = Duration::from_secs(3);

/// What a cluster keeps in etcd, at one revision.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) nodes: BTreeMap<NodeId, NodeEntry>,
    pub(crate) routers: BTreeMap<NodeId, RouterEntry>,
    pub(crate) intents: Intents,
    pub(crate) placement: Option<Placement>,
    /// Keys whose values can't be read, and why.
    pub(crate) unreadable: Vec<String>,
    /// How nodes and routers are asked for more.
    pub(crate) wire: Wire,
}

impl Snapshot {
    /// Reads from the first etcd that answers.
    pub(crate) async fn read(target: &Target) -> anyhow::Result<Self> {
        let keys = Keys::new(&target.cluster);
        let access = target.access.etcd();
        access.check(&target.etcd).map_err(|e| Usage(e.to_string()))?;
        let wire = target.access.wire().map_err(|e| Usage(e.to_string()))?;
        let mut failures = Vec::new();
        for url in &target.etcd {
            match tokio::time::timeout(DEADLINE, fetch(url, &access, keys.prefix())).await {
                Ok(Ok(kvs)) => return Ok(Self { wire, ..Self::decode(&keys, &kvs) }),
                Ok(Err(e)) => failures.push(format!("{url}: {}", root(&e))),
                Err(_) => failures.push(format!("{url}: no answer within {}s", DEADLINE.as_secs())),
            }
        }
        bail!(
            "etcd is not reachable ({}); start it, or name the right one with --etcd or ROOMRING_ETCD",
            failures.join("; ")
        )
    }

    fn decode(keys: &Keys, kvs: &[KeyValue]) -> Self {
        let mut snapshot = Self::default();
        for kv in kvs {
            let key = String::from_utf8_lossy(kv.key());
            if let Err(e) = snapshot.take(keys, &key, kv.value(), kv.mod_revision()) {
                snapshot.unreadable.push(format!("{key}: {e:#}"));
            }
        }
        snapshot
    }

    fn take(&mut self, keys: &Keys, key: &str, value: &[u8], revision: i64) -> anyhow::Result<()> {
        if let Some(id) = key.strip_prefix(&keys.nodes()) {
            self.nodes.insert(NodeId::new(id)?, NodeEntry::decode(value, revision)?);
        } else if let Some(id) = key.strip_prefix(&keys.routers()) {
            self.routers.insert(NodeId::new(id)?, RouterEntry::decode(value, revision)?);
        } else if key == keys.intents() {
            self.intents = Intents::decode(value)?;
        } else if key == keys.placement() {
            self.placement = Some(Placement::decode(value)?);
        }
        Ok(())
    }

    /// The placement, or what to do if there is none.
    pub(crate) fn formed(&self, target: &Target) -> anyhow::Result<&Placement> {
        if let Some(unreadable) = self.unreadable.iter().find(|u| u.contains("placement")) {
            bail!("the placement can't be read ({unreadable}); a newer roomctl may be needed");
        }
        self.placement.as_ref().with_context(|| {
            format!(
                "cluster {} is not formed yet ({} node(s) registered); start a roomring-node, or name the right cluster with --cluster",
                target.cluster,
                self.nodes.len()
            )
        })
    }

    /// As the planner sees it.
    pub(crate) fn view(&self) -> ClusterView {
        ClusterView {
            nodes: Arc::new(self.nodes.clone()),
            routers: Arc::new(self.routers.clone()),
            intents: Arc::new(self.intents.clone()),
            placement: self.placement.clone().map(Arc::new),
            ..ClusterView::default()
        }
    }

    /// The registered node that is this very process.
    pub(crate) fn registered(&self, incarnation: Incarnation) -> Option<(&NodeId, &NodeEntry)> {
        self.nodes.iter().find(|(_, node)| node.incarnation == incarnation)
    }
}

async fn fetch(url: &str, access: &EtcdAccess, prefix: &str) -> anyhow::Result<Vec<KeyValue>> {
    let options = access.apply(ConnectOptions::new().with_connect_timeout(DEADLINE))?;
    let client = Client::connect([url], Some(options)).await?;
    let mut kv = client.kv_client().max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
    Ok(kv.get(prefix, Some(GetOptions::new().with_prefix())).await?.take_kvs())
}

/// The innermost cause is the one that helps ("Connection refused"); etcd-client's errors don't lead to theirs.
pub(crate) fn root(error: &anyhow::Error) -> String {
    let mut cause: &dyn Error = match error.downcast_ref() {
        Some(etcd_client::Error::GRpcStatus(status)) if status.source().is_none() => {
            return status.message().to_owned();
        }
        Some(etcd_client::Error::GRpcStatus(status)) => status,
        Some(etcd_client::Error::TransportError(e)) => e,
        Some(_) | None => error.root_cause(),
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use roomring_proto::v1;

    #[test]
    fn bad_values_are_told_and_the_rest_is_read() {
        let keys = Keys::new(&"c".parse().unwrap());
        let node = v1::NodeInfo {
            home: "h".to_owned(),
            grpc_addr: "127.0.0.1:1".to_owned(),
            weight: 100,
            ..v1::NodeInfo::default()
        };
        let mut snapshot = Snapshot::default();
        snapshot.take(&keys, "/roomring/c/nodes/a", &node.encode_to_vec(), 7).unwrap();
        assert!(snapshot.take(&keys, "/roomring/c/nodes/b", b"\xff\xff", 8).is_err());
        assert!(snapshot.take(&keys, "/roomring/c/placement", b"\xff\xff", 9).is_err());
        snapshot.take(&keys, "/roomring/c/of-a-later-release", b"?", 10).unwrap();
        assert_eq!(snapshot.registered(Incarnation(7)).unwrap().0.as_str(), "a");
        assert!(snapshot.placement.is_none());
    }
}
