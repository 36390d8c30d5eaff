//! What is to run: programs, flags, files and ports.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use crate::cli::{DevArgs, Target, Usage};

/// The binaries, found beside this one.
#[derive(Debug)]
pub(super) struct Programs {
    node: PathBuf,
    router: PathBuf,
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Node,
    Router,
}

/// Copies of each slot, if there are nodes enough: the default of a node.
const REPLICATION: u16 = 2;

/// One process to start.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) role: Role,
    pub(super) id: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) log: PathBuf,
}

/// Everything to start.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) specs: Vec<Spec>,
}

impl Programs {
    pub(super) fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("finding this program's own file")?;
        let dir = own.parent().context("finding this program's directory")?;
        let find = |name: &str| {
            let path = dir.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(anyhow!("{name} is not beside roomctl in {}; build it with `cargo build`", dir.display()))
            }
        };
        Ok(Self { node: find("roomring-node")?, router: find("roomring-router")? })
    }
}

impl Plan {
    pub(super) fn new(args: &DevArgs, target: &Target, programs: &Programs, dir: &Path) -> Self {
        let spec = |role: Role, number: u16, own: Vec<OsString>| {
            let (kind, program) = match role {
                Role::Node => ("node", &programs.node),
                Role::Router => ("router", &programs.router),
            };
            let id = format!("{kind}-{number}");
            let common = [
                ("--id", id.clone()),
                ("--cluster", target.cluster.to_string()),
                ("--etcd", target.etcd.join(",")),
                ("--log", args.log.clone()),
            ];
            let common = common.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]);
            let log = dir.join(format!("{id}.log"));
            Spec {
                role,
                id,
                program: program.clone(),
                args: common.chain(target.access.flags()).chain(own).collect(),
                log,
            }
        };
        let node = |number| {
            let own: Vec<OsString> = vec![
                "--listen".into(),
                "127.0.0.1:0".into(),
                "--home".into(),
                dir.join(format!("node-{number}")).into(),
                "--fence-after".into(),
                args.fence_after.to_string().into(),
                "--replication".into(),
                args.nodes.min(REPLICATION).to_string().into(),
            ];
            spec(Role::Node, number, own)
        };
        let router = |number| {
            let http = nth_address(args.http, number - 1).unwrap_or(args.http);
            let mut own: Vec<OsString> =
                vec!["--http".into(), http.to_string().into(), "--grpc".into(), "127.0.0.1:0".into()];
            match &args.config {
                Some(file) => own.extend(["--config".into(), file.into()]),
                // A file says itself who may come in.
                None => own.extend(["--insecure-names".into(), "true".into()]),
            }
            spec(Role::Router, number, own)
        };
        Self { specs: (1..=args.nodes).map(node).chain((1..=args.routers).map(router)).collect() }
    }
}

/// Address of router number `index`, counted from 0; `None` past the last port.
fn nth_address(first: SocketAddr, index: u16) -> Option<SocketAddr> {
    match first.port() {
        0 => Some(first),
        port => Some(SocketAddr::new(first.ip(), port.checked_add(index)?)),
    }
}

/// Finds out before anything is started whether the routers will get their ports.
pub(super) fn check_ports(first: SocketAddr, routers: u16) -> anyhow::Result<()> {
    for index in 0..routers {
        let addr = nth_address(first, index).ok_or_else(|| {
            Usage(format!("--http {first}: {routers} routers need ports up to 65535, there are fewer"))
        })?;
        if let Err(e) = TcpListener::bind(addr) {
            if e.kind() == std::io::ErrorKind::AddrInUse {
                bail!("{addr} is in use; stop what uses it, or choose another address with --http");
            }
            bail!("can't listen on {addr} ({e}); choose another address with --http");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;
    use roomring_control::access::AccessFlags;

    fn plan(flags: &[&str]) -> Vec<Spec> {
        let args = [&["roomctl", "dev"], flags].concat();
        let Verb::Dev(args) = Cli::parse_from(args).verb else { panic!("dev") };
        let target = Target {
            etcd: vec!["http://e:1".to_owned()],
            access: AccessFlags::default(),
            cluster: args.cluster.clone(),
        };
        let programs = Programs { node: "/bin/n".into(), router: "/bin/r".into() };
        Plan::new(&args, &target, &programs, Path::new("/dir")).specs
    }

    fn flag<'a>(spec: &'a Spec, name: &str) -> &'a str {
        let at = spec.args.iter().position(|a| a == name).unwrap_or_else(|| panic!("{name} in {spec:?}"));
        spec.args[at + 1].to_str().unwrap()
    }

    #[test]
    fn every_process_gets_its_own() {
        let specs = plan(&["--nodes=2", "--routers=3", "--http=127.0.0.1:9000", "--fence-after=2s", "--config=c.toml"]);
        let ids: Vec<_> = specs.iter().map(|s| s.id.as_str()).collect();
        assert_eq!(ids, ["node-1", "node-2", "router-1", "router-2", "router-3"]);
        assert_eq!(flag(&specs[1], "--home"), "/dir/node-2");
        assert_eq!(flag(&specs[1], "--fence-after"), "2s");
        assert_eq!(flag(&specs[1], "--replication"), "2");
        assert_eq!(flag(&plan(&["--nodes=1"])[0], "--replication"), "1");
        assert!(!specs[0].args.contains(&"--config".into()), "the file is the routers'");
        assert_eq!(flag(&specs[4], "--http"), "127.0.0.1:9002");
        assert_eq!(flag(&specs[4], "--config"), "c.toml");
        assert!(specs.iter().all(|s| flag(s, "--etcd") == "http://e:1"));
        assert!(!specs[4].args.contains(&"--insecure-names".into()));
        assert_eq!(flag(&plan(&[])[4], "--insecure-names"), "true");
        assert!(plan(&["--http=127.0.0.1:0"])[3..].iter().all(|s| flag(s, "--http") == "127.0.0.1:0"));
    }

    #[test]
    fn ports_are_checked_before_anything_starts() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let error = check_ports(addr, 1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{addr} is in use; ")), "{error}");
        let error = check_ports("127.0.0.1:65535".parse().unwrap(), 2).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("--http"), "{error}");
    }
}
