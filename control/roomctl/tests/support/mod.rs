//! A cluster's keys in an etcd of this process, and roomctl run on it.

use std::process::Output;

use etcd_client::Client;
use prost::Message;
use roomring_control::embedded_etcd::EmbeddedEtcd;
use roomring_proto::v1;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {:?}, {}", self.stdout, self.stderr))
    }
}

pub(crate) async fn roomctl(args: &[&str]) -> Ran {
    let ran = Command::new(env!("CARGO_BIN_EXE_roomctl")).args(args).env_remove("ROOMRING_ETCD").output();
    let Output { status, stdout, stderr } = ran.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// An etcd in this process.
pub(crate) async fn etcd() -> (EmbeddedEtcd, Client) {
    let etcd = EmbeddedEtcd::start("127.0.0.1:0".parse().unwrap(), CancellationToken::new()).await.unwrap();
    let client = Client::connect([etcd.url()], None).await.unwrap();
    (etcd, client)
}

pub(crate) fn member(id: &str, incarnation: u64, active: bool) -> v1::Member {
    v1::Member {
        node_id: id.to_owned(),
        incarnation,
        home: format!("home of {id}"),
        // Nothing listens there.
        grpc_addr: "127.0.0.1:1".to_owned(),
        weight: 100,
        active,
        max_format: 1,
        ..v1::Member::default()
    }
}

pub(crate) async fn register(etcd: &mut Client, member: &v1::Member) {
    let info = v1::NodeInfo {
        incarnation: member.incarnation,
        home: member.home.clone(),
        grpc_addr: member.grpc_addr.clone(),
        weight: member.weight,
        max_format: 1,
        ..v1::NodeInfo::default()
    };
    etcd.put(format!("/roomring/test/nodes/{}", member.node_id), info.encode_to_vec(), None).await.unwrap();
}

/// The write that evicted `c`.
fn eviction() -> v1::Recent {
    v1::Recent {
        version: 8,
        time_ms: 1_700_000_000_000,
        by: "a".to_owned(),
        text: "evict c (silent)".to_owned(),
        evictions: vec![v1::Eviction {
            node_id: "c".to_owned(),
            incarnation: 4,
            cause: v1::eviction::Cause::Silent.into(),
            silent_ms: Some(912),
        }],
        nodes: vec!["c".to_owned()],
        slots: vec![3],
        slots_changed: 1,
        copying_ms: None,
    }
}

/// Four slots on two members, the last one catching up on the other.
pub(crate) async fn place(etcd: &mut Client, members: Vec<v1::Member>) {
    let seat = |member| v1::Seat { member, since: 1 };
    let slot =
        |primary, learners| v1::Slot { term: 3, primary: 0, in_sync: vec![seat(primary)], learners, generation: 1 };
    let placement = v1::Placement {
        uid: 77,
        format: 1,
        version: 9,
        settings: Some(v1::Settings {
            slots: 4,
            replication: 1,
            min_in_sync: 1,
            fence_after_ms: 60_000,
            rooms: Some(v1::RoomLimits { rooms: 1, members: 1, ..Default::default() }),
            ..Default::default()
        }),
        ring: Some(v1::RingParams { vnodes: 128, bound_percent: 125 }),
        members,
        slots: vec![slot(0, vec![]), slot(0, vec![]), slot(1, vec![]), slot(1, vec![seat(0)])],
        recent: vec![eviction()],
        apart: Vec::new(),
    };
    etcd.put("/roomring/test/placement", placement.encode_to_vec(), None).await.unwrap();
}
