//! A real etcd on loopback, with its data in the test's directory.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions};

use crate::Process;
use crate::expect::eventually;

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
    process: Option<Process>,
}

impl Etcd {
    /// Chooses addresses and a directory under `dir`; nothing runs yet.
    pub fn reserve(dir: &Path) -> Self {
        let [client, peer] = free_ports();
        Self {
            url: format!("http://127.0.0.1:{client}"),
            peer_url: format!("http://127.0.0.1:{peer}"),
            dir: dir.join("etcd"),
            process: None,
        }
    }

    /// Its client URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().expect("an address of loopback")
    }

    /// Starts it on what data it has, and waits until it answers.
    pub async fn start(&mut self) {
        assert!(self.process.is_none(), "etcd runs already");
        let program = Path::new("/usr/bin/etcd");
        assert!(program.is_file(), "/usr/bin/etcd is missing: run `make test`, which installs etcd-server");
        let dir = self.dir.to_string_lossy().into_owned();
        let cluster = format!("default={}", self.peer_url);
        let args = [
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
        ];
        self.process = Some(Process::start("etcd", program, &args, &self.dir.with_extension("log")));
        eventually("etcd to answer", START, async || self.client().await.ok()?.status().await.ok()).await;
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
        Client::connect([&self.url], Some(options)).await
    }
}

/// Two ports that were free a moment ago: etcd can't be told to choose.
fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    sockets.map(|s| s.local_addr().expect("address of a bound socket").port())
}
