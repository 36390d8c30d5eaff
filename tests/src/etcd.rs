//! A real etcd on loopback, with its data in the test's directory.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, Permission, PermissionType, TlsOptions};

use crate::authority::Authority;
use crate::expect::eventually;
use crate::{Process, write};

/// A start takes about half a second; slow disks take longer.
const START: Duration = Duration::from_secs(30);
/// One request.
const REQUEST: Duration = Duration::from_secs(5);

/// An etcd with fixed addresses, running or not.
#[derive(Debug)]
pub struct Etcd {
    url: String,
    peer_url: String,
    dir: PathBuf,
    secured: Option<Secured>,
    process: Option<Process>,
}

/// What an etcd needs that lets only some in, and what those show it.
#[derive(Debug)]
struct Secured {
    authority: Authority,
    /// Its users are made.
    has_users: bool,
}

/// The user that a cluster has in a secured etcd, and its role.
const USER: &str = "roomring";
/// Its password, and the file with it.
const PASSWORD: &str = "correct horse";
const PASSWORD_FILE: &str = "password";

impl Secured {
    fn new(dir: &Path) -> Self {
        let authority = Authority::new(dir);
        for name in ["server", "client"] {
            authority.issue(name, &["localhost", "127.0.0.1"]);
        }
        write(&authority.file(PASSWORD_FILE), &format!("{PASSWORD}\n"));
        Self { authority, has_users: false }
    }

    fn tls(&self) -> TlsOptions {
        let read = |name: &str| std::fs::read(self.authority.file(name)).expect("a file of ours");
        let identity = Identity::from_pem(read("client.pem"), read("client-key.pem"));
        TlsOptions::new().ca_certificate(Certificate::from_pem(read("ca.pem"))).identity(identity)
    }
}

impl Etcd {
    /// Chooses addresses and a directory under `dir`; nothing runs yet.
    pub fn reserve(dir: &Path) -> Self {
        let [client, peer] = free_ports();
        Self {
            url: format!("http://127.0.0.1:{client}"),
            peer_url: format!("http://127.0.0.1:{peer}"),
            dir: dir.join("etcd"),
            secured: None,
            process: None,
        }
    }

    /// As [`Etcd::reserve`], of one that lets in only whoever has a certificate and a password.
    pub fn reserve_secured(dir: &Path) -> Self {
        let etcd = Self::reserve(dir);
        let secured = Some(Secured::new(&dir.join("etcd-access")));
        Self { url: etcd.url.replace("http://", "https://"), secured, ..etcd }
    }

    /// The flags with which processes are let in.
    pub fn access_flags(&self) -> Vec<String> {
        let Some(Secured { authority, .. }) = &self.secured else { return Vec::new() };
        let password = authority.file(PASSWORD_FILE).display().to_string();
        let user = ["--etcd-user", USER, "--etcd-password-file", &password].map(str::to_owned);
        authority.flags("etcd", "client").into_iter().chain(user).collect()
    }

    /// Its client URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").expect("a URL");
        address.parse().expect("an address of loopback")
    }

    /// Starts it on what data it has, and waits until it answers.
    pub async fn start(&mut self) {
        assert!(self.process.is_none(), "etcd runs already");
        let program = Path::new("/usr/bin/etcd");
        assert!(program.is_file(), "/usr/bin/etcd is missing: run `make test`, which installs etcd-server");
        let dir = self.dir.to_string_lossy().into_owned();
        let cluster = format!("default={}", self.peer_url);
        let mut args = [
            "--data-dir",
            &dir,
            "--listen-client-urls",
            &self.url,
            "--advertise-client-urls",
            &self.url,
            "--listen-peer-urls",
            &self.peer_url,
            "--initial-advertise-peer-urls",
            &self.peer_url,
            "--initial-cluster",
            &cluster,
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(Secured { authority, .. }) = &self.secured {
            let files =
                [("--trusted-ca-file", "ca.pem"), ("--cert-file", "server.pem"), ("--key-file", "server-key.pem")];
            let file = |name: &str| authority.file(name).display().to_string();
            args.extend(files.into_iter().flat_map(|(flag, name)| [flag.to_owned(), file(name)]));
            args.push("--client-cert-auth".to_owned());
        }
        self.process = Some(Process::start("etcd", program, &args, &self.dir.with_extension("log")));
        eventually("etcd to answer", START, async || self.client().await.ok()?.status().await.ok()).await;
        if self.secured.as_ref().is_some_and(|s| !s.has_users) {
            self.make_users().await.expect("users of etcd");
        }
    }

    /// From now on etcd asks for passwords.
    async fn make_users(&mut self) -> Result<(), etcd_client::Error> {
        let mut client = self.client().await?;
        client.role_add("root").await?;
        client.user_add("root", "root", None).await?;
        client.user_grant_role("root", "root").await?;
        client.role_add(USER).await?;
        let all = Permission::new(PermissionType::Readwrite, "/roomring/").with_prefix();
        client.role_grant_permission(USER, all).await?;
        client.user_add(USER, PASSWORD, None).await?;
        client.user_grant_role(USER, USER).await?;
        client.auth_enable().await?;
        if let Some(secured) = &mut self.secured {
            secured.has_users = true;
        }
        Ok(())
    }

    /// SIGKILL; the data stays.
    pub fn kill(&mut self) {
        self.process.take().expect("etcd runs").kill();
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The running process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("etcd runs")
    }

    /// The value under `key`, and its mod_revision.
    pub async fn get(&self, key: &str) -> Option<(Vec<u8>, i64)> {
        let got = self.client().await.ok()?.get(key, None).await.ok()?;
        got.kvs().first().map(|kv| (kv.value().to_vec(), kv.mod_revision()))
    }

    /// Every key that begins with `prefix`.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let Ok(mut client) = self.client().await else { return Vec::new() };
        let Ok(got) = client.get(prefix, Some(options)).await else { return Vec::new() };
        got.kvs().iter().filter_map(|kv| kv.key_str().ok().map(str::to_owned)).collect()
    }

    async fn client(&self) -> Result<Client, etcd_client::Error> {
        let options = ConnectOptions::new().with_connect_timeout(REQUEST).with_timeout(REQUEST);
        Client::connect([&self.url], Some(self.let_in(options))).await
    }

    /// Options of a connection, with what it takes to be let in.
    pub(crate) fn let_in(&self, options: ConnectOptions) -> ConnectOptions {
        match &self.secured {
            Some(secured) if secured.has_users => options.with_tls(secured.tls()).with_user(USER, PASSWORD),
            Some(secured) => options.with_tls(secured.tls()),
            None => options,
        }
    }
}

/// Two ports that were free a moment ago: etcd can't be told to choose.
fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    sockets.map(|s| s.local_addr().expect("address of a bound socket").port())
}
