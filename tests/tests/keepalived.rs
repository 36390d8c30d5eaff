//! The example of `docs/keepalived`: two routers behind one address, on two "machines" that are network namespaces. The very
//! files of the example run here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use roomring_tests::{Cluster, Options, Process, Proxy, Roamers, Weight, binary, eventually, evidence};

const LIMIT: Duration = Duration::from_secs(60);

/// Where everything but the routers runs, and clients are; the machines are next to it.
const HOME: &str = "10.99.0.1";
/// As in the configuration files.
const VIRTUAL: &str = "10.99.0.100";
const PORT: u16 = 8000;

/// A machine of a router. Ends with all that runs on it.
struct Machine {
    number: u8,
    namespace: String,
    keepalived: Option<Process>,
}

/// Runs a command that must succeed.
fn sh(command: &str) {
    let mut words = command.split(' ');
    let ran = Command::new(words.next().expect("a program")).args(words).output();
    let ran = ran.unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
}

impl Machine {
    fn new(number: u8) -> Self {
        let namespace = format!("roomring-{}-{number}", std::process::id());
        sh(&format!("ip netns add {namespace}"));
        sh(&format!("ip link add port{number} type veth peer name eth0 netns {namespace}"));
        sh(&format!("ip link set port{number} master bridge0 up"));
        let machine = Self { number, namespace, keepalived: None };
        machine.sh("ip link set lo up");
        machine.sh(&format!("ip addr add {}/24 dev eth0", machine.address()));
        machine.sh("ip link set eth0 up");
        machine
    }

    fn address(&self) -> String {
        format!("10.99.0.1{}", self.number)
    }

    fn router(&self) -> String {
        format!("router-{}", self.number)
    }

    fn sh(&self, command: &str) {
        sh(&format!("ip netns exec {} {command}", self.namespace));
    }

    /// Starts a program on it.
    fn start(&self, name: &str, program: &Path, args: &[String], log: &Path) -> Process {
        let mut all: Vec<String> = ["netns", "exec", &self.namespace].map(str::to_owned).into();
        all.push(program.display().to_string());
        all.extend_from_slice(args);
        Process::start(name, Path::new("/usr/sbin/ip"), &all, log)
    }

    async fn start_router(&self, cluster: &mut Cluster, etcd: &str) {
        let (id, address) = (self.router(), self.address());
        let args = format!(
            "--id {id} --etcd {etcd} --http 0.0.0.0:{PORT} --grpc 0.0.0.0:7500 --advertise {address}:7500 --lease-ttl 20s --insecure-names=true"
        );
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        let process = self.start(&id, &binary("roomring-router"), &args, &cluster.log(&id));
        cluster.adopt_router(&id, process).await;
    }

    fn start_keepalived(&mut self, cluster: &Cluster) {
        let config =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/keepalived/router-{}.conf", self.number));
        assert!(config.is_file(), "{} is there", config.display());
        let name = format!("keepalived-{}", self.number);
        let pid = |what: &str| cluster.path(&format!("{name}-{what}.pid")).display().to_string();
        let args: Vec<String> = [
            "--dont-fork",
            "--log-console",
            "--vrrp",
            "--use-file",
            &config.display().to_string(),
            "--pid",
            &pid("main"),
            "--vrrp_pid",
            &pid("vrrp"),
        ]
        .map(str::to_owned)
        .into();
        self.keepalived = Some(self.start(&name, &keepalived(), &args, &cluster.log(&name)));
    }

    fn has_the_address(&self) -> bool {
        let shown = Command::new("ip").args(["-n", &self.namespace, "-o", "addr", "show", "dev", "eth0"]).output();
        String::from_utf8_lossy(&shown.expect("ip runs").stdout).contains(&format!(" {VIRTUAL}/"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.keepalived = None;
        // What is in it ended before, or ends with its process.
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

fn keepalived() -> PathBuf {
    let path = PathBuf::from("/usr/sbin/keepalived");
    assert!(path.is_file(), "{} is missing: run `make test`, which installs it", path.display());
    path
}

/// Waits until one of the machines has the address; gives its index.
async fn owner(machines: &[Machine]) -> usize {
    eventually("the virtual address to be somewhere, once", LIMIT, async || {
        let owners: Vec<usize> = (0..machines.len()).filter(|n| machines[*n].has_the_address()).collect();
        if let [owner] = owners[..] { Some(owner) } else { None }
    })
    .await
}

// One thread, in a network of its own: whatever it starts is in there too.
#[tokio::test]
async fn two_routers_share_an_address_and_clients_resume_on_the_other() {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: this test makes network namespaces, which needs root: {error}");
        return;
    }
    sh("ip link set lo up");
    sh("ip link add bridge0 type bridge");
    sh(&format!("ip addr add {HOME}/24 dev bridge0"));
    sh("ip link set bridge0 up");
    let options = Options {
        weight: Weight::Heavy,
        replication: 2,
        lease_ttl: "20s",
        fence_after: "60s",
        node_flags: vec!["--presence-grace", "3s"],
        ..Options::default()
    };
    let mut cluster = Cluster::prepare(options);
    cluster.etcd.start().await;
    // etcd listens on loopback alone.
    let etcd = Proxy::start_at(&format!("{HOME}:0"), cluster.etcd.address()).await;
    let etcd_url = format!("http://{}", etcd.address());
    let listen = format!("{HOME}:0");
    for id in ["node-1", "node-2"] {
        let process = cluster.spawn_node_at(id, &listen);
        cluster.adopt_node(id, process).await;
    }
    let mut machines = [Machine::new(1), Machine::new(2)];
    for machine in &mut machines {
        machine.start_router(&mut cluster, &etcd_url).await;
        machine.start_keepalived(&cluster);
    }
    cluster.settled().await;
    let first = owner(&machines).await;
    evidence(format!("{VIRTUAL} is at {}", machines[first].router()));

    let address = format!("{VIRTUAL}:{PORT}").parse().expect("an address");
    let mut roamers = Roamers::gather("shared", &[address], 24, 12, 3).await;
    roamers.talk(Duration::from_millis(60));
    tokio::time::sleep(Duration::from_secs(1)).await;

    // Its router dies.
    let killed = Instant::now();
    cluster.kill_router(&machines[first].router());
    let second = 1 - first;
    eventually("the address to move", LIMIT, async || machines[second].has_the_address().then_some(())).await;
    let moved = killed.elapsed();
    assert_eq!(owner(&machines).await, second, "the address is there alone");
    roamers.settled().await;
    evidence(format!(
        "{VIRTUAL} moved after {moved:?}, all clients were back in their rooms after {:?}",
        killed.elapsed()
    ));
    assert!(roamers.users().iter().all(|u| u.connections().len() == 2), "each came back once");

    // It comes back, and the address stays; then the other one is told to stop.
    machines[first].start_router(&mut cluster, &etcd_url).await;
    let log = format!("keepalived-{}", machines[first].number);
    eventually("keepalived to see that the router serves again", LIMIT, async || {
        let log = std::fs::read_to_string(cluster.log(&log)).ok()?;
        (log.rmatches("succeeded").count() > 1).then_some(())
    })
    .await;
    assert_eq!(owner(&machines).await, second, "an address that moves back would cost every client a reconnect");
    let told = Instant::now();
    cluster.routers[&machines[second].router()].process.signal(Signal::SIGTERM);
    eventually("the address to move back", LIMIT, async || machines[first].has_the_address().then_some(())).await;
    cluster.stopped_router(&machines[second].router()).await;
    roamers.settled().await;
    evidence(format!("a stop moved it back, all clients were back in their rooms after {:?}", told.elapsed()));
    // Those that it had not sent away yet when the address moved met the other machine, which does not know their connections.
    let codes: Vec<u16> =
        roamers.users().iter().flat_map(|u| u.connections()).filter_map(|c| c.now_closed()?.code).collect();
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == 3001), "{codes:?}");
    roamers.nothing_lost().await;
    let returns = roamers.users().iter().map(|u| u.connections().len());
    assert!(returns.clone().min() > Some(2), "each came back once more: {:?}", returns.collect::<Vec<_>>());
}
