//! `roomctl dev`: a whole cluster on this machine, and the verbs that look at it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use roomring_tests::{Client, Process, Turn, Weight, alive, binary, eventually, evidence, get, run};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

/// A running `roomctl dev --json` and the line that it printed.
struct Dev {
    process: Process,
    line: Value,
    _dir: tempfile::TempDir,
    _turn: Turn,
}

impl Dev {
    async fn start(extra: &[&str]) -> Self {
        let turn = Turn::wait(Weight::Light);
        let dir = tempfile::tempdir().expect("a directory");
        let http = free_pair();
        // What it leaves behind for people to read goes where this test cleans up.
        let (temporary, program) =
            (format!("TMPDIR={}", dir.path().display()), binary("roomctl").display().to_string());
        let mut args = vec![&*temporary, &*program, "dev", "--json", "--http", &http, "--fence-after", "2s"];
        args.extend(extra);
        let env = Path::new("/usr/bin/env");
        let mut process = Process::start("roomctl", env, &args, &dir.path().join("roomctl.log"));
        let line = process.line("its line of JSON", LIMIT).await;
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
        Self { process, line, _dir: dir, _turn: turn }
    }

    fn list(&self, kind: &str) -> &[Value] {
        self.line[kind].as_array().unwrap_or_else(|| panic!("{kind} in {}", self.line))
    }

    fn routers(&self) -> Vec<SocketAddr> {
        let address = |router: &Value| {
            let text = router["http"].as_str().unwrap_or_default().trim_start_matches("http://");
            text.trim_end_matches('/').parse().unwrap_or_else(|e| panic!("{e} in {router}"))
        };
        self.list("routers").iter().map(address).collect()
    }

    fn pids(&self) -> Vec<u32> {
        let pid = |child: &Value| child["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).expect("a pid");
        self.list("nodes").iter().chain(self.list("routers")).map(pid).collect()
    }

    /// Runs a verb on it.
    async fn verb(&self, args: &[&str]) -> roomring_tests::Ran {
        let etcd = self.line["etcd"].as_str().expect("etcd's URL");
        run(&binary("roomctl"), &[args, &["--etcd", etcd]].concat(), LIMIT).await
    }

    async fn json(&self, args: &[&str]) -> Value {
        let ran = self.verb(&[args, &["-o", "json"]].concat()).await;
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{args:?}: {e} in {ran:?}"))
    }

    async fn all_gone(&self) {
        let pids = self.pids();
        eventually(&format!("{pids:?} to be gone"), LIMIT, async || pids.iter().all(|&pid| !alive(pid)).then_some(()))
            .await;
        evidence(format!("{} children are gone", pids.len()));
    }
}

/// An address whose port, and the next one, were free a moment ago.
fn free_pair() -> String {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("an address").port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_brings_a_cluster_up_and_takes_it_down() {
    let mut dev = Dev::start(&[]).await;
    assert_eq!((dev.list("nodes").len(), dev.list("routers").len()), (3, 2), "{}", dev.line);
    assert!(dev.pids().iter().all(|&pid| alive(pid)), "{}", dev.line);
    let [first, second] = dev.routers()[..] else { panic!("two routers") };
    assert_eq!(second.port(), first.port() + 1, "consecutive ports");

    // Ready means ready: no retries here.
    let page = get(first, "/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("id=\"messages\""), "the chat page");
    let (ann, bob) = (Client::connect(first, "ann").await, Client::connect(second, "bob").await);
    for n in 0..20 {
        let room = format!("room-{n}");
        ann.subscribe(&room).await;
        bob.subscribe(&room).await;
        ann.publish(&room, "hello").await.expect("a publish");
        bob.wait_message(&room, "hello").await;
    }
    verbs(&dev).await;
    lost_child(&mut dev, &ann, &bob).await;

    dev.process.signal(Signal::SIGINT);
    let status = dev.process.exit(LIMIT).await;
    assert_eq!(status.code(), Some(0), "Ctrl-C is how it ends, whatever happened before:\n{}", dev.process.tail());
    dev.all_gone().await;
}

/// Tables for people, JSON for programs.
async fn verbs(dev: &Dev) {
    for (verb, shows) in [("status", "healthy"), ("nodes", "node-1"), ("where", "lobby")] {
        let args: &[&str] = if verb == "where" { &[verb, "lobby"] } else { &[verb] };
        let ran = dev.verb(args).await;
        assert_eq!(ran.code, Some(0), "{verb}: {ran:?}");
        assert!(ran.stdout.contains(shows), "{verb}: {}", ran.stdout);
        assert!(ran.stdout.lines().all(|l| l.chars().count() <= 80), "{verb} fits 80 columns:\n{}", ran.stdout);
        assert!(!ran.stdout.contains('\u{1b}'), "{verb}: no colours off a terminal");
    }
    let nodes = dev.json(&["nodes"]).await;
    let ids: Vec<&str> = nodes.as_array().into_iter().flatten().filter_map(|n| n["id"].as_str()).collect();
    assert_eq!(ids, ["node-1", "node-2", "node-3"], "{nodes}");
    let rooms: u64 = nodes.as_array().into_iter().flatten().filter_map(|n| n["rooms"].as_u64()).sum();
    assert_eq!(rooms, 20, "{nodes}");
    let status = dev.json(&["status"]).await;
    assert_eq!((&status["healthy"], &status["formed"]), (&true.into(), &true.into()), "{status}");
    let place = dev.json(&["where", "room-7"]).await;
    assert!(ids.contains(&place["node"].as_str().unwrap_or_default()), "{place}");
}

/// A child that dies is reported, not started again; the rest goes on.
async fn lost_child(dev: &mut Dev, ann: &Client, bob: &Client) {
    let victim = dev.list("nodes")[1]["id"].as_str().expect("an id").to_owned();
    let pid = dev.list("nodes")[1]["pid"].as_u64().and_then(|p| i32::try_from(p).ok()).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("a running child");
    eventually(&format!("a report of {victim}, pid {pid}"), LIMIT, async || {
        let log = dev.process.log();
        log.lines().any(|l| l.contains(&format!("{victim} (pid {pid}) ended"))).then_some(())
    })
    .await;
    assert!(!alive(pid.unsigned_abs()), "pid {pid} is gone");
    assert!(dev.process.is_running(), "{}", dev.process.tail());
    evidence(format!("{victim} (pid {pid}) is gone and was reported"));
    for n in 0..20 {
        let room = format!("room-{n}");
        // Made anew after --fence-after; what is said before bob is told of it and back is not for him.
        eventually(&format!("{room} to answer"), LIMIT, async || {
            ann.publish(&room, "after").await.ok()?;
            bob.log(&room).messages().any(|m| m == "\"after\"").then_some(())
        })
        .await;
    }
    assert_eq!((ann.now_closed(), bob.now_closed()), (None, None), "sockets stay");
    let nodes = dev.json(&["nodes"]).await;
    let lost = nodes.as_array().into_iter().flatten().find(|n| n["id"] == victim.as_str());
    assert!(lost.is_none_or(|n| n["state"] != "member"), "{victim} was not started again: {nodes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_dev_leaves_nothing_behind() {
    let mut dev = Dev::start(&["--nodes", "2", "--routers", "1"]).await;
    assert_eq!((dev.list("nodes").len(), dev.list("routers").len()), (2, 1), "{}", dev.line);
    dev.process.kill();
    dev.all_gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_hands_a_configuration_to_the_routers_and_ends_by_ctrl_c() {
    let config = tempfile::NamedTempFile::new().expect("a file");
    roomring_tests::write(config.path(), "page = false\n");
    let path = config.path().display().to_string();
    let mut dev = Dev::start(&["--nodes", "1", "--routers", "1", "--config", &path]).await;
    assert_eq!(get(dev.routers()[0], "/").await.status, 404, "the page is switched off");
    dev.process.signal(Signal::SIGINT);
    let status = dev.process.exit(LIMIT).await;
    assert_eq!(status.code(), Some(0), "Ctrl-C is how it ends:\n{}", dev.process.tail());
    dev.all_gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_one_clear_line() {
    let _turn = Turn::wait(Weight::Light);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let ran = run(Path::new(&binary("roomctl")), &["dev", "--json", "--http", &address], LIMIT).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert_eq!(ran.stderr.lines().filter(|l| l.contains(&address)).count(), 1, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_say_what_to_do_when_there_is_no_cluster() {
    for verb in [&["status"][..], &["nodes"], &["where", "lobby"]] {
        let ran = run(&binary("roomctl"), &[verb, &["--etcd", "http://127.0.0.1:1"]].concat(), LIMIT).await;
        assert_eq!(ran.code, Some(1), "{verb:?}: {ran:?}");
        assert!(ran.stderr.contains("http://127.0.0.1:1"), "{verb:?} names etcd's URL: {ran:?}");
    }
}
