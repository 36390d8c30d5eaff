//! What processes tell of themselves: read by a real Prometheus, listed in `docs/metrics.md`, used by the alerts and the dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use roomring_tests::{Client, Cluster, Options, Process, Tcp, Traffic, eventually, evidence, get, run};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// One metric as it is told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Told {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    processes: BTreeSet<&'static str>,
}

/// Adds what `text` tells, of a process of this kind.
fn take(all: &mut BTreeMap<String, Told>, process: &'static str, text: &str) {
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let told = all.entry(name.to_owned()).or_default();
            help.clone_into(&mut told.help);
            told.processes.insert(process);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut all.entry(name.to_owned()).or_default().kind);
        } else if let Some((series, labels)) = line.split_once('{') {
            let name = series.strip_suffix("_bucket").unwrap_or(series);
            let labels = labels.split_once('}').map_or("", |(labels, _)| labels).split(',');
            let labels = labels.filter_map(|l| l.split_once('=')).map(|(label, _)| label.to_owned());
            let told = all.get_mut(name).unwrap_or_else(|| panic!("{line} comes before its HELP"));
            told.labels.extend(labels.filter(|l| l != "le"));
        }
    }
}

/// The table of `docs/metrics.md`.
fn table(all: &BTreeMap<String, Told>) -> String {
    let mut table = "| metric | kind | of | labels | what it is |\n|---|---|---|---|---|\n".to_owned();
    for (name, told) in all {
        let list = |set: Vec<String>| set.join(", ");
        let of = list(told.processes.iter().map(ToString::to_string).collect());
        let labels = list(told.labels.iter().map(|l| format!("`{l}`")).collect());
        table += &format!("| `{name}` | {} | {of} | {labels} | {} |\n", told.kind, told.help);
    }
    table
}

async fn scrape(admin: SocketAddr) -> String {
    let answer = get(admin, "/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// The value of a series, written as in the text.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{series} in\n{text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_what_processes_tell_and_all_of_it_is_documented() {
    let mut cluster = Cluster::start(Options { replication: 2, ..Options::default() }).await;
    let ann = Client::connect(cluster.http()[0], "ann").await;
    let bob = Client::connect(cluster.http()[1], "bob").await;
    for client in [&ann, &bob] {
        client.subscribe("lobby").await;
    }
    for n in 0..20 {
        ann.publish("lobby", format!("hello {n}")).await.expect("taken");
    }
    bob.wait_message("lobby", "hello 19").await;

    // What is told is true.
    let nodes: Vec<SocketAddr> = cluster.nodes.values().map(|n| n.admin).collect();
    let routers: Vec<SocketAddr> = cluster.routers.values().map(|r| r.admin).collect();
    let mut sums = BTreeMap::<&str, f64>::new();
    eventually("nodes to have taken a sample of their rooms", PATIENCE, async || {
        sums.clear();
        for admin in &nodes {
            let text = scrape(*admin).await;
            for series in ["roomring_node_publishes_total", "roomring_node_rooms", "roomring_node_members"] {
                *sums.entry(series).or_default() += value(&text, series);
            }
            *sums.entry("commits").or_default() += value(&text, "roomring_node_commit_seconds_count");
            *sums.entry("led").or_default() += value(&text, "roomring_node_slots{role=\"primary\"}");
            *sums.entry("followed").or_default() += value(&text, "roomring_node_slots{role=\"replica\"}");
        }
        (sums["roomring_node_members"] == 2.0 && sums["followed"] == 64.0).then_some(())
    })
    .await;
    assert_eq!((sums["roomring_node_publishes_total"], sums["roomring_node_rooms"], sums["led"]), (20.0, 1.0, 64.0));
    assert_eq!(sums["commits"], 20.0, "one after the other, each was timed");
    let text = scrape(routers[0]).await;
    for (series, expected) in [
        ("roomring_router_connections", 1.0),
        ("roomring_router_publishes_total", 20.0),
        ("roomring_router_deliveries_total", 20.0),
        ("roomring_router_delivery_seconds_count", 20.0),
        ("roomring_router_publish_seconds_count", 20.0),
        ("roomring_router_node_links", 3.0),
        ("roomring_cluster_nodes{state=\"member\"}", 3.0),
        ("roomring_cluster_slots{state=\"ok\"}", 64.0),
        ("roomring_cluster_in_sync_copies{copies=\"2\"}", 64.0),
        ("roomring_ready", 1.0),
    ] {
        // Joins are deliveries too.
        let told = value(&text, series);
        assert!(
            told == expected || series.contains("deliver") && (expected..expected + 3.0).contains(&told),
            "{series} is {told}"
        );
    }
    assert!(value(&text, "roomring_router_sent_bytes_total") > 20.0 * 20.0);
    assert!(value(&text, "roomring_etcd_contact_age_seconds") < 30.0);

    let prometheus = Prometheus::start(&cluster, &nodes, &routers).await;
    prometheus.knows("sum(roomring_node_publishes_total)", 20.0).await;

    // From here on under load. A client leaves, and a node dies: it is seen.
    let bob = Arc::new(bob);
    let traffic = Traffic::start([(bob.clone(), "lobby".to_owned())], Duration::from_millis(20), None);
    drop(ann);
    let before = prometheus.value("sum(roomring_evictions_total)").await.expect("told from the start");
    assert_eq!(before, 0.0);
    cluster.kill_node("node-3");
    prometheus.knows("sum(roomring_evictions_total{cause!=\"left\"})", 1.0).await;
    prometheus.knows("max(roomring_cluster_nodes{state=\"member\"})", 2.0).await;
    prometheus.knows("count(up == 0)", 1.0).await;
    evidence("Prometheus saw the eviction of node-3");

    let mut all = BTreeMap::new();
    for (process, admin) in [("node", nodes[0]), ("router", routers[0]), ("router", routers[1])] {
        let text = scrape(admin).await;
        take(&mut all, process, &text);
        prometheus.lint(&text).await;
    }
    documented(&all);
    prometheus.evaluates_alerts(&all).await;
    prometheus.draws_the_dashboard(&all).await;
    traffic.stop().await;
}

/// With `ROOMRING_WRITE_DOCS` set the table is written instead.
fn documented(all: &BTreeMap<String, Told>) {
    for (name, told) in all {
        assert!(name.starts_with("roomring_") || name.starts_with("process_"), "{name}");
        assert!(told.help.ends_with('.') && !told.help.contains('|'), "{name}: {}", told.help);
        let total = name.ends_with("_total");
        assert_eq!(total, told.kind == "counter", "{name} is a {}", told.kind);
        for label in &told.labels {
            let known =
                ["cause", "code", "copies", "kind", "outcome", "reason", "revision", "role", "state", "version"];
            assert!(known.contains(&label.as_str()), "{name} has a label {label}: is it bounded?");
        }
    }
    let (path, table) = ("docs/metrics.md", table(all));
    let docs = read(path);
    let (begin, end) = ("<!-- table -->\n", "<!-- /table -->");
    let (head, rest) = docs.split_once(begin).expect("the beginning of the table");
    let (written, tail) = rest.split_once(end).expect("the end of the table");
    if std::env::var_os("ROOMRING_WRITE_DOCS").is_some() {
        std::fs::write(repository(path), format!("{head}{begin}{table}{end}{tail}")).expect("docs can be written");
        return;
    }
    assert_eq!(written, table, "{path} is not what processes tell; ROOMRING_WRITE_DOCS=1 writes it");
}

/// A Prometheus that reads a cluster.
struct Prometheus {
    address: SocketAddr,
    dir: PathBuf,
    _process: Process,
}

impl Prometheus {
    async fn start(cluster: &Cluster, nodes: &[SocketAddr], routers: &[SocketAddr]) -> Self {
        let dir = cluster.path("prometheus");
        std::fs::create_dir_all(&dir).expect("a directory");
        let list = |of: &[SocketAddr]| of.iter().map(|a| format!("'{a}'")).collect::<Vec<_>>().join(", ");
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n\
             - job_name: roomring-node\n  static_configs: [{{targets: [{}]}}]\n\
             - job_name: roomring-router\n  static_configs: [{{targets: [{}]}}]\n",
            repository("k8s/monitoring/alerts.yml").canonicalize().expect("the alerts").display(),
            list(nodes),
            list(routers),
        );
        let file = dir.join("prometheus.yml");
        std::fs::write(&file, config).expect("a configuration");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let args = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={free}"),
            "--log.level=warn".to_owned(),
        ];
        let process = Process::start("prometheus", Path::new("/usr/bin/prometheus"), &args, &cluster.log("prometheus"));
        eventually("Prometheus to be ready", PATIENCE, async || {
            tokio::net::TcpStream::connect(free).await.ok()?;
            (get(free, "/-/ready").await.status == 200).then_some(())
        })
        .await;
        Self { address: free, dir, _process: process }
    }

    async fn api(&self, path: &str) -> Value {
        // Of HTTP/1.0, which has no chunks.
        let mut tcp = Tcp::connect(self.address).await;
        tcp.send(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
        let body = tcp.response().await.body;
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    async fn query(&self, query: &str) -> Value {
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = self.api(&format!("/api/v1/query?query={encoded}")).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"].clone()
    }

    /// The one value of a query, if there is one.
    async fn value(&self, query: &str) -> Option<f64> {
        let result = self.query(query).await;
        result["result"].as_array()?.first()?["value"][1].as_str()?.parse().ok()
    }

    /// Waits until a query gives `expected`.
    async fn knows(&self, query: &str, expected: f64) {
        eventually(&format!("{query} to be {expected}"), PATIENCE, async || {
            (self.value(query).await? == expected).then_some(())
        })
        .await;
    }

    /// What is told has to please promtool.
    async fn lint(&self, text: &str) {
        let file = self.dir.join("metrics.txt");
        std::fs::write(&file, text).expect("a file");
        let command = format!("exec /usr/bin/promtool check metrics < '{}'", file.display());
        let ran = run(Path::new("/bin/sh"), &["-c", &command], PATIENCE).await;
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""), "promtool check metrics");
    }

    async fn evaluates_alerts(&self, all: &BTreeMap<String, Told>) {
        let rules = eventually("the alert of node-3, which was killed", PATIENCE, async || {
            let groups = self.api("/api/v1/rules").await;
            let rules = groups["data"]["groups"][0]["rules"].as_array()?.clone();
            let down = rules.iter().find(|r| r["name"] == "RoomringTargetDown")?;
            (down["state"] == "pending").then_some(rules)
        })
        .await;
        assert!(rules.len() > 10, "{rules:?}");
        for rule in &rules {
            assert_eq!(rule["health"], "ok", "{rule}");
            let query = rule["query"].as_str().expect("a query");
            names_only(query, all);
            self.shows(rule["name"].as_str().expect("a name"), &asked(query)).await;
        }
        evidence(format!("{} alerts have something to compare", rules.len()));
    }

    /// Waits until a query gives numbers.
    async fn shows(&self, what: &str, query: &str) {
        eventually(&format!("{what} to have data: {query}"), PATIENCE, async || {
            let answer = self.query(query).await;
            let numbers = answer["result"].as_array()?.iter().filter(|series| series["value"][1] != "NaN");
            (numbers.count() > 0).then_some(())
        })
        .await;
    }

    async fn draws_the_dashboard(&self, all: &BTreeMap<String, Told>) {
        let dashboard: Value =
            serde_json::from_str(&read("k8s/monitoring/dashboard.json")).expect("the dashboard is JSON");
        let panels = dashboard["panels"].as_array().expect("panels");
        let (mut drawn, mut queries) = (0, 0);
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            for target in panel["targets"].as_array().expect("targets") {
                let query = target["expr"].as_str().expect("a query").replace("$instance", ".*");
                names_only(&query, all);
                self.shows(panel["title"].as_str().expect("a title"), &query).await;
                queries += 1;
            }
            drawn += 1;
        }
        evidence(format!("all {queries} queries of the {drawn} panels of the dashboard have something to show"));
    }
}

/// The expression of an alert, asked for whether it holds: where it had nothing to compare there is no answer even so.
fn asked(alert: &str) -> String {
    [">", "<", "=="]
        .iter()
        .fold(alert.to_owned(), |query, op| query.replace(&format!(" {op} "), &format!(" {op} bool ")))
}

/// Every metric that a query names is told by somebody.
fn names_only(query: &str, all: &BTreeMap<String, Told>) {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|w| w.starts_with("roomring_") || w.starts_with("process_")) {
        let of_histogram = ["_bucket", "_count", "_sum"].iter().filter_map(|s| name.strip_suffix(s));
        assert!(all.contains_key(name) || of_histogram.into_iter().any(|n| all.contains_key(n)), "{name} in {query}");
    }
}

#[tokio::test]
async fn alerts_hold_their_own_tests_and_each_has_a_page_in_the_runbook() {
    let promtool = Path::new("/usr/bin/promtool");
    for args in [["check", "rules", "k8s/monitoring/alerts.yml"], ["test", "rules", "k8s/monitoring/alerts.test.yml"]] {
        let file = repository(args[2]).display().to_string();
        let ran = run(promtool, &[args[0], args[1], &file], PATIENCE).await;
        assert_eq!(ran.code, Some(0), "promtool {args:?}: {}{}", ran.stdout, ran.stderr);
    }
    let (alerts, tests, runbook) =
        (read("k8s/monitoring/alerts.yml"), read("k8s/monitoring/alerts.test.yml"), read("docs/runbook.md"));
    let names: Vec<&str> = alerts.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let cases: Vec<&str> = tests.split("alertname: ").skip(1).filter(|c| c.lines().next() == Some(name)).collect();
        let quiet = cases.iter().filter(|c| c.lines().nth(1).is_some_and(|l| l.contains("exp_alerts: []"))).count();
        assert!(quiet > 0 && quiet < cases.len(), "{name} is tested where it fires and where it must not");
        assert!(runbook.lines().any(|l| l == format!("## {name}")), "docs/runbook.md has nothing on {name}");
    }
    let sections = runbook.lines().filter_map(|l| l.strip_prefix("## Roomring"));
    assert_eq!(sections.count(), names.len(), "docs/runbook.md is on alerts that are there");
    // The Prometheus operator gets the same.
    let wrapped = read("k8s/components/monitoring/alerts.yaml");
    let (_, ours) = alerts.split_once("groups:\n").expect("groups");
    let (_, theirs) = wrapped.split_once("  groups:\n").expect("groups");
    let theirs: Vec<&str> = theirs.lines().map(|l| l.strip_prefix("  ").unwrap_or(l)).collect();
    assert_eq!(ours.lines().collect::<Vec<_>>(), theirs, "`make alerts` writes it");
}
