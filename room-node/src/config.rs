//! The node's settings: flags, `ROOMRING_*` variables, a TOML file, defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use roomring_control::access::AccessFlags;
use roomring_control::daemon::config::Settings;
use roomring_control::daemon::telemetry::LogFormat;
use roomring_control::daemon::{ByteSize, Invalid, Span};
use roomring_control::placement::{self, Retention, RoomLimits};
use roomring_control::registry::EtcdAccess;
use roomring_control::tls::TlsFiles;
use roomring_control::wire::Wire;
use roomring_proto::{NodeId, limits};
use serde::{Deserialize, Serialize};

/// Over the flags of what the first node fixes for the whole cluster.
const CLUSTER: &str = "Settings of the cluster, fixed when its first node forms it";

/// A Roomring room node: holds rooms, orders and keeps their messages.
#[derive(Debug, clap::Parser, Serialize)]
#[command(name = "roomring-node", version = roomring_control::daemon::version())]
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
    #[command(flatten)]
    #[serde(flatten)]
    access: AccessFlags,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:7400]
    #[arg(long, env = "ROOMRING_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Address at which routers and other nodes reach this one [default: the one listened on]
    #[arg(long, env = "ROOMRING_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Address of the heartbeats, on the advertised host [default: a free port of the IP listened on]
    #[arg(long, env = "ROOMRING_WATCH_LISTEN", value_name = "IP:PORT")]
    watch_listen: Option<SocketAddr>,
    /// Where health and metrics are served over HTTP; for operators only [default: a free port of 127.0.0.1]
    #[arg(long, env = "ROOMRING_ADMIN", value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// This node's own directory [default: ./roomring-ID]
    #[arg(long, env = "ROOMRING_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Failure zone; replicas of a slot are spread over zones [default: none]
    #[arg(long, env = "ROOMRING_ZONE")]
    zone: Option<String>,
    /// Share of the slots in percent of a usual node's [default: 100]
    #[arg(long, env = "ROOMRING_WEIGHT")]
    weight: Option<u32>,
    /// Threads that carry messages [default: half of the cores, at least 1]
    #[arg(long, env = "ROOMRING_THREADS", value_name = "N")]
    threads: Option<u32>,
    /// Slots [default: 1024]
    #[arg(long, env = "ROOMRING_SLOTS", help_heading = CLUSTER)]
    slots: Option<u32>,
    /// Copies of each slot; with fewer nodes as many as there are [default: 2]
    #[arg(long, env = "ROOMRING_REPLICATION", help_heading = CLUSTER)]
    replication: Option<u32>,
    /// Copies without which publishes wait [default: 1]
    #[arg(long, env = "ROOMRING_MIN_IN_SYNC", help_heading = CLUSTER)]
    min_in_sync: Option<u32>,
    /// How long a node serves without etcd [default: 60s]
    #[arg(long, env = "ROOMRING_FENCE_AFTER", help_heading = CLUSTER, value_name = "TIME")]
    fence_after: Option<Span>,
    /// How long this node stays registered after it died [default: 10s]
    #[arg(long, env = "ROOMRING_LEASE_TTL", value_name = "TIME")]
    lease_ttl: Option<Span>,
    /// Nodes found dead by their heartbeats go at once while half of those of this long ago remain [default: 60s]
    #[arg(long, env = "ROOMRING_EVICTION_WINDOW", value_name = "TIME")]
    eviction_window: Option<Span>,
    /// How long members of a vanished router stay [default: 10s]
    #[arg(long, env = "ROOMRING_PRESENCE_GRACE", help_heading = CLUSTER, value_name = "TIME")]
    presence_grace: Option<Span>,
    /// Most messages that a room's history keeps [default: 100]
    #[arg(long, env = "ROOMRING_HISTORY_SIZE", help_heading = CLUSTER, value_name = "N")]
    history_size: Option<u32>,
    /// How long a room's history keeps a message [default: 5m]
    #[arg(long, env = "ROOMRING_HISTORY_AGE", help_heading = CLUSTER, value_name = "TIME")]
    history_age: Option<Span>,
    /// Most bytes that a room's history keeps [default: 1MiB]
    #[arg(long, env = "ROOMRING_HISTORY_BYTES", help_heading = CLUSTER, value_name = "SIZE")]
    history_bytes: Option<ByteSize>,
    /// How long ids of publishes are remembered [default: 2m]
    #[arg(long, env = "ROOMRING_ID_WINDOW", help_heading = CLUSTER, value_name = "TIME")]
    id_window: Option<Span>,
    /// Most ids of publishes that a room remembers [default: 10000]
    #[arg(long, env = "ROOMRING_IDS_PER_ROOM", help_heading = CLUSTER, value_name = "N")]
    ids_per_room: Option<u32>,
    /// Members above which a room tells only how many there are [default: 1000]
    #[arg(long, env = "ROOMRING_PRESENCE_LIST_LIMIT", help_heading = CLUSTER, value_name = "N")]
    presence_list_limit: Option<u32>,
    /// Most bytes of a slot's log that are kept for replay [default: 8MiB]
    #[arg(long, env = "ROOMRING_REPLAY_BYTES", help_heading = CLUSTER, value_name = "SIZE")]
    replay_bytes: Option<ByteSize>,
    /// How long entries of a slot's log are kept for replay [default: 60s]
    #[arg(long, env = "ROOMRING_REPLAY_AGE", help_heading = CLUSTER, value_name = "TIME")]
    replay_age: Option<Span>,
    /// Most rooms of a slot [default: 16384]
    #[arg(long, env = "ROOMRING_ROOMS_LIMIT", help_heading = CLUSTER, value_name = "N")]
    rooms_limit: Option<u32>,
    /// Most members of a room [default: 1000000]
    #[arg(long, env = "ROOMRING_MEMBERS_LIMIT", help_heading = CLUSTER, value_name = "N")]
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
    /// User of etcd.
    #[serde(default)]
    pub etcd_user: Option<String>,
    /// Where the password of etcd's user is.
    #[serde(default)]
    pub etcd_password_file: Option<PathBuf>,
    /// Where the certificates are that etcd's own are signed by.
    #[serde(default)]
    pub etcd_ca_file: Option<PathBuf>,
    /// Where the certificate is that etcd is shown.
    #[serde(default)]
    pub etcd_certificate_file: Option<PathBuf>,
    /// Where its key is.
    #[serde(default)]
    pub etcd_key_file: Option<PathBuf>,
    /// Where the certificates are that those of the cluster's processes are signed by.
    #[serde(default)]
    pub peer_ca_file: Option<PathBuf>,
    /// Where the certificate is that other processes are shown.
    #[serde(default)]
    pub peer_certificate_file: Option<PathBuf>,
    /// Where its key is.
    #[serde(default)]
    pub peer_key_file: Option<PathBuf>,
    /// Address to listen on.
    #[serde(default = "default::listen")]
    pub listen: SocketAddr,
    /// host:port at which others reach this node; the bound address if absent.
    #[serde(default)]
    pub advertise: Option<String>,
    /// Address of the heartbeats; a free port of the IP listened on if absent.
    #[serde(default)]
    pub watch_listen: Option<SocketAddr>,
    /// Address of the admin port.
    #[serde(default = "default::admin")]
    pub admin: SocketAddr,
    /// This node's directory; `./roomring-<id>` if absent.
    #[serde(default)]
    pub home: Option<PathBuf>,
    /// Failure zone.
    #[serde(default)]
    pub zone: String,
    /// Share of the slots in percent.
    #[serde(default = "default::weight")]
    pub weight: u32,
    /// Threads that carry messages.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Slots. This and every optional number, size and time below is a setting of the cluster.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Copies of each slot.
    #[serde(default)]
    pub replication: Option<u32>,
    /// Copies without which publishes wait.
    #[serde(default)]
    pub min_in_sync: Option<u32>,
    /// How long a node serves without etcd.
    #[serde(default)]
    pub fence_after: Option<Span>,
    /// How long the registration outlives the process.
    #[serde(default = "default::lease_ttl")]
    pub lease_ttl: Span,
    /// Fast evictions leave at least half of the members listed this long ago.
    #[serde(default = "default::eviction_window")]
    pub eviction_window: Span,
    /// How long members of a vanished router stay.
    #[serde(default)]
    pub presence_grace: Option<Span>,
    /// Most messages of a room's history.
    #[serde(default)]
    pub history_size: Option<u32>,
    /// Age of the oldest message of a room's history.
    #[serde(default)]
    pub history_age: Option<Span>,
    /// Most bytes of a room's history.
    #[serde(default)]
    pub history_bytes: Option<ByteSize>,
    /// How long ids of publishes are remembered.
    #[serde(default)]
    pub id_window: Option<Span>,
    /// Most ids of publishes that a room remembers.
    #[serde(default)]
    pub ids_per_room: Option<u32>,
    /// Members above which a room tells counts only.
    #[serde(default)]
    pub presence_list_limit: Option<u32>,
    /// Most bytes kept of a slot's log.
    #[serde(default)]
    pub replay_bytes: Option<ByteSize>,
    /// Age of the oldest kept entry of a slot's log.
    #[serde(default)]
    pub replay_age: Option<Span>,
    /// Most rooms of a slot.
    #[serde(default)]
    pub rooms_limit: Option<u32>,
    /// Most members of a room.
    #[serde(default)]
    pub members_limit: Option<u32>,
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
    /// Nobody but this machine: what is told there is for operators.
    pub(super) fn admin() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }
    pub(super) fn weight() -> u32 {
        100
    }
    /// Long enough for an election of etcd's leader, and for a process that is swapped out.
    pub(super) fn lease_ttl() -> Span {
        Span::secs(10)
    }
    /// A rack that fails takes longer to fail than its nodes to be missed.
    pub(super) fn eviction_window() -> Span {
        Span::secs(60)
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
        self.etcd_access().check(&self.etcd)?;
        self.wire()?;
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
        between("threads", self.threads.unwrap_or(1), 1, THREADS)?;
        span("lease_ttl", self.lease_ttl, 2 * SECOND, DAY)?;
        span("eviction_window", self.eviction_window, Duration::ZERO, DAY)?;
        span("stop_grace", self.stop_grace, Duration::ZERO, DAY)?;

        let cluster = self.cluster_settings();
        between("slots", cluster.slots, 1, limits::SLOTS)?;
        between("replication", cluster.replication, 1, 3)?;
        between("min_in_sync", cluster.min_in_sync, 1, cluster.replication)?;
        span("fence_after", Span(cluster.fence_after), Duration::from_millis(500), DAY)?;
        span("presence_grace", Span(cluster.presence_grace), Duration::ZERO, DAY)?;
        span("history_age", Span(cluster.rooms.history_age), Duration::ZERO, 30 * DAY)?;
        span("id_window", Span(cluster.rooms.id_window), SECOND, DAY)?;
        span("replay_age", Span(cluster.retention.age), Duration::ZERO, DAY)?;
        between("rooms_limit", self.rooms_limit.unwrap_or(1), 1, u32::MAX)?;
        between("members_limit", self.members_limit.unwrap_or(1), 1, u32::MAX)?;
        let size = |field: &str, value: usize, most: ByteSize| match ByteSize(value as u64) {
            value if value > most => Err(Invalid::new(field, format!("is {value}, the limit is {most}"))),
            _ => Ok(()),
        };
        size("history_bytes", cluster.rooms.history_bytes, ByteSize(placement::HISTORY_BYTES as u64))?;
        size("replay_bytes", cluster.retention.bytes, REPLAY_BYTES)?;
        Ok(())
    }
}

/// Longest name of a zone, in bytes: it is kept with every member in the placement.
const ZONE_BYTES: usize = 63;

/// Most threads: a machine has fewer cores.
const THREADS: u32 = 1024;

/// Most of a slot's log that may be kept: a node has many slots.
const REPLAY_BYTES: ByteSize = ByteSize(1 << 30);

impl Config {
    /// Where the node keeps its identity.
    pub fn home_dir(&self) -> PathBuf {
        self.home.clone().unwrap_or_else(|| PathBuf::from(format!("roomring-{}", self.id)))
    }

    /// How many threads carry messages. Waking another one costs more than a message does, so there are fewer than cores;
    /// routers and the kernel use the rest.
    pub fn threads(&self) -> usize {
        let half = || std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        self.threads.map_or_else(half, |n| count(n.into()))
    }

    /// How etcd lets this process in.
    pub fn etcd_access(&self) -> EtcdAccess {
        EtcdAccess {
            user: self.etcd_user.clone(),
            password_file: self.etcd_password_file.clone(),
            tls: TlsFiles {
                ca_file: self.etcd_ca_file.clone(),
                certificate_file: self.etcd_certificate_file.clone(),
                key_file: self.etcd_key_file.clone(),
            },
        }
    }

    /// How this process speaks with others of the cluster.
    ///
    /// # Errors
    /// If a file is missing or can't be used.
    pub fn wire(&self) -> Result<Wire, Invalid> {
        Wire::new(&TlsFiles {
            ca_file: self.peer_ca_file.clone(),
            certificate_file: self.peer_certificate_file.clone(),
            key_file: self.peer_key_file.clone(),
        })
    }

    /// What a new cluster is made with.
    pub fn cluster_settings(&self) -> placement::Settings {
        let usual = placement::Settings::default();
        let span = |given: Option<Span>, usual| given.map_or(usual, |span| span.0);
        let size = |given: Option<ByteSize>, usual| given.map_or(usual, |size| count(size.0));
        let number = |given: Option<u32>, usual| given.map_or(usual, |n| count(n.into()));
        placement::Settings {
            slots: self.slots.unwrap_or(usual.slots),
            replication: self.replication.unwrap_or(usual.replication),
            min_in_sync: self.min_in_sync.unwrap_or(usual.min_in_sync),
            fence_after: span(self.fence_after, usual.fence_after),
            presence_grace: span(self.presence_grace, usual.presence_grace),
            rooms: RoomLimits {
                history_size: number(self.history_size, usual.rooms.history_size),
                history_age: span(self.history_age, usual.rooms.history_age),
                history_bytes: size(self.history_bytes, usual.rooms.history_bytes),
                id_window: span(self.id_window, usual.rooms.id_window),
                ids_per_room: number(self.ids_per_room, usual.rooms.ids_per_room),
                presence_list_limit: number(self.presence_list_limit, usual.rooms.presence_list_limit),
                rooms: number(self.rooms_limit, usual.rooms.rooms),
                members: number(self.members_limit, usual.rooms.members),
            },
            retention: Retention {
                bytes: size(self.replay_bytes, usual.retention.bytes),
                age: span(self.replay_age, usual.retention.age),
            },
        }
    }

    /// The settings given to this node that the cluster, already formed, has otherwise: a sentence for each.
    pub fn overruled(&self, cluster: &placement::Settings) -> Vec<String> {
        let number = |given: Option<u32>, is: u64| (given.map(|n| n.to_string()), is.to_string());
        let span = |given: Option<Span>, is| (given.map(|s| s.to_string()), Span(is).to_string());
        let size = |given: Option<ByteSize>, is: usize| (given.map(|s| s.to_string()), ByteSize(is as u64).to_string());
        let (rooms, retention) = (&cluster.rooms, &cluster.retention);
        let settings = [
            ("slots", number(self.slots, cluster.slots.into())),
            ("replication", number(self.replication, cluster.replication.into())),
            ("min_in_sync", number(self.min_in_sync, cluster.min_in_sync.into())),
            ("fence_after", span(self.fence_after, cluster.fence_after)),
            ("presence_grace", span(self.presence_grace, cluster.presence_grace)),
            ("history_size", number(self.history_size, rooms.history_size as u64)),
            ("history_age", span(self.history_age, rooms.history_age)),
            ("history_bytes", size(self.history_bytes, rooms.history_bytes)),
            ("id_window", span(self.id_window, rooms.id_window)),
            ("ids_per_room", number(self.ids_per_room, rooms.ids_per_room as u64)),
            ("presence_list_limit", number(self.presence_list_limit, rooms.presence_list_limit as u64)),
            ("rooms_limit", number(self.rooms_limit, rooms.rooms as u64)),
            ("members_limit", number(self.members_limit, rooms.members as u64)),
            ("replay_bytes", size(self.replay_bytes, retention.bytes)),
            ("replay_age", span(self.replay_age, retention.age)),
        ];
        let differs = |(name, (given, is)): (&str, (Option<String>, String))| {
            given.filter(|given| *given != is).map(|given| format!("`{name}` is {is}, not {given}"))
        };
        settings.into_iter().filter_map(differs).collect()
    }

    /// Where the heartbeats listen.
    pub fn watch_listen(&self) -> SocketAddr {
        self.watch_listen.unwrap_or_else(|| SocketAddr::new(self.listen.ip(), 0))
    }
}

fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
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
        assert_eq!(c.weight, 100);
        let cluster = c.cluster_settings();
        assert_eq!(cluster, placement::Settings::default());
        assert_eq!((c.listen.to_string().as_str(), c.cluster.as_str()), ("127.0.0.1:7400", "roomring"));
        assert_eq!(c.home_dir(), PathBuf::from("roomring-n1"));
        let help = match parse::<Flags, Config>(["roomring-node", "--help"]).unwrap_err() {
            roomring_control::daemon::config::Stop::Shown(text) => text,
            other => panic!("{other}"),
        };
        for (span, shown) in [
            (cluster.fence_after, "60s"),
            (c.lease_ttl.0, "10s"),
            (c.eviction_window.0, "60s"),
            (cluster.presence_grace, "10s"),
            (cluster.rooms.history_age, "5m"),
            (cluster.rooms.id_window, "2m"),
            (cluster.retention.age, "60s"),
            (c.stop_grace.0, "20s"),
        ] {
            assert_eq!(shown.parse(), Ok(Span(span)));
            assert!(help.contains(&format!("[default: {shown}]")), "{shown}");
        }
        let (rooms, bytes) = (&cluster.rooms, |n: usize| ByteSize(n as u64).to_string());
        for (flag, shown) in [
            ("--slots", cluster.slots.to_string()),
            ("--replication", cluster.replication.to_string()),
            ("--min-in-sync", cluster.min_in_sync.to_string()),
            ("--history-size", rooms.history_size.to_string()),
            ("--history-bytes", bytes(rooms.history_bytes)),
            ("--ids-per-room", rooms.ids_per_room.to_string()),
            ("--presence-list-limit", rooms.presence_list_limit.to_string()),
            ("--rooms-limit", rooms.rooms.to_string()),
            ("--members-limit", rooms.members.to_string()),
            ("--replay-bytes", bytes(cluster.retention.bytes)),
        ] {
            let line = help.split(flag).nth(1).and_then(|rest| rest.split("  --").next()).unwrap();
            assert!(line.contains(&format!("[default: {shown}]")), "{flag}: {line}");
        }
    }

    #[test]
    fn what_is_given_and_the_cluster_has_otherwise_is_named() {
        let flags = ["--replication=3", "--history-size=100", "--history-age=1m", "--history-bytes=64KiB"];
        let says = config(&flags).unwrap().overruled(&placement::Settings::default());
        assert_eq!(
            says,
            ["`replication` is 2, not 3", "`history_age` is 5m, not 1m", "`history_bytes` is 1MiB, not 64KiB"]
        );
        assert!(config(&flags).unwrap().overruled(&config(&flags).unwrap().cluster_settings()).is_empty());
        assert!(config(&[]).unwrap().overruled(&config(&flags).unwrap().cluster_settings()).is_empty());
    }

    #[test]
    fn lists_and_units_are_read() {
        let c = config(&["--etcd=http://a:1,http://b:2", "--history-bytes=64KiB", "--fence-after=1500ms"]).unwrap();
        assert_eq!(c.etcd, ["http://a:1", "http://b:2"]);
        let cluster = c.cluster_settings();
        assert_eq!((cluster.rooms.history_bytes, cluster.fence_after), (65536, Duration::from_millis(1500)));
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
            ("--threads=0", "`threads`: is 0, it must be 1 to 1024"),
            ("--fence-after=1ms", "`fence_after`: is 1ms, it must be 500ms to 1day"),
            ("--lease-ttl=1s", "`lease_ttl`: is 1s, it must be 2s to 1day"),
            ("--listen=0.0.0.0:7400", "`advertise`: must be given when listening on 0.0.0.0:7400"),
            ("--advertise=nowhere", "`advertise`: is \"nowhere\", it must be a host and a port, host:7400"),
            ("--advertise=a:1/x", "`advertise`: is \"a:1/x\", it must be a host and a port, host:7400"),
            ("--history-bytes=1GiB", "`history_bytes`: is 1GiB, the limit is 8MiB"),
            ("--replay-bytes=2GiB", "`replay_bytes`: is 2GiB, the limit is 1GiB"),
            ("--rooms-limit=0", "`rooms_limit`: is 0, it must be 1 to"),
            ("--id-window=1ms", "`id_window`: is 1ms, it must be 1s to 1day"),
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
