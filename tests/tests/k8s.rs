//! The manifests, against what the binaries accept. Their shape is checked by `make k8s-check`, and they are lived through in
//! `rolling.rs`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use roomring_tests::pods::{object, rendered};
use roomring_tests::{binary, run};

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
