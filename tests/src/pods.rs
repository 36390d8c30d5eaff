//! Kubernetes' part, played on one machine: processes are started with what the rendered manifests say, probed where they say,
//! and ended as they say. Each pod has a loopback address of its own, so ports are those of the manifests.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::etcd::{Etcd, Shown};
use crate::expect::{eventually, evidence};
use crate::process::{Process, Ran, binary, binary_dir, run};
use crate::raw::get;
use crate::turn::{Turn, Weight};

/// Until a pod is ready.
const READY: Duration = Duration::from_secs(90);

/// How long preStop sleeps at most here: nothing on this machine takes as long to hear of it as a load balancer.
const PRE_STOP: Duration = Duration::from_secs(1);

/// The objects of an overlay, as `make k8s-check` rendered them.
///
/// # Panics
/// If it did not.
pub fn rendered(overlay: &str) -> Vec<Value> {
    let target = binary_dir();
    let path = target.parent().unwrap_or(&target).join("k8s").join(format!("{overlay}.json"));
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|e| panic!("{}: {e}: run `make k8s-check` first", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The object of a kind and name.
///
/// # Panics
/// If there is none.
pub fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("{kind} {name}"))
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    process: Process,
    ip: Ipv4Addr,
    /// What its container has.
    env: BTreeMap<String, String>,
    /// The pod as it was specified.
    spec: Value,
}

/// Pods, and an etcd that they use.
#[derive(Debug)]
pub struct Pods {
    objects: Vec<Value>,
    running: BTreeMap<String, Pod>,
    etcd: Etcd,
    dir: tempfile::TempDir,
    /// A directory for each Secret, with a file for each key.
    secrets: Option<PathBuf>,
    /// The middle of the pods' addresses.
    net: (u8, u8),
    started: u8,
    // Last: the turn ends when all the rest has.
    _turn: Turn,
}

impl Pods {
    /// Nothing runs yet but etcd.
    pub async fn of(overlay: &str) -> Self {
        Self::start_etcd(rendered(overlay), None, Etcd::reserve).await
    }

    /// The same of an overlay with TLS and an etcd of its own, whose Secrets are directories in `secrets`.
    pub async fn with_secrets(overlay: &str, secrets: &Path) -> Self {
        let objects = rendered(overlay);
        let template = &object(&objects, "StatefulSet", "roomring-etcd")["spec"]["template"];
        let flags = strings(&template["spec"]["containers"][0]["args"]);
        let of_tls = |flag: &String| ["cert", "key-file", "trusted-ca"].iter().any(|what| flag.contains(what));
        let flags: Vec<String> =
            flags.iter().filter(|flag| of_tls(flag)).map(|flag| in_secrets(template, flag, secrets)).collect();
        let file = |key: &str| secrets.join("roomring-etcd-client-tls").join(key);
        let shown = Shown { ca: file("ca.crt"), certificate: file("tls.crt"), key: file("tls.key") };
        Self::start_etcd(objects, Some(secrets.to_owned()), |dir| Etcd::reserve_with(dir, flags, shown)).await
    }

    async fn start_etcd(objects: Vec<Value>, secrets: Option<PathBuf>, etcd: impl FnOnce(&Path) -> Etcd) -> Self {
        let turn = Turn::wait(Weight::Heavy);
        let dir = tempfile::Builder::new().prefix("roomring-pods-").tempdir().expect("a temporary directory");
        let mut etcd = etcd(dir.path());
        etcd.start().await;
        let net = (rand::random_range(1..255), rand::random_range(0..255));
        Self { objects, running: BTreeMap::new(), etcd, dir, secrets, net, started: 0, _turn: turn }
    }

    /// The objects.
    pub fn objects(&self) -> &[Value] {
        &self.objects
    }

    /// Starts a pod of a workload and waits until it is ready; gives the address of a port of it.
    pub async fn start(&mut self, kind: &str, workload: &str, name: &str, port: &str) -> SocketAddr {
        self.spawn(kind, workload, name);
        self.ready(name).await;
        self.address(name, port)
    }

    /// Starts a pod; does not wait.
    pub fn spawn(&mut self, kind: &str, workload: &str, name: &str) {
        self.started += 1;
        let ip = Ipv4Addr::new(127, self.net.0, self.net.1, self.started);
        let template = object(&self.objects, kind, workload)["spec"]["template"].clone();
        let container = &template["spec"]["containers"][0];
        let env = self.environment(&template, name, ip);
        let mut args = vec!["-i".to_owned()];
        args.extend(env.iter().map(|(k, v)| format!("{k}={v}")));
        let command = container["command"][0].as_str().expect("a command").trim_start_matches('/');
        args.push(binary(command).display().to_string());
        args.extend(strings(&container["args"]));
        let log = self.dir.path().join(format!("{name}.log"));
        let process = Process::start(name, &PathBuf::from("/usr/bin/env"), &args, &log);
        let pod = Pod { process, ip, env, spec: template["spec"].clone() };
        assert!(self.running.insert(name.to_owned(), pod).is_none(), "{name} runs already");
    }

    /// What the container gets, with addresses and files of this machine.
    fn environment(&self, template: &Value, name: &str, ip: Ipv4Addr) -> BTreeMap<String, String> {
        let container = &template["spec"]["containers"][0];
        let mut env = BTreeMap::new();
        for source in container["envFrom"].as_array().into_iter().flatten() {
            let map = object(&self.objects, "ConfigMap", source["configMapRef"]["name"].as_str().expect("a name"));
            for (key, value) in map["data"].as_object().into_iter().flatten() {
                env.insert(key.clone(), value.as_str().expect("text").to_owned());
            }
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            let key = variable["name"].as_str().expect("a name").to_owned();
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => name.to_owned(),
                Some("status.podIP") => ip.to_string(),
                Some(path) if path.starts_with("metadata.labels[") => String::new(),
                Some(path) => panic!("{key} is from {path}"),
                None => {
                    let mut value = variable["value"].as_str().expect("a value").to_owned();
                    for (known, text) in &env {
                        value = value.replace(&format!("$({known})"), text);
                    }
                    assert!(!value.contains("$("), "{key}={value}");
                    value.replace("0.0.0.0:", &format!("{ip}:"))
                }
            };
            env.insert(key, value);
        }
        env.insert("ROOMRING_ETCD".to_owned(), self.etcd.url().to_owned());
        // Fewer than usual: the debug build moves them one by one.
        env.insert("ROOMRING_SLOTS".to_owned(), "64".to_owned());
        if env.contains_key("ROOMRING_HOME") {
            // An emptyDir: new with each pod.
            let home = self.dir.path().join(format!("home-{}", self.started));
            env.insert("ROOMRING_HOME".to_owned(), home.display().to_string());
        }
        if let Some(path) = env.get("ROOMRING_CONFIG").cloned() {
            let file = self.dir.path().join("config");
            std::fs::write(&file, self.mounted(template, &path)).expect("a file");
            env.insert("ROOMRING_CONFIG".to_owned(), file.display().to_string());
        }
        if let Some(secrets) = &self.secrets {
            env.values_mut().for_each(|value| *value = in_secrets(template, value, secrets));
        }
        env
    }

    /// Runs a program of ours in a pod.
    pub async fn exec(&self, name: &str, program: &str, args: &[&str]) -> Ran {
        let env = self.running[name].env.iter().map(|(k, v)| format!("{k}={v}"));
        let program = binary(program).display().to_string();
        let args = args.iter().map(|&arg| arg.to_owned());
        let all: Vec<String> = ["-i".to_owned()].into_iter().chain(env).chain([program]).chain(args).collect();
        run(Path::new("/usr/bin/env"), &all, READY).await
    }

    /// What a ConfigMap puts at a path.
    fn mounted(&self, template: &Value, path: &str) -> String {
        let mounts = template["spec"]["containers"][0]["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|m| m["mountPath"] == path).unwrap_or_else(|| panic!("nothing is at {path}"));
        let volumes = template["spec"]["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|v| v["name"] == mount["name"]).expect("the volume");
        let map = object(&self.objects, "ConfigMap", volume["configMap"]["name"].as_str().expect("a ConfigMap"));
        let key = mount["subPath"].as_str().expect("one file of it");
        map["data"][key].as_str().unwrap_or_else(|| panic!("{key} is in the ConfigMap")).to_owned()
    }

    /// Waits until a pod's readiness probe passes.
    pub async fn ready(&self, name: &str) {
        eventually(&format!("{name} to be ready"), READY, async || {
            self.probe(name, "readinessProbe").await.then_some(())
        })
        .await;
    }

    /// Asks what the kubelet asks.
    pub async fn probe(&self, name: &str, probe: &str) -> bool {
        let pod = &self.running[name];
        let http = &pod.spec["containers"][0][probe]["httpGet"];
        let address = self.address(name, http["port"].as_str().expect("a named port"));
        if tokio::net::TcpStream::connect(address).await.is_err() {
            return false;
        }
        let path = http["path"].as_str().expect("a path");
        if http["scheme"] == "HTTPS" {
            // Believes any certificate, as the kubelet does.
            let url = format!("https://{address}{path}");
            let curl = ["--silent", "--fail", "--insecure", "--output", "/dev/null", &url];
            return run(Path::new("/usr/bin/curl"), &curl, READY).await.code == Some(0);
        }
        get(address, path).await.status == 200
    }

    /// Every liveness probe passes.
    ///
    /// # Panics
    /// If one does not.
    pub async fn live(&self) {
        for name in self.running.keys() {
            assert!(self.probe(name, "livenessProbe").await, "{name} would be killed");
        }
    }

    /// Where a port of a pod is.
    pub fn address(&self, name: &str, port: &str) -> SocketAddr {
        let pod = &self.running[name];
        let ports = pod.spec["containers"][0]["ports"].as_array().expect("ports");
        let number = ports.iter().find(|p| p["name"] == port).and_then(|p| p["containerPort"].as_u64());
        let number = number.and_then(|n| u16::try_from(n).ok()).unwrap_or_else(|| panic!("{name} has a port {port}"));
        (pod.ip, number).into()
    }

    /// Ends a pod: preStop, SIGTERM, and an end in good order within the grace.
    pub async fn terminate(&mut self, name: &str) {
        let mut pod = self.running.remove(name).unwrap_or_else(|| panic!("{name} runs"));
        let seconds = |v: &Value| Duration::from_secs(v.as_u64().unwrap_or(0));
        let sleep = seconds(&pod.spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]);
        tokio::time::sleep(sleep.min(PRE_STOP)).await;
        pod.process.signal(Signal::SIGTERM);
        let told = std::time::Instant::now();
        let grace = seconds(&pod.spec["terminationGracePeriodSeconds"]) - sleep;
        let status = pod.process.exit(grace).await;
        assert_eq!(status.code(), Some(0), "{name} ends well:\n{}", pod.process.tail());
        evidence(format!("{name} ended with code 0 after {:?}, {grace:?} were allowed", told.elapsed()));
    }
}

/// The texts of a list.
fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str()).map(str::to_owned).collect()
}

/// A text that names a file of a Secret, with where that is on this machine.
///
/// # Panics
/// If there is no such file.
fn in_secrets(template: &Value, text: &str, secrets: &Path) -> String {
    let volumes = template["spec"]["volumes"].as_array().expect("volumes");
    for mount in template["spec"]["containers"][0]["volumeMounts"].as_array().expect("mounts") {
        let volume = volumes.iter().find(|v| v["name"] == mount["name"]);
        let Some(secret) = volume.and_then(|v| v["secret"]["secretName"].as_str()) else { continue };
        let path = mount["mountPath"].as_str().expect("a path");
        let Some((before, key)) = text.split_once(&format!("{path}/")) else { continue };
        let file = secrets.join(secret).join(key);
        assert!(file.is_file(), "{text}: no {key} in the Secret {secret}");
        return format!("{before}{}", file.display());
    }
    text.to_owned()
}
