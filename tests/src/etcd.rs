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
    /// Its own flags.
    flags: Vec<String>,
    shown: Shown,
    users: Option<Users>,
}

/// What a client of etcd trusts and shows, as files.
#[derive(Debug)]
pub struct Shown {
    /// The authority.
    pub ca: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// And its key.
    pub key: PathBuf,
}

/// Users of etcd, besides certificates.
#[derive(Debug)]
struct Users {
    authority: Authority,
    made: bool,
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
        let files = [("trusted-ca", "ca.pem"), ("cert", "server.pem"), ("key", "server-key.pem")];
        let flag = |(what, name)| format!("--{what}-file={}", authority.file(name).display());
        let flags = files.map(flag).into_iter().chain(["--client-cert-auth".to_owned()]).collect();
        let [ca, certificate, key] = ["ca.pem", "client.pem", "client-key.pem"].map(|name| authority.file(name));
        Self { flags, shown: Shown { ca, certificate, key }, users: Some(Users { authority, made: false }) }
    }

    fn tls(&self) -> TlsOptions {
        let read = |path: &Path| std::fs::read(path).expect("a file of ours");
        let identity = Identity::from_pem(read(&self.shown.certificate), read(&self.shown.key));
        TlsOptions::new().ca_certificate(Certificate::from_pem(read(&self.shown.ca))).identity(identity)
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

    /// As [`Etcd::reserve`], of one with these flags besides, by which it asks for certificates.
    pub fn reserve_with(dir: &Path, flags: Vec<String>, shown: Shown) -> Self {
        let etcd = Self::reserve(dir);
        let tls = |url: String| url.replace("http://", "https://");
        let secured = Some(Secured { flags, shown, users: None });
        Self { url: tls(etcd.url), peer_url: tls(etcd.peer_url), secured, ..etcd }
    }

    /// The flags with which processes are let in.
    pub fn access_flags(&self) -> Vec<String> {
        let Some(Users { authority, .. }) = self.users() else { return Vec::new() };
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
        args.extend(self.secured.iter().flat_map(|secured| secured.flags.clone()));
        self.process = Some(Process::start("etcd", program, &args, &self.dir.with_extension("log")));
        eventually("etcd to answer", START, async || self.client().await.ok()?.status().await.ok()).await;
        if self.users().is_some_and(|users| !users.made) {
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
        if let Some(users) = self.secured.as_mut().and_then(|s| s.users.as_mut()) {
            users.made = true;
        }
        Ok(())
    }

    fn users(&self) -> Option<&Users> {
        self.secured.as_ref()?.users.as_ref()
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
            Some(secured) if self.users().is_some_and(|users| users.made) => {
                options.with_tls(secured.tls()).with_user(USER, PASSWORD)
            }
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
