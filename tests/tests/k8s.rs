//! The manifests, against what the binaries accept. Their shape is checked by `make k8s-check`, and they are lived through in
//! `rolling.rs`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{EncodingKey, Header, encode};
use roomring_tests::pods::{Pods, object, rendered};
use roomring_tests::{binary, evidence, run, within, write};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

const LIMIT: Duration = Duration::from_secs(60);

const OVERLAYS: [&str; 4] = ["dev", "production", "production-external-etcd", "with-gateway"];

/// Variables that a binary reads.
async fn variables(name: &str) -> BTreeSet<String> {
    let ran = run(&binary(name), &["--help"], Duration::from_secs(30)).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let found = ran.stdout.split("[env: ").skip(1).filter_map(|rest| rest.split('=').next());
    found.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_variable_is_read_by_its_binary_and_every_file_is_in_the_image() {
    let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile");
    let dockerfile = std::fs::read_to_string(dockerfile).expect("the Dockerfile");
    let both = &variables("roomring-node").await | &variables("roomring-router").await;
    assert!(both.contains("ROOMRING_ETCD") && both.contains("ROOMRING_CONFIG"), "{both:?}");
    for overlay in OVERLAYS {
        let objects = rendered(overlay);
        for (kind, workload) in [("StatefulSet", "roomring-node"), ("Deployment", "roomring-router")] {
            let known = variables(workload).await;
            let template = &object(&objects, kind, workload)["spec"]["template"];
            let container = &template["spec"]["containers"][0];
            let names = container["env"].as_array().expect("variables").iter().filter_map(|v| v["name"].as_str());
            for name in names.filter(|n| n.starts_with("ROOMRING_")) {
                assert!(known.contains(name), "{overlay}: {workload} does not read {name}");
            }
            for map in container["envFrom"].as_array().expect("maps") {
                let map = object(&objects, "ConfigMap", map["configMapRef"]["name"].as_str().expect("a name"));
                for name in map["data"].as_object().expect("data").keys() {
                    assert!(both.contains(name), "{overlay}: nobody reads {name}");
                }
            }
            assert!(container["args"].is_null(), "flags are given as variables");
            let command = container["command"][0].as_str().expect("a command");
            assert!(dockerfile.contains(command.trim_start_matches('/')), "{command} is not in the image");
            assert!(dockerfile.contains("USER 65532:65532"), "the image's user is the manifests'");
            assert_eq!(template["spec"]["securityContext"]["runAsUser"], 65532);
        }
    }
}

/// Beside `kubectl`, for what k8s/README.md does with it: Secrets become directories.
const KUBECTL: &str = r#"#!/bin/sh
set -eu
[ "$1" = -n ] && shift 2
[ "$1 $2" = "create namespace" ] && exit
[ "$1 $2" = "create secret" ] || { echo "kubectl $*" >&2; exit 1; }
dir=$SECRETS/$4; mkdir "$dir"; shift 4
for file; do
    case $file in
        --from-file=*=*) file=${file#--from-file=}; cp "${file#*=}" "$dir/${file%%=*}" ;;
        --cert=*) cp "${file#*=}" "$dir/tls.crt" ;;
        --key=*) cp "${file#*=}" "$dir/tls.key" ;;
        *) echo "$file" >&2; exit 1 ;;
    esac
done
"#;

/// Makes the Secrets as k8s/README.md says.
async fn make_secrets(dir: &Path) {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/README.md");
    let readme = std::fs::read_to_string(readme).expect("the page");
    let (_, script) = readme.split_once("```sh\n# Authorities").expect("the commands");
    let (script, _) = script.split_once("```").expect("their end");
    let (secrets, bin) = (dir.join("secrets"), dir.join("bin"));
    for made in [&secrets, &bin] {
        std::fs::create_dir(made).expect("a directory");
    }
    write(&bin.join("kubectl"), KUBECTL);
    write(&dir.join("script"), &format!("#{script}"));
    let command = format!(
        "cd '{}' && chmod +x bin/kubectl && export SECRETS='{}' PATH='{}':$PATH && . ./script",
        dir.display(),
        secrets.display(),
        bin.display()
    );
    let ran = run(Path::new("/bin/sh"), &["-eu", "-c", &command], LIMIT).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// What a client of a room hears first over WebSocket within TLS, and of what it says itself.
async fn talk_within_tls(router: SocketAddr, authority: &Path, token: &str) -> Vec<Value> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("a certificate")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let tcp = within("a TCP connection", LIMIT, TcpStream::connect(router)).await.expect("a connection");
    let name = ServerName::try_from("chat.example.com").expect("a name");
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let tls = within("a TLS handshake", LIMIT, tls).await.expect("a certificate for clients");
    let request = format!("wss://chat.example.com/rooms/lobby?token={token}");
    let opened = within("a handshake", LIMIT, tokio_tungstenite::client_async(request, tls)).await;
    let (mut socket, _) = opened.expect("a WebSocket");
    socket.send(Message::text("hello")).await.expect("an open socket");
    let mut heard = Vec::new();
    while heard.iter().all(|event: &Value| event["data"] != "hello") {
        match within("a frame", LIMIT, socket.next()).await {
            Some(Ok(Message::Text(text))) => {
                heard.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
            }
            Some(Ok(_)) => {}
            other => panic!("a frame, not {other:?}, after {heard:?}"),
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_speaks_tls_everywhere_with_secrets_made_as_its_page_says() {
    let dir = tempfile::tempdir().expect("a directory");
    make_secrets(dir.path()).await;
    let secrets = dir.path().join("secrets");
    let mut pods = Pods::with_secrets("production", &secrets).await;
    let names = ["roomring-node-0", "roomring-node-1"];
    names.iter().for_each(|name| pods.spawn("StatefulSet", "roomring-node", name));
    for name in names {
        pods.ready(name).await;
    }
    let router = pods.start("Deployment", "roomring-router", "roomring-router-a", "https").await;
    pods.live().await;

    let secret = std::fs::read(secrets.join("roomring-tokens/token-secret")).expect("a secret");
    let secret = EncodingKey::from_secret(secret.trim_ascii_end());
    let token = encode(&Header::default(), &json!({"sub": "ann", "exp": 4_000_000_000_u64}), &secret).expect("a token");
    let heard = talk_within_tls(router, &dir.path().join("clients-ca.crt"), &token).await;
    assert!(heard.iter().any(|event| event["data"] == "hello"), "{heard:?}");

    // In the clear nobody gets in: the port is not of the pod, and the other one speaks TLS only.
    assert!(TcpStream::connect((router.ip(), 8000)).await.is_err());
    // Inside of a pod roomctl has what it needs, and sees all of the cluster.
    let status = pods.exec("roomring-router-a", "roomctl", &["status", "-o", "json"]).await;
    assert_eq!(status.code, Some(0), "{}{}", status.stdout, status.stderr);
    let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
    let nodes = status["nodes"].as_array().map_or(0, Vec::len);
    assert_eq!(nodes, names.len(), "{status}");
    evidence(format!("a client within TLS, {nodes} nodes, an etcd with certificates"));
    for name in ["roomring-router-a", names[1], names[0]] {
        pods.terminate(name).await;
    }
}

/// What the production overlays say of TLS, which the binaries accept by the test above.
#[test]
fn production_overlays_name_every_file_of_their_secrets() {
    for overlay in &OVERLAYS[1..] {
        let objects = rendered(overlay);
        for (kind, workload) in [("StatefulSet", "roomring-node"), ("Deployment", "roomring-router")] {
            let spec = &object(&objects, kind, workload)["spec"]["template"]["spec"];
            let volumes = spec["volumes"].as_array().expect("volumes");
            let secrets: BTreeSet<&str> = volumes.iter().filter_map(|v| v["secret"]["secretName"].as_str()).collect();
            for wanted in ["roomring-peer-tls", "roomring-etcd-client-tls"] {
                assert!(secrets.contains(wanted), "{overlay}: {workload} has {secrets:?}");
            }
            let router = workload == "roomring-router";
            assert_eq!(secrets.contains("roomring-router-tls"), router, "{overlay}: {workload} has {secrets:?}");
        }
        let map = objects.iter().find(|o| o["kind"] == "ConfigMap" && !o["data"]["ROOMRING_ETCD"].is_null());
        let etcd = map.and_then(|o| o["data"]["ROOMRING_ETCD"].as_str()).expect("etcd's URLs");
        assert!(etcd.split(',').all(|url| url.starts_with("https://")), "{overlay}: {etcd}");
    }
}
