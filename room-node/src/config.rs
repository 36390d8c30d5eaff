//! The node's settings: flags, `ROOMRING_*` variables, a TOML file, defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use roomring_control::daemon::config::Settings;
use roomring_control::daemon::telemetry::LogFormat;
use roomring_control::daemon::{ByteSize, Invalid, Span};
use roomring_control::placement;
use roomring_proto::{NodeId, limits};
use serde::{Deserialize, Serialize};

use crate::room::RoomLimits;

/// A Roomring room node: holds rooms, orders and keeps their messages.
#[derive(Debug, clap::Parser, Serialize)]
#[command(name = "roomring-node", version)]
pub struct Flags {
    /// Name of this node, unique in the cluster
    #[arg(long, env = "ROOMRING_ID")]
    id: Option<String>,
    /// Name of the cluster [default: roomring]
    #[arg(long, env = "ROOMRING_CLUSTER")]
    cluster: Option<String>,
    /// etcd servers [default: http://127.0.0.1:2379]
    #[arg(long, env = "ROOMRING_ETCD", value_name = "URL,...", value_delimiter = ',')]
    etcd: Option<Vec<String>>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:7400]
    #[arg(long, env = "ROOMRING_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Address at which routers and other nodes reach this one [default: the one listened on]
    #[arg(long, env = "ROOMRING_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Address of the heartbeats, on the advertised host [default: a free port of the IP listened on]
    #[arg(long, env = "ROOMRING_WATCH_LISTEN", value_name = "IP:PORT")]
    watch_listen: Option<SocketAddr>,
    /// This node's own directory [default: ./roomring-ID]
    #[arg(long, env = "ROOMRING_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Failure zone; replicas of a slot are spread over zones [default: none]
    #[arg(long, env = "ROOMRING_ZONE")]
    zone: Option<String>,
    /// Share of the slots in percent of a usual node's [default: 100]
    #[arg(long, env = "ROOMRING_WEIGHT")]
    weight: Option<u32>,
    /// Slots of a cluster that is new [default: 1024]
    #[arg(long, env = "ROOMRING_SLOTS")]
    slots: Option<u32>,
    /// Copies of each slot in a cluster that is new; with fewer nodes as many as there are [default: 2]
    #[arg(long, env = "ROOMRING_REPLICATION")]
    replication: Option<u32>,
    /// Copies without which publishes wait, in a cluster that is new [default: 1]
    #[arg(long, env = "ROOMRING_MIN_IN_SYNC")]
    min_in_sync: Option<u32>,
    /// How long a node serves without etcd, in a cluster that is new [default: 60s]
    #[arg(long, env = "ROOMRING_FENCE_AFTER", value_name = "TIME")]
    fence_after: Option<Span>,
    /// How long this node stays registered after it died [default: 10s]
    #[arg(long, env = "ROOMRING_LEASE_TTL", value_name = "TIME")]
    lease_ttl: Option<Span>,
    /// Nodes found dead by their heartbeats go at once while half of those of this long ago remain [default: 60s]
    #[arg(long, env = "ROOMRING_EVICTION_WINDOW", value_name = "TIME")]
    eviction_window: Option<Span>,
    /// How long members of a vanished router stay [default: 10s]
    #[arg(long, env = "ROOMRING_PRESENCE_GRACE", value_name = "TIME")]
    presence_grace: Option<Span>,
    /// Most messages that a room's history keeps [default: 100]
    #[arg(long, env = "ROOMRING_HISTORY_SIZE", value_name = "N")]
    history_size: Option<u32>,
    /// How long a room's history keeps a message [default: 5m]
    #[arg(long, env = "ROOMRING_HISTORY_AGE", value_name = "TIME")]
    history_age: Option<Span>,
    /// Most bytes that a room's history keeps [default: 1MiB]
    #[arg(long, env = "ROOMRING_HISTORY_BYTES", value_name = "SIZE")]
    history_bytes: Option<ByteSize>,
    /// How long ids of publishes are remembered [default: 2m]
    #[arg(long, env = "ROOMRING_ID_WINDOW", value_name = "TIME")]
    id_window: Option<Span>,
    /// Most ids of publishes that a room remembers [default: 10000]
    #[arg(long, env = "ROOMRING_IDS_PER_ROOM", value_name = "N")]
    ids_per_room: Option<u32>,
    /// Members above which a room tells only how many there are [default: 1000]
    #[arg(long, env = "ROOMRING_PRESENCE_LIST_LIMIT", value_name = "N")]
    presence_list_limit: Option<u32>,
    /// Most rooms of a slot [default: 16384]
    #[arg(long, env = "ROOMRING_ROOMS_LIMIT", value_name = "N")]
    rooms_limit: Option<u32>,
    /// Most members of a room [default: 1000000]
    #[arg(long, env = "ROOMRING_MEMBERS_LIMIT", value_name = "N")]
    members_limit: Option<u32>,
    /// How long a stop waits for the rooms to move away [default: 20s]
    #[arg(long, env = "ROOMRING_STOP_GRACE", value_name = "TIME")]
    stop_grace: Option<Span>,
    /// What is logged, such as info or info,roomring_node=debug [default: info]
    #[arg(long, env = "ROOMRING_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, env = "ROOMRING_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

/// Finished settings of a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this node.
    pub id: NodeId,
    /// Name of the cluster.
    #[serde(default = "default::cluster")]
    pub cluster: NodeId,
    /// etcd servers, `http://host:port`.
    #[serde(default = "default::etcd")]
    pub etcd: Vec<String>,
    /// Address to listen on.
    #[serde(default = "default::listen")]
    pub listen: SocketAddr,
    /// host:port at which others reach this node; the bound address if absent.
    #[serde(default)]
    pub advertise: Option<String>,
    /// Address of the heartbeats; a free port of the IP listened on if absent.
    #[serde(default)]
    pub watch_listen: Option<SocketAddr>,
    /// This node's directory; `./roomring-<id>` if absent.
    #[serde(default)]
    pub home: Option<PathBuf>,
    /// Failure zone.
    #[serde(default)]
    pub zone: String,
    /// Share of the slots in percent.
    #[serde(default = "default::weight")]
    pub weight: u32,
    /// Slots of a new cluster.
    #[serde(default = "default::slots")]
    pub slots: u32,
    /// Copies of each slot in a new cluster.
    #[serde(default = "default::replication")]
    pub replication: u32,
    /// Copies without which publishes wait, in a new cluster.
    #[serde(default = "default::min_in_sync")]
    pub min_in_sync: u32,
    /// How long a node serves without etcd, in a new cluster.
    #[serde(default = "default::fence_after")]
    pub fence_after: Span,
    /// How long the registration outlives the process.
    #[serde(default = "default::lease_ttl")]
    pub lease_ttl: Span,
    /// Fast evictions leave at least half of the members listed this long ago.
    #[serde(default = "default::eviction_window")]
    pub eviction_window: Span,
    /// How long members of a vanished router stay.
    #[serde(default = "default::presence_grace")]
    pub presence_grace: Span,
    /// Most messages of a room's history.
    #[serde(default = "default::history_size")]
    pub history_size: u32,
    /// Age of the oldest message of a room's history.
    #[serde(default = "default::history_age")]
    pub history_age: Span,
    /// Most bytes of a room's history.
    #[serde(default = "default::history_bytes")]
    pub history_bytes: ByteSize,
    /// How long ids of publishes are remembered.
    #[serde(default = "default::id_window")]
    pub id_window: Span,
    /// Most ids of publishes that a room remembers.
    #[serde(default = "default::ids_per_room")]
    pub ids_per_room: u32,
    /// Members above which a room tells counts only.
    #[serde(default = "default::presence_list_limit")]
    pub presence_list_limit: u32,
    /// Most rooms of a slot.
    #[serde(default = "default::rooms_limit")]
    pub rooms_limit: u32,
    /// Most members of a room.
    #[serde(default = "default::members_limit")]
    pub members_limit: u32,
    /// How long a stop waits for the rooms to move away.
    #[serde(default = "default::stop_grace")]
    pub stop_grace: Span,
    /// What is logged.
    #[serde(default = "default::log")]
    pub log: String,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
}

mod default {
    use super::*;

    pub(super) fn cluster() -> NodeId {
        NodeId::new("roomring").expect("follows the rules")
    }
    pub(super) fn etcd() -> Vec<String> {
        vec!["http://127.0.0.1:2379".to_owned()]
    }
    pub(super) fn listen() -> SocketAddr {
        ([127, 0, 0, 1], 7400).into()
    }
    pub(super) fn weight() -> u32 {
        100
    }
    /// Fifty nodes still get twenty slots each.
    pub(super) fn slots() -> u32 {
        1024
    }
    /// One node may die.
    pub(super) fn replication() -> u32 {
        2
    }
    /// A slot whose other copy died takes publishes while the next one is made.
    pub(super) fn min_in_sync() -> u32 {
        1
    }
    /// An etcd that is restarted or upgraded is back by then.
    pub(super) fn fence_after() -> Span {
        Span::secs(60)
    }
    /// Long enough for an election of etcd's leader, and for a process that is swapped out.
    pub(super) fn lease_ttl() -> Span {
        Span::secs(10)
    }
    /// A rack that fails takes longer to fail than its nodes to be missed.
    pub(super) fn eviction_window() -> Span {
        Span::secs(60)
    }
    /// Clients of a router that died are back at another one by then.
    pub(super) fn presence_grace() -> Span {
        Span::secs(10)
    }
    pub(super) fn history_size() -> u32 {
        100
    }
    pub(super) fn history_age() -> Span {
        Span::secs(300)
    }
    pub(super) fn history_bytes() -> ByteSize {
        ByteSize(1 << 20)
    }
    /// Longer than any client keeps trying the same publish.
    pub(super) fn id_window() -> Span {
        Span::secs(120)
    }
    pub(super) fn ids_per_room() -> u32 {
        10_000
    }
    pub(super) fn presence_list_limit() -> u32 {
        1_000
    }
    pub(super) fn rooms_limit() -> u32 {
        16_384
    }
    pub(super) fn members_limit() -> u32 {
        1_000_000
    }
    /// Under the 30 s that Kubernetes gives a pod.
    pub(super) fn stop_grace() -> Span {
        Span::secs(20)
    }
    pub(super) fn log() -> String {
        "info".to_owned()
    }
}

impl Settings for Config {
    fn check(&self) -> Result<(), Invalid> {
        let between = |field: &str, value: u32, least: u32, most: u32| match value {
            v if v < least || v > most => Err(Invalid::new(field, format!("is {v}, it must be {least} to {most}"))),
            _ => Ok(()),
        };
        let span = |field: &str, value: Span, least: Duration, most: Duration| match value.0 {
            v if v < least || v > most => {
                let (least, most) = (Span(least), Span(most));
                Err(Invalid::new(field, format!("is {value}, it must be {least} to {most}")))
            }
            _ => Ok(()),
        };
        const DAY: Duration = Duration::from_secs(86_400);
        const SECOND: Duration = Duration::from_secs(1);

        if self.etcd.iter().all(String::is_empty) {
            return Err(Invalid::new("etcd", "needs at least one URL"));
        }
        if let Some(url) = self.etcd.iter().find(|url| !is_url(url)) {
            return Err(Invalid::new("etcd", format!("is {url:?}, it must be a URL such as http://127.0.0.1:2379")));
        }
        match &self.advertise {
            None if self.listen.ip().is_unspecified() => {
                return Err(Invalid::new("advertise", format!("must be given when listening on {}", self.listen)));
            }
            Some(addr) if !is_host_and_port(addr) => {
                return Err(Invalid::new("advertise", format!("is {addr:?}, it must be a host and a port, host:7400")));
            }
            _ => {}
        }
        if self.zone.len() > ZONE_BYTES {
            let bytes = self.zone.len();
            return Err(Invalid::new("zone", format!("has {bytes} bytes, the limit is {ZONE_BYTES}")));
        }
        between("weight", self.weight, 1, 10_000)?;
        between("slots", self.slots, 1, limits::SLOTS)?;
        between("replication", self.replication, 1, 3)?;
        between("min_in_sync", self.min_in_sync, 1, self.replication)?;
        span("fence_after", self.fence_after, Duration::from_millis(500), DAY)?;
        span("lease_ttl", self.lease_ttl, 2 * SECOND, DAY)?;
        span("eviction_window", self.eviction_window, Duration::ZERO, DAY)?;
        span("presence_grace", self.presence_grace, Duration::ZERO, DAY)?;
        span("history_age", self.history_age, Duration::ZERO, 30 * DAY)?;
        span("id_window", self.id_window, SECOND, DAY)?;
        span("stop_grace", self.stop_grace, Duration::ZERO, DAY)?;
        between("rooms_limit", self.rooms_limit, 1, u32::MAX)?;
        between("members_limit", self.members_limit, 1, u32::MAX)?;
        let most = HISTORY_BYTES.0;
        if self.history_bytes.0 > most {
            let problem = format!("is {}, the limit is {HISTORY_BYTES}", self.history_bytes);
            return Err(Invalid::new("history_bytes", problem));
        }
        Ok(())
    }
}

/// Longest name of a zone, in bytes: it is kept with every member in the placement.
const ZONE_BYTES: usize = 63;

/// Largest history of a room: one answer with all of it fits a gRPC message, with room to spare.
const HISTORY_BYTES: ByteSize = ByteSize(limits::GRPC_MESSAGE_BYTES as u64 / 2);

impl Config {
    /// Where the node keeps its identity.
    pub fn home_dir(&self) -> PathBuf {
        self.home.clone().unwrap_or_else(|| PathBuf::from(format!("roomring-{}", self.id)))
    }

    /// What a new cluster is made with.
    pub fn cluster_settings(&self) -> placement::Settings {
        placement::Settings {
            slots: self.slots,
            replication: self.replication,
            min_in_sync: self.min_in_sync,
            fence_after: self.fence_after.0,
        }
    }

    /// Where the heartbeats listen.
    pub fn watch_listen(&self) -> SocketAddr {
        self.watch_listen.unwrap_or_else(|| SocketAddr::new(self.listen.ip(), 0))
    }

    /// The caps on rooms.
    pub fn room_limits(&self) -> RoomLimits {
        RoomLimits {
            history_size: self.history_size as usize,
            history_age: self.history_age.0,
            history_bytes: usize::try_from(self.history_bytes.0).unwrap_or(usize::MAX),
            id_window: self.id_window.0,
            ids_per_room: self.ids_per_room as usize,
            presence_list_limit: self.presence_list_limit as usize,
            rooms: self.rooms_limit as usize,
            members: self.members_limit as usize,
        }
    }
}

fn is_url(url: &str) -> bool {
    let uri = url.parse::<tonic::transport::Uri>();
    uri.is_ok_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some_and(|h| !h.is_empty()))
}

fn is_host_and_port(addr: &str) -> bool {
    let uri = format!("http://{addr}").parse::<tonic::transport::Uri>();
    uri.is_ok_and(|u| u.authority().is_some_and(|a| a.as_str() == addr) && u.port_u16().is_some_and(|p| p != 0))
}

#[cfg(test)]
mod tests {
    use roomring_control::daemon::config::parse;

    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let args = ["roomring-node", "--id=n1"].into_iter().chain(flags.iter().copied());
        parse::<Flags, Config>(args).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_agree_with_what_the_help_says() {
        let c = config(&[]).unwrap();
        assert_eq!((c.slots, c.replication, c.min_in_sync, c.weight), (1024, 2, 1, 100));
        assert_eq!((c.listen.to_string().as_str(), c.cluster.as_str()), ("127.0.0.1:7400", "roomring"));
        assert_eq!(c.home_dir(), PathBuf::from("roomring-n1"));
        assert_eq!(c.room_limits(), RoomLimits::default());
        let help = match parse::<Flags, Config>(["roomring-node", "--help"]).unwrap_err() {
            roomring_control::daemon::config::Stop::Shown(text) => text,
            other => panic!("{other}"),
        };
        for (span, shown) in [
            (c.fence_after, "60s"),
            (c.lease_ttl, "10s"),
            (c.eviction_window, "60s"),
            (c.presence_grace, "10s"),
            (c.history_age, "5m"),
            (c.id_window, "2m"),
            (c.stop_grace, "20s"),
        ] {
            assert_eq!(shown.parse(), Ok(span));
            assert!(help.contains(&format!("[default: {shown}]")), "{shown}");
        }
    }

    #[test]
    fn lists_and_units_are_read() {
        let c = config(&["--etcd=http://a:1,http://b:2", "--history-bytes=64KiB", "--fence-after=1500ms"]).unwrap();
        assert_eq!(c.etcd, ["http://a:1", "http://b:2"]);
        assert_eq!((c.history_bytes, c.fence_after.0), (ByteSize(65536), Duration::from_millis(1500)));
        assert!(config(&["--listen=0.0.0.0:1", "--advertise=node-1.rooms:7400"]).is_ok());
        assert!(config(&["--advertise=[::1]:7400"]).is_ok());
    }

    #[test]
    fn every_bad_value_names_its_field_and_limit() {
        for (flag, says) in [
            ("--slots=0", "`slots`: is 0, it must be 1 to 16384"),
            ("--slots=16385", "`slots`: is 16385, it must be 1 to 16384"),
            ("--replication=4", "`replication`: is 4, it must be 1 to 3"),
            ("--min-in-sync=3", "`min_in_sync`: is 3, it must be 1 to 2"),
            ("--weight=0", "`weight`: is 0, it must be 1 to 10000"),
            ("--fence-after=1ms", "`fence_after`: is 1ms, it must be 500ms to 1day"),
            ("--lease-ttl=1s", "`lease_ttl`: is 1s, it must be 2s to 1day"),
            ("--listen=0.0.0.0:7400", "`advertise`: must be given when listening on 0.0.0.0:7400"),
            ("--advertise=nowhere", "`advertise`: is \"nowhere\", it must be a host and a port, host:7400"),
            ("--advertise=a:1/x", "`advertise`: is \"a:1/x\", it must be a host and a port, host:7400"),
            ("--history-bytes=1GiB", "`history_bytes`: is 1GiB, the limit is 8MiB"),
            ("--cluster=a/b", "`cluster`: node id may only have letters"),
            ("--etcd=", "`etcd`: needs at least one URL"),
            ("--etcd=not a url", "`etcd`: is \"not a url\", it must be a URL such as http://127.0.0.1:2379"),
            ("--etcd=http://a:1,b:2", "`etcd`: is \"b:2\", it must be a URL"),
        ] {
            let error = config(&[flag]).unwrap_err();
            assert!(error.contains(says), "{flag}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
