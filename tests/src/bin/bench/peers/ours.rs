//! A whole cluster at shipped defaults, with a real etcd.

use roomring_tests::{Cluster, Options, Weight};

use super::{Part, Server, Setup};
use crate::load::dialect::Dialect;

pub(super) async fn start(setup: Setup) -> Result<Server, String> {
    let options = Options {
        weight: Weight::Heavy,
        nodes: setup.nodes,
        routers: setup.routers,
        slots: setup.slots,
        replication: setup.replication,
        node_flags: setup.flags.to_vec(),
        fence_after: "60s",
        lease_ttl: "10s",
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    let routers = cluster.routers.values().map(|r| (Part::Edge, r.process.pid()));
    let nodes = cluster.nodes.values().map(|n| (Part::Behind, n.process.pid()));
    let parts = routers.chain(nodes).chain([(Part::Etcd, cluster.etcd.process().pid())]).collect();
    let targets = cluster.http();
    Ok(Server { dialect: Dialect::Centrifuge, targets, parts, _running: Box::new(cluster) })
}
