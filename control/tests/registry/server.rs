//! A real etcd that can be killed, restarted and wiped.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{client, eventually};

/// Debian's `etcd-server`.
const PROGRAM: &str = "/usr/bin/etcd";

/// Ends with the value.
pub(crate) struct RealEtcd {
    process: Option<Child>,
    url: String,
    peer: String,
    data: tempfile::TempDir,
}

impl RealEtcd {
    /// Chooses addresses; nothing runs yet.
    pub(crate) fn reserve() -> Self {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: run `make test`, which installs etcd-server");
        // Both ports are free while both are held; nobody else is likely to take them in the moment between.
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [url, peer] = held.each_ref().map(|l| format!("http://{}", l.local_addr().unwrap()));
        Self { process: None, url, peer, data: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn started() -> Self {
        let mut etcd = Self::reserve();
        etcd.start().await;
        etcd
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Starts on whatever data there is, and waits until it answers.
    pub(crate) async fn start(&mut self) {
        assert!(self.process.is_none());
        let process = Command::new(PROGRAM)
            .arg("--data-dir")
            .arg(self.data.path().join("etcd"))
            .args(["--listen-client-urls", &self.url, "--advertise-client-urls", &self.url])
            .args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer])
            .args(["--initial-cluster", &format!("default={}", self.peer)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let url = self.url.clone();
        eventually("etcd to answer", async || client(&url).await.status().await.is_ok()).await;
    }

    /// SIGKILL; returns the pid that is gone.
    pub(crate) fn kill(&mut self) -> u32 {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        let status = process.wait().unwrap();
        assert!(!status.success(), "killed, not finished: {status}");
        process.id()
    }

    /// Throws its data away.
    pub(crate) fn wipe(&mut self) {
        assert!(self.process.is_none());
        std::fs::remove_dir_all(self.data.path().join("etcd")).unwrap();
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
