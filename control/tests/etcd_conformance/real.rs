//! A real etcd on loopback, its data in a temporary directory.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{client, soon};

/// Debian's `etcd-server`.
const PROGRAM: &str = "/usr/bin/etcd";

/// Ends with the value.
pub(crate) struct Etcd {
    process: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: run `make test`, which installs etcd-server");
        let data = tempfile::tempdir().unwrap();
        // Both ports are free while both are held; nobody else is likely to take them in the moment between.
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [url, peer] = held.each_ref().map(|l| format!("http://{}", l.local_addr().unwrap()));
        drop(held);
        let process = Command::new(PROGRAM)
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Self { process, url, _data: data };
        soon("etcd to answer", async {
            while client(&etcd.url).await.status().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        etcd
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
