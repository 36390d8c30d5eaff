//! The router's settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use roomring_control::access::AccessFlags;
use roomring_control::daemon::config::Settings;
use roomring_control::daemon::telemetry::LogFormat;
use roomring_control::daemon::{ByteSize, Invalid, Span};
use roomring_control::registry::EtcdAccess;
use roomring_control::tls::TlsFiles;
use roomring_control::wire::Wire;
use roomring_proto::{NodeId, limits};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::api::ApiKeys;
use crate::auth::{Auth, ConnectCall, Jwks, Outside, PermitCall, Permits, SessionCookie, Tokens};
use crate::http::{Files, Proxy, ProxyConfig, Tls};
use crate::limits::Rate;
use crate::namespaces::{Namespaces, Options};
use crate::webhook::{Webhook, WebhookConfig};

/// Command line of `roomring-router`.
#[derive(Debug, clap::Parser, Serialize)]
#[command(name = "roomring-router", version = roomring_control::daemon::version(), about = "Roomring's edge: holds client sockets and follows the placement")]
pub struct Flags {
    /// This router's name, unique in the cluster
    #[arg(long, env = "ROOMRING_ID")]
    id: Option<NodeId>,
    /// Name of the cluster [default: roomring]
    #[arg(long, env = "ROOMRING_CLUSTER")]
    cluster: Option<NodeId>,
    /// etcd's client URLs [default: http://127.0.0.1:2379]
    #[arg(long, env = "ROOMRING_ETCD", value_delimiter = ',', value_name = "URL")]
    etcd: Option<Vec<String>>,
    #[command(flatten)]
    #[serde(flatten)]
    access: AccessFlags,
    /// Where clients connect [default: 127.0.0.1:8000]
    #[arg(long, env = "ROOMRING_HTTP", value_name = "HOST:PORT")]
    http: Option<String>,
    /// Where clients connect within TLS, beside http [default: nowhere]
    #[arg(long, env = "ROOMRING_HTTPS", value_name = "HOST:PORT")]
    https: Option<String>,
    /// File with the certificate and its chain, in PEM; looked at every few seconds
    #[arg(long, env = "ROOMRING_TLS_CERTIFICATE_FILE", value_name = "PATH")]
    tls_certificate_file: Option<PathBuf>,
    /// File with the certificate's key, in PEM
    #[arg(long, env = "ROOMRING_TLS_KEY_FILE", value_name = "PATH")]
    tls_key_file: Option<PathBuf>,
    /// File with certificates that those of the business server and of the JWKS server may be signed by, in PEM, beside the system's
    #[arg(long, env = "ROOMRING_BUSINESS_CA_FILE", value_name = "PATH")]
    business_ca_file: Option<PathBuf>,
    /// Where roomctl and other processes connect [default: 127.0.0.1:0]
    #[arg(long, env = "ROOMRING_GRPC", value_name = "HOST:PORT")]
    grpc: Option<String>,
    /// How others reach the gRPC address [default: what it is bound to]
    #[arg(long, env = "ROOMRING_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where the heartbeats listen, on the advertised host [default: a free port of the gRPC address]
    #[arg(long, env = "ROOMRING_WATCH_LISTEN", value_name = "HOST:PORT")]
    watch_listen: Option<String>,
    /// Where health and metrics are served over HTTP; for operators only [default: 127.0.0.1:0, a free port]
    #[arg(long, env = "ROOMRING_ADMIN", value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Serve the chat page at / [default: true]
    #[arg(long, env = "ROOMRING_PAGE", value_name = "BOOL")]
    page: Option<bool>,
    /// File with the secret that clients' tokens are signed with, HS256, HS384 or HS512
    #[arg(long, env = "ROOMRING_TOKEN_SECRET_FILE", value_name = "PATH")]
    token_secret_file: Option<PathBuf>,
    /// Files with the public keys of clients' tokens, RSA or EC, in PEM
    #[arg(long, env = "ROOMRING_TOKEN_KEY_FILES", value_delimiter = ',', value_name = "PATH")]
    token_key_files: Option<Vec<PathBuf>>,
    /// Where the public keys of clients' tokens are to be had (JWKS)
    #[arg(long, env = "ROOMRING_TOKEN_JWKS", value_name = "URL")]
    token_jwks: Option<String>,
    /// What tokens must have in `iss` [default: not looked at]
    #[arg(long, env = "ROOMRING_TOKEN_ISSUER", value_name = "TEXT")]
    token_issuer: Option<String>,
    /// What tokens must have in `aud` [default: not looked at]
    #[arg(long, env = "ROOMRING_TOKEN_AUDIENCE", value_name = "TEXT")]
    token_audience: Option<String>,
    /// Clients that nothing tells apart may connect, as nobody [default: false]
    #[arg(long, env = "ROOMRING_ANONYMOUS", value_name = "BOOL")]
    anonymous: Option<bool>,
    /// Clients that nothing else tells apart are who they say they are: for trying things out [default: false]
    #[arg(long, env = "ROOMRING_INSECURE_NAMES", value_name = "BOOL")]
    insecure_names: Option<bool>,
    /// File with the keys of the business server's API, one a line; or ROOMRING_API_KEY has one [default: the API is off]
    #[arg(long, env = "ROOMRING_API_KEY_FILE", value_name = "PATH")]
    api_key_file: Option<PathBuf>,
    /// A publish that no primary took by then is refused, and every other command is answered by then [default: 4s]
    #[arg(long, env = "ROOMRING_PUBLISH_DEADLINE")]
    publish_deadline: Option<Span>,
    /// Most rooms a client may be in [default: 128]
    #[arg(long, env = "ROOMRING_ROOMS_PER_CONNECTION")]
    rooms_per_connection: Option<u32>,
    /// Most connections from an IPv4 address or an IPv6 /64; 0 = any number [default: 0]
    #[arg(long, env = "ROOMRING_CONNECTIONS_PER_ADDRESS")]
    connections_per_address: Option<u32>,
    /// Most connections of a user at this router; 0 = any number [default: 0]
    #[arg(long, env = "ROOMRING_CONNECTIONS_PER_USER")]
    connections_per_user: Option<u32>,
    /// Connections accepted in a second, such as 500 or 500/2000 (2000 at once after a rest) [default: as many as come]
    #[arg(long, env = "ROOMRING_ACCEPT_RATE", value_name = "RATE")]
    accept_rate: Option<Rate>,
    /// Commands of a connection in a second, such as 50/200 [default: as many as come]
    #[arg(long, env = "ROOMRING_COMMANDS_PER_CONNECTION", value_name = "RATE")]
    commands_per_connection: Option<Rate>,
    /// Commands in a second of all of a user's connections at this router [default: as many as come]
    #[arg(long, env = "ROOMRING_COMMANDS_PER_USER", value_name = "RATE")]
    commands_per_user: Option<Rate>,
    /// Publishes to a room in a second, through this router [default: as many as come]
    #[arg(long, env = "ROOMRING_PUBLISHES_PER_ROOM", value_name = "RATE")]
    publishes_per_room: Option<Rate>,
    /// A router that uses more takes nothing new [default: 80 % of what the machine or container has]
    #[arg(long, env = "ROOMRING_MEMORY_LIMIT")]
    memory_limit: Option<ByteSize>,
    /// Pages that browsers may connect from, such as `https://example.com`, beside those of the same host; * = all
    #[arg(long, env = "ROOMRING_ALLOWED_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    allowed_origins: Option<Vec<String>>,
    /// Proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8
    #[arg(long, env = "ROOMRING_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORK")]
    trusted_proxies: Option<Vec<IpNet>>,
    /// They put a PROXY header in front of each connection [default: false]
    #[arg(long, env = "ROOMRING_PROXY_PROTOCOL", value_name = "BOOL")]
    proxy_protocol: Option<bool>,
    /// A client with more than this waiting to be sent is cut off as slow [default: 1MiB]
    #[arg(long, env = "ROOMRING_CLIENT_QUEUE_BYTES")]
    client_queue_bytes: Option<ByteSize>,
    /// Largest message a client may send [default: 64KiB]
    #[arg(long, env = "ROOMRING_MAX_MESSAGE_BYTES")]
    max_message_bytes: Option<ByteSize>,
    /// Interval of pings to clients [default: 25s]
    #[arg(long, env = "ROOMRING_PING")]
    ping: Option<Span>,
    /// A client that has not answered a ping by then is cut off [default: 8s]
    #[arg(long, env = "ROOMRING_PONG_TIMEOUT")]
    pong_timeout: Option<Span>,
    /// A client that has not sent its connect command by then is cut off [default: 10s]
    #[arg(long, env = "ROOMRING_CONNECT_TIMEOUT")]
    connect_timeout: Option<Span>,
    /// An HTTP request whose header is not there by then is cut off [default: 10s]
    #[arg(long, env = "ROOMRING_HANDSHAKE_TIMEOUT")]
    handshake_timeout: Option<Span>,
    /// How long a vanished router stays registered [default: 10s]
    #[arg(long, env = "ROOMRING_LEASE_TTL")]
    lease_ttl: Option<Span>,
    /// After a signal the process is gone by then [default: 20s]
    #[arg(long, env = "ROOMRING_STOP_GRACE")]
    stop_grace: Option<Span>,
    /// When the process stops its clients are sent to other routers one by one, all within this time [default: half of stop_grace]
    #[arg(long, env = "ROOMRING_DRAIN_SPREAD")]
    drain_spread: Option<Span>,
    /// What is logged, such as info or info,roomring_router=debug [default: info]
    #[arg(long, env = "ROOMRING_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How logs look [default: text]
    #[arg(long, env = "ROOMRING_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

/// The router's settings, finished and checked. Fields are the flags of the same names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This router's name.
    pub id: NodeId,
    /// The cluster's name.
    #[serde(default = "cluster")]
    pub cluster: NodeId,
    /// etcd's client URLs.
    #[serde(default = "etcd")]
    pub etcd: Vec<String>,
    /// User of etcd.
    pub etcd_user: Option<String>,
    /// Where the password of etcd's user is.
    pub etcd_password_file: Option<PathBuf>,
    /// Where the certificates are that etcd's own are signed by.
    pub etcd_ca_file: Option<PathBuf>,
    /// Where the certificate is that etcd is shown.
    pub etcd_certificate_file: Option<PathBuf>,
    /// Where its key is.
    pub etcd_key_file: Option<PathBuf>,
    /// Where the certificates are that those of the cluster's processes are signed by.
    pub peer_ca_file: Option<PathBuf>,
    /// Where the certificate is that other processes are shown.
    pub peer_certificate_file: Option<PathBuf>,
    /// Where its key is.
    pub peer_key_file: Option<PathBuf>,
    /// Where clients connect, host:port.
    #[serde(default = "http")]
    pub http: String,
    /// Where clients connect within TLS, host:port; `None` = nowhere.
    pub https: Option<String>,
    /// Where the certificate is.
    pub tls_certificate_file: Option<PathBuf>,
    /// Where its key is.
    pub tls_key_file: Option<PathBuf>,
    /// Where the certificates are that those of the business server and of the JWKS server may be signed by, beside the system's.
    pub business_ca_file: Option<PathBuf>,
    /// Where the gRPC server listens, host:port.
    #[serde(default = "grpc")]
    pub grpc: String,
    /// How others reach the gRPC server; `None` = as bound.
    pub advertise: Option<String>,
    /// Where the heartbeats listen; `None` = a free port of the gRPC address.
    pub watch_listen: Option<String>,
    /// Where the admin port listens, host:port.
    #[serde(default = "admin")]
    pub admin: String,
    /// Serve the chat page.
    #[serde(default = "page")]
    pub page: bool,
    /// Where the secret of clients' tokens is; `None` = tokens are not looked at.
    pub token_secret_file: Option<PathBuf>,
    /// Where the public keys of clients' tokens are.
    #[serde(default)]
    pub token_key_files: Vec<PathBuf>,
    /// Where the public keys of clients' tokens are to be had.
    pub token_jwks: Option<String>,
    /// Clients are told apart by a session of the business server. In a file only.
    pub session_cookie: Option<SessionCookie>,
    /// The business server is asked who a client is. In a file only.
    pub connect: Option<ConnectCall>,
    /// The business server is asked what a client may do. In a file only.
    pub permit: Option<PermitCall>,
    /// The business server is told what happens in rooms. In a file only.
    pub webhook: Option<WebhookConfig>,
    /// What the router does not answer itself is the business server's. In a file only.
    pub proxy: Option<ProxyConfig>,
    /// What tokens must have in `iss`.
    pub token_issuer: Option<String>,
    /// What tokens must have in `aud`.
    pub token_audience: Option<String>,
    /// Clients that nothing tells apart may connect, as nobody.
    #[serde(default)]
    pub anonymous: bool,
    /// Clients that nothing else tells apart are who they say they are.
    #[serde(default)]
    pub insecure_names: bool,
    /// Where the keys of the business server's API are; `None` = in the environment, or there are none.
    pub api_key_file: Option<PathBuf>,
    /// Options of rooms outside of any namespace. In a file only.
    #[serde(default)]
    pub rooms: Options,
    /// Options of rooms by their namespace. In a file only.
    #[serde(default)]
    pub namespaces: BTreeMap<String, Options>,
    /// By then every command is answered. Under the 5 s after which SDKs give up themselves.
    #[serde(default = "publish_deadline")]
    pub publish_deadline: Span,
    /// Most rooms a client may be in; the reference server's limit.
    #[serde(default = "rooms_per_connection")]
    pub rooms_per_connection: u32,
    /// Most connections from an address; 0 = any number.
    #[serde(default)]
    pub connections_per_address: u32,
    /// Most connections of a user; 0 = any number.
    #[serde(default)]
    pub connections_per_user: u32,
    /// How often a connection is accepted.
    pub accept_rate: Option<Rate>,
    /// How often a connection may command something.
    pub commands_per_connection: Option<Rate>,
    /// How often a user may.
    pub commands_per_user: Option<Rate>,
    /// How often a room may be published to.
    pub publishes_per_room: Option<Rate>,
    /// Memory past which nothing new is taken.
    pub memory_limit: Option<ByteSize>,
    /// Pages that browsers may connect from.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// Proxies that are believed.
    #[serde(default)]
    pub trusted_proxies: Vec<IpNet>,
    /// They put a PROXY header in front.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Bound of a client's queue; the reference server's limit.
    #[serde(default = "client_queue_bytes")]
    pub client_queue_bytes: ByteSize,
    /// Largest message of a client.
    #[serde(default = "max_message_bytes")]
    pub max_message_bytes: ByteSize,
    /// Interval of pings; the reference server's. SDKs allow 10 s more than announced.
    #[serde(default = "ping")]
    pub ping: Span,
    /// Time for a pong; the reference server's.
    #[serde(default = "pong_timeout")]
    pub pong_timeout: Span,
    /// Time for the connect command.
    #[serde(default = "ten_seconds")]
    pub connect_timeout: Span,
    /// Time for an HTTP request's header.
    #[serde(default = "ten_seconds")]
    pub handshake_timeout: Span,
    /// How long a vanished router stays registered.
    #[serde(default = "ten_seconds")]
    pub lease_ttl: Span,
    /// Time to stop in; Kubernetes kills after 30 s.
    #[serde(default = "stop_grace")]
    pub stop_grace: Span,
    /// In this time all clients are sent away at a stop; few go sooner. `None` = half of `stop_grace`.
    pub drain_spread: Option<Span>,
    /// What is logged.
    #[serde(default = "log")]
    pub log: String,
    /// How logs look.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// The variable that may hold a key of the API.
const API_KEY: &str = "ROOMRING_API_KEY";

/// Shortest ping interval: it is announced in whole seconds.
const SHORTEST_PING: Span = Span::secs(1);
/// Least that fits a message with its envelope.
const LEAST_MESSAGE: u64 = 1_024;
/// Most that one link batch carries with room to spare.
const MOST_MESSAGE: u64 = 1 << 20;
/// More would make one connection a burden to every slot.
const MOST_ROOMS: u32 = 10_000;
/// etcd's own bounds for leases make less than this flap.
const SHORTEST_LEASE: Span = Span::secs(1);

impl Settings for Config {
    fn check(&self) -> Result<(), Invalid> {
        let rule = |holds: bool, field: &str, problem: &str| {
            if holds { Ok(()) } else { Err(Invalid::new(field, problem)) }
        };
        let positive = |span: Span, field: &str| rule(!span.0.is_zero(), field, "must be over 0s");
        rule(!self.etcd.is_empty(), "etcd", "needs at least one URL")?;
        for url in &self.etcd {
            let known = url.starts_with("http://") || url.starts_with("https://");
            rule(known, "etcd", &format!("expected a URL such as http://127.0.0.1:2379, not {url:?}"))?;
        }
        self.etcd_access().check(&self.etcd)?;
        self.wire()?;
        host_port("http", &self.http)?;
        host_port("grpc", &self.grpc)?;
        host_port("admin", &self.admin)?;
        if let Some(https) = &self.https {
            host_port("https", https)?;
            rule(self.tls_certificate_file.is_some(), "tls_certificate_file", "is needed by https")?;
            rule(self.tls_key_file.is_some(), "tls_key_file", "is needed by https")?;
        }
        if let Some(advertise) = &self.advertise {
            host_port("advertise", advertise)?;
        }
        if let Some(listen) = &self.watch_listen {
            host_port("watch_listen", listen)?;
        }
        self.namespaces().check()?;
        self.session_cookie.iter().try_for_each(SessionCookie::check)?;
        self.connect.iter().try_for_each(ConnectCall::check)?;
        self.permit.iter().try_for_each(PermitCall::check)?;
        let asked = self.permit.is_some() || !self.namespaces().asks();
        rule(asked, "permit", "is needed by the rooms that ask")?;
        self.webhook.iter().try_for_each(WebhookConfig::check)?;
        self.proxy.iter().try_for_each(ProxyConfig::check)?;
        let told = self.webhook.is_some() || !self.namespaces().tells(|_| true);
        rule(told, "webhook", "is needed by the rooms that have events told")?;
        positive(self.publish_deadline, "publish_deadline")?;
        let rooms = self.rooms_per_connection;
        rule((1..=MOST_ROOMS).contains(&rooms), "rooms_per_connection", &format!("must be 1 to {MOST_ROOMS}"))?;
        let believed = !self.proxy_protocol || !self.trusted_proxies.is_empty();
        rule(believed, "proxy_protocol", "needs trusted_proxies: anybody else could say anything")?;
        rule(self.memory_limit != Some(ByteSize(0)), "memory_limit", "must be over 0")?;
        for origin in &self.allowed_origins {
            let known = origin == "*" || origin.contains("://");
            rule(known, "allowed_origins", &format!("expected an origin such as https://example.com, not {origin:?}"))?;
        }
        let message = self.max_message_bytes;
        let fits = (LEAST_MESSAGE..=MOST_MESSAGE).contains(&message.0);
        rule(fits, "max_message_bytes", &format!("must be {LEAST_MESSAGE} to {MOST_MESSAGE}"))?;
        let holds_one = self.client_queue_bytes >= message;
        rule(holds_one, "client_queue_bytes", "must be at least max_message_bytes")?;
        rule(self.ping >= SHORTEST_PING, "ping", "must be at least 1s")?;
        positive(self.pong_timeout, "pong_timeout")?;
        rule(self.pong_timeout < self.ping, "pong_timeout", "must be under ping")?;
        positive(self.connect_timeout, "connect_timeout")?;
        positive(self.handshake_timeout, "handshake_timeout")?;
        rule(self.lease_ttl >= SHORTEST_LEASE, "lease_ttl", "must be at least 1s")?;
        positive(self.stop_grace, "stop_grace")?;
        let in_time = self.drain_spread.is_none_or(|spread| spread < self.stop_grace);
        rule(in_time, "drain_spread", "must be under stop_grace")
    }
}

impl Config {
    /// What holds in rooms.
    pub fn namespaces(&self) -> Namespaces {
        Namespaces::new(self.rooms.clone(), self.namespaces.clone())
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

    /// How clients are told apart, with the keys in [`Self::token_secret_file`] and [`Self::token_key_files`].
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn auth(&self) -> Result<Auth, Invalid> {
        let bad =
            |field: &str, path: &Path, problem: String| Invalid::new(field, format!("{}: {problem}", path.display()));
        let mut tokens = Tokens::new(self.token_issuer.clone(), self.token_audience.clone());
        if let Some(path) = &self.token_secret_file {
            let bad = |problem| bad("token_secret_file", path, problem);
            let secret = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
            // Editors and `echo` end files with a newline.
            tokens = tokens.with_secret(secret.trim_ascii_end()).map_err(|e| bad(e.to_string()))?;
        }
        for path in &self.token_key_files {
            let bad = |problem| bad("token_key_files", path, problem);
            let pem = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
            tokens = tokens.with_pem(&pem).map_err(|e| bad(e.to_string()))?;
        }
        let client = self.client("connect")?;
        if let Some(url) = &self.token_jwks {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(Invalid::new("token_jwks", "expected a URL such as https://example.com/jwks.json"));
            }
            tokens = tokens.with_jwks(Arc::new(Jwks::new(url.clone(), client.clone())));
        }
        let used = self.token_secret_file.is_some() || !self.token_key_files.is_empty() || self.token_jwks.is_some();
        let outside = match (&self.session_cookie, &self.connect) {
            (None, None) => None,
            (cookie, connect) => Some(Arc::new(Outside::new(cookie.as_ref(), connect.as_ref(), &client)?)),
        };
        let permits = self.permit.as_ref().map(|permit| Arc::new(Permits::new(permit, client)));
        let (anonymous, insecure_names) = (self.anonymous, self.insecure_names);
        if !used && outside.is_none() && !anonymous && !insecure_names {
            tracing::warn!("nobody can connect: nothing is configured that tells clients apart, see docs/auth.md");
        }
        Ok(Auth { tokens: used.then_some(tokens), outside, permits, anonymous, insecure_names })
    }

    /// Who tells the business server what happens in rooms, if it is to be told anything.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn webhook(&self) -> Result<Option<Webhook>, Invalid> {
        let Some(config) = &self.webhook else { return Ok(None) };
        Webhook::new(config, self.id.clone(), self.namespaces(), self.client("webhook")?).map(Some)
    }

    /// The way to the business server, if there is one.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn proxy(&self) -> Result<Option<Proxy>, Invalid> {
        let Some(config) = &self.proxy else { return Ok(None) };
        Proxy::new(config, &self.authorities()?).map(Some)
    }

    /// What calls servers of the application. Answers come from one address; a redirect elsewhere would be somebody else's.
    fn client(&self, field: &str) -> Result<reqwest::Client, Invalid> {
        let bad = |e: reqwest::Error| Invalid::new(field, format!("no HTTP client can be had: {e}"));
        let mut client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        for authority in self.authorities()? {
            client = client.add_root_certificate(reqwest::Certificate::from_der(&authority).map_err(bad)?);
        }
        client.build().map_err(bad)
    }

    /// The certificates in [`Self::business_ca_file`].
    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, Invalid> {
        let Some(path) = &self.business_ca_file else { return Ok(Vec::new()) };
        let bad = |problem: String| Invalid::new("business_ca_file", format!("{}: {problem}", path.display()));
        let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        let all: Vec<_> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|e| bad(e.to_string()))?;
        let mut usable = RootCertStore::empty();
        all.iter().try_for_each(|one| usable.add(one.clone())).map_err(|e| bad(e.to_string()))?;
        if all.is_empty() { Err(bad("has no certificate".to_owned())) } else { Ok(all) }
    }

    /// TLS for clients, if there is any.
    ///
    /// # Errors
    /// If the certificate or its key can't be used.
    pub fn tls(&self) -> Result<Option<Tls>, Invalid> {
        match (&self.https, &self.tls_certificate_file, &self.tls_key_file) {
            (Some(_), Some(certificate), Some(key)) => {
                Tls::new(Files { certificate: certificate.clone(), key: key.clone() }).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The keys of the business server's API, from [`Self::api_key_file`] or the environment: no flag has them, since everybody
    /// on the machine sees flags.
    ///
    /// # Errors
    /// If there are some that can't be used.
    pub fn api_keys(&self) -> Result<Option<ApiKeys>, Invalid> {
        if let Some(path) = &self.api_key_file {
            let bad = |problem: String| Invalid::new("api_key_file", format!("{}: {problem}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
            return ApiKeys::parse(&text).map(Some).map_err(|e| bad(e.to_string()));
        }
        match std::env::var(API_KEY) {
            Ok(key) => ApiKeys::parse(&key).map(Some).map_err(|e| Invalid::new(API_KEY, e.to_string())),
            Err(_) => Ok(None),
        }
    }
}

fn host_port(field: &str, value: &str) -> Result<(), Invalid> {
    let port = value.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(_) => Ok(()),
        None => Err(Invalid::new(field, format!("expected HOST:PORT such as 127.0.0.1:8000, not {value:?}"))),
    }
}

fn cluster() -> NodeId {
    NodeId::new("roomring").expect("a valid name")
}
fn etcd() -> Vec<String> {
    vec!["http://127.0.0.1:2379".to_owned()]
}
fn http() -> String {
    "127.0.0.1:8000".to_owned()
}
fn grpc() -> String {
    "127.0.0.1:0".to_owned()
}
/// Nobody but this machine: what is told there is for operators.
fn admin() -> String {
    "127.0.0.1:0".to_owned()
}
fn page() -> bool {
    true
}
fn publish_deadline() -> Span {
    Span::secs(4)
}
fn rooms_per_connection() -> u32 {
    128
}
fn client_queue_bytes() -> ByteSize {
    ByteSize(1 << 20)
}
fn max_message_bytes() -> ByteSize {
    ByteSize(limits::CLIENT_MESSAGE_BYTES as u64)
}
fn ping() -> Span {
    Span::secs(25)
}
fn pong_timeout() -> Span {
    Span::secs(8)
}
fn ten_seconds() -> Span {
    Span::secs(10)
}
fn stop_grace() -> Span {
    Span::secs(20)
}
fn log() -> String {
    "info".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use roomring_control::daemon::config::parse;

    fn with(flags: &[&str]) -> Result<Config, String> {
        let args = ["roomring-router", "--id=router-1"].into_iter().chain(flags.iter().copied());
        parse::<Flags, Config>(args).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_valid() {
        let config = with(&[]).unwrap();
        assert_eq!(config.id.as_str(), "router-1");
        assert_eq!(config.http, "127.0.0.1:8000");
        assert!(config.page && !config.anonymous);
        let auth = config.auth().unwrap();
        assert!(auth.tokens.is_none() && !auth.insecure_names && !auth.anonymous);
        assert_eq!(config.publish_deadline, Span::secs(4));
    }

    #[test]
    fn every_flag_reaches_the_settings() {
        let config = with(&[
            "--cluster=c",
            "--etcd=http://a:1,http://b:2",
            "--http=[::1]:0",
            "--page=false",
            "--anonymous=true",
            "--rooms-per-connection=3",
            "--client-queue-bytes=2MiB",
            "--max-message-bytes=4KiB",
            "--ping=5s",
            "--pong-timeout=500ms",
            "--log-format=json",
        ])
        .unwrap();
        assert_eq!((config.cluster.as_str(), config.etcd.len(), config.page), ("c", 2, false));
        assert_eq!((config.rooms_per_connection, config.max_message_bytes), (3, ByteSize(4096)));
        assert_eq!((config.anonymous, config.log_format), (true, LogFormat::Json));
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        for (flag, says) in [
            ("--http=8000", "configuration: `http`: expected HOST:PORT"),
            ("--http=:8000", "configuration: `http`: expected HOST:PORT"),
            ("--admin=9", "configuration: `admin`: expected HOST:PORT"),
            ("--watch-listen=9", "configuration: `watch_listen`: expected HOST:PORT"),
            ("--grpc=a:70000", "configuration: `grpc`: expected HOST:PORT"),
            ("--etcd=localhost:2379", "configuration: `etcd`: expected a URL"),
            ("--publish-deadline=0s", "configuration: `publish_deadline`: must be over 0s"),
            ("--rooms-per-connection=0", "configuration: `rooms_per_connection`: must be 1 to 10000"),
            ("--max-message-bytes=10", "configuration: `max_message_bytes`: must be 1024 to 1048576"),
            ("--client-queue-bytes=10", "configuration: `client_queue_bytes`: must be at least max_message_bytes"),
            ("--https=127.0.0.1:0", "configuration: `tls_certificate_file`: is needed by https"),
            ("--proxy-protocol=true", "configuration: `proxy_protocol`: needs trusted_proxies"),
            ("--allowed-origins=example.com", "configuration: `allowed_origins`: expected an origin"),
            ("--accept-rate=fast", "invalid value 'fast' for '--accept-rate <RATE>'"),
            ("--trusted-proxies=all", "invalid value 'all' for '--trusted-proxies <NETWORK>'"),
            ("--ping=100ms", "configuration: `ping`: must be at least 1s"),
            ("--pong-timeout=25s", "configuration: `pong_timeout`: must be under ping"),
            ("--lease-ttl=10ms", "configuration: `lease_ttl`: must be at least 1s"),
            ("--drain-spread=20s", "configuration: `drain_spread`: must be under stop_grace"),
            ("--cluster=a/b", "invalid value 'a/b' for '--cluster <CLUSTER>'"),
        ] {
            let error = with(&[flag]).unwrap_err();
            assert!(error.starts_with(says), "{flag}: {error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn namespaces_and_the_secret_come_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, file) = (dir.path().join("secret"), dir.path().join("router.toml"));
        let text = format!(
            "token_secret_file = {secret:?}\n[rooms]\npublish = \"anyone\"\n[namespaces.chat]\nhistory_size = 5\npresence = false\n"
        );
        std::fs::write(&file, text).unwrap();
        let with_file = || with(&[&format!("--config={}", file.display())]);
        let config = with_file().unwrap();
        assert_eq!(config.rooms.publish, crate::namespaces::Publish::Anyone);
        assert_eq!((config.namespaces["chat"].history_size, config.namespaces["chat"].presence), (Some(5), false));
        let problem = |config: &Config| config.auth().unwrap_err().to_string();
        assert!(problem(&config).contains("No such file"), "{}", problem(&config));
        std::fs::write(&secret, "short\n").unwrap();
        assert!(problem(&config).ends_with("has 5 bytes, it must have at least 16"), "{}", problem(&config));
        std::fs::write(&secret, "long enough to be used\n").unwrap();
        let auth = config.auth().unwrap();
        assert!(auth.tokens.is_some() && !auth.insecure_names && !auth.anonymous);

        for (text, says) in [
            ("[namespaces.chat]\nhistory_size = 99999", "`namespaces.chat.history_size`: must be at most 10000"),
            ("[namespaces.chat]\nhistory = 1", "history"),
            ("[rooms]\njoin = \"all\"", "join"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = with_file().unwrap_err();
            assert!(error.contains(says) && error.lines().count() == 1, "{error}");
        }
    }
}
