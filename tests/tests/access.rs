//! An etcd that lets in only whoever has a certificate and a password, and processes that speak with their like only.

use std::time::Duration;

use roomring_proto::v1;
use roomring_proto::v1::admin_client::AdminClient;
use roomring_tests::{Authority, Client, Cluster, Options, binary, eventually, evidence, run, within, write};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

const LIMIT: Duration = Duration::from_secs(60);

/// `flags` with another value after `flag`.
fn with(flags: &[String], flag: &str, value: &str) -> Vec<String> {
    let mut flags = flags.to_vec();
    let at = flags.iter().position(|f| f == flag).expect("a flag");
    flags[at + 1] = value.to_owned();
    flags
}

/// `flags` without `flag`.
fn without(flags: &[String], flag: &str) -> Vec<String> {
    let mut flags = flags.to_vec();
    let at = flags.iter().position(|f| f == flag).expect("a flag");
    flags.drain(at..at + 2);
    flags
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_lives_where_everybody_is_asked_who_he_is() {
    let options = Options { nodes: 2, replication: 2, secured: true, fence_after: "20s", ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let (ann, bob) = (Client::connect(cluster.http()[0], "ann").await, Client::connect(cluster.http()[1], "bob").await);
    for client in [&ann, &bob] {
        client.subscribe("lobby").await;
    }
    ann.publish("lobby", "hello").await.expect("a publish");
    bob.wait_message("lobby", "hello").await;

    // etcd forgets who had logged in when it starts again; so the processes must do so anew.
    cluster.etcd.kill();
    cluster.etcd.start().await;
    cluster.start_node("node-3").await;
    cluster.settled().await;
    for id in ["node-1", "node-2", "node-3"] {
        eventually(&format!("{id} to have contact with etcd"), LIMIT, async || {
            (cluster.node_status(id).await.contact_age_ms < 1_000).then_some(())
        })
        .await;
    }
    // Written by roomctl, and read by everybody.
    let drained = cluster.roomctl(&["drain", "node-1", "--wait", "--yes"]).await;
    assert_eq!(drained.code, Some(0), "{}{}", drained.stdout, drained.stderr);
    // By heartbeats within TLS.
    cluster.kill_node("node-2");
    let cause = eventually("node-2 to be evicted", LIMIT, async || {
        let status = cluster.roomctl(&["status", "-o", "json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        let found = status["evictions"].as_array()?.iter().find(|e| e["node"] == "node-2")?;
        found["cause"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(cause, "connection refused");
    ann.publish("lobby", "still here").await.expect("a publish");
    bob.wait_message("lobby", "still here").await;
    for process in cluster.nodes.values().map(|n| &n.process).chain(cluster.routers.values().map(|r| &r.process)) {
        assert!(!process.log().contains("correct horse"), "{} keeps the password to itself", process.name());
    }
    evidence("a cluster was made, moved, drained and lost a node within TLS, on an etcd with a user and a password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lacks_what_etcd_wants_is_told_what() {
    let options = Options { nodes: 1, routers: 1, secured: true, ..Options::default() };
    let cluster = Cluster::start(options).await;
    let flags = cluster.access_flags();
    let (ca, wrong) = (cluster.path("other-ca.pem"), cluster.path("wrong"));
    write(&ca, &rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate").cert.pem());
    write(&wrong, "incorrect horse\n");
    let no_certificate = without(&without(&flags, "--etcd-certificate-file"), "--etcd-key-file");
    let no_user = without(&without(&flags, "--etcd-user"), "--etcd-password-file");
    // The flags, the exit code of roomctl, what it says.
    let rows = [
        (flags.clone(), 0, ""),
        (with(&flags, "--etcd-password-file", &wrong.display().to_string()), 1, "authentication failed"),
        (with(&flags, "--etcd-password-file", "/nowhere"), 2, "`etcd_password_file`: /nowhere: No such file"),
        (with(&flags, "--etcd-ca-file", &ca.display().to_string()), 1, "invalid peer certificate"),
        (with(&flags, "--etcd-ca-file", &wrong.display().to_string()), 2, "`etcd_ca_file`: "),
        (without(&flags, "--etcd-password-file"), 2, "`etcd_password_file`: is missing"),
        (without(&flags, "--etcd-key-file"), 2, "`etcd_key_file`: is missing"),
        // Whether the alert or the end of the connection is seen first is chance.
        (no_certificate, 1, "etcd is not reachable"),
        (no_user, 1, "permission denied"),
    ];
    for (flags, code, expected) in rows {
        let args: Vec<String> =
            ["status", "--etcd", cluster.etcd.url()].map(str::to_owned).into_iter().chain(flags).collect();
        let ran = run(&binary("roomctl"), &args, LIMIT).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(expected), "{args:?}: {:?}, not {expected:?}", ran.stderr);
    }

    let strange = Authority::new(&cluster.path("strange"));
    strange.issue("process", &["roomring"]);
    // roomctl has no part of the cluster answer it; the nodes say so by what etcd tells of them.
    let mut wrong = without(&without(&without(&flags, "--peer-ca-file"), "--peer-certificate-file"), "--peer-key-file");
    wrong.extend(strange.flags("peer", "process"));
    let args: Vec<String> =
        ["nodes", "--etcd", cluster.etcd.url()].map(str::to_owned).into_iter().chain(wrong).collect();
    let ran = run(&binary("roomctl"), &args, LIMIT).await;
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("node-1 at"), "{:?}", ran.stderr);

    // A process that can be told at once ends; one that is refused by etcd says so, and goes on trying.
    for (program, more) in
        [("roomring-node", vec!["--listen", "127.0.0.1:0"]), ("roomring-router", vec!["--http", "127.0.0.1:0"])]
    {
        let args = ["--id", "other", "--etcd", cluster.etcd.url()].into_iter().chain(more);
        let args: Vec<String> = args.map(str::to_owned).chain(without(&flags, "--etcd-key-file")).collect();
        let ran = run(&binary(program), &args, LIMIT).await;
        assert_eq!(ran.code, Some(2), "{program}: {}", ran.stderr);
        assert!(ran.stderr.contains("`etcd_key_file`: is missing"), "{program}: {:?}", ran.stderr);
    }
    evidence("wrong passwords, authorities and missing files were each told by name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_answer_from_a_process() {
    let options = Options { nodes: 1, routers: 1, secured: true, ..Options::default() };
    let cluster = Cluster::start(options).await;
    let (ours, theirs) = (Authority::new(&cluster.path("ours")), cluster.path("peers"));
    ours.issue("process", &["roomring"]);
    let read = |path: std::path::PathBuf| std::fs::read(path).expect("a file of the test");
    let trusted = Certificate::from_pem(read(theirs.join("ca.pem")));
    let identity =
        |dir: &std::path::Path| Identity::from_pem(read(dir.join("process.pem")), read(dir.join("process-key.pem")));
    let tls = || ClientTlsConfig::new().ca_certificate(trusted.clone()).domain_name("roomring");
    let rows = [
        ("in the clear", None, false),
        ("without a certificate", Some(tls()), false),
        ("with a certificate of another authority", Some(tls().identity(identity(&cluster.path("ours")))), false),
        ("with one of the cluster's", Some(tls().identity(identity(&theirs))), true),
    ];
    let (node, router) = (cluster.node("node-1").grpc, cluster.routers["router-1"].grpc);
    for (what, tls, expected) in rows {
        for address in [node, router] {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).expect("an address");
            let endpoint = match tls.clone() {
                Some(tls) => endpoint.tls_config(tls).expect("certificates"),
                None => endpoint,
            };
            let answer = async {
                let mut admin = AdminClient::new(endpoint.connect().await.ok()?);
                // A node's word and a router's.
                let node = admin.node_status(v1::NodeStatusRequest::default()).await.is_ok();
                Some(node || admin.router_status(v1::RouterStatusRequest {}).await.is_ok())
            };
            let answered = within("an answer, or none", LIMIT, answer).await.unwrap_or(false);
            assert_eq!(answered, expected, "{what}, at {address}");
        }
    }
    // They serve on.
    let ann = Client::connect(cluster.http()[0], "ann").await;
    ann.subscribe("lobby").await;
    ann.publish("lobby", "hello").await.expect("a publish");
    ann.wait_message("lobby", "hello").await;
    evidence("strangers in the clear, without a certificate and with another authority's got no answer");
}
