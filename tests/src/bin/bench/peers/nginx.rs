//! Two plain servers behind nginx, which sends each room to one of them.

use std::net::SocketAddr;
use std::path::Path;

use roomring_tests::Process;

use super::{Part, Server, configure, free_port, installed, listening, own};
use crate::load::dialect::Dialect;
use crate::usage;

/// nginx and its two workers, at least, on a machine of two cores.
const WORKERS: usize = 2;

pub(super) async fn start(dir: &Path) -> Result<Server, String> {
    let (first, at) = own("plain", dir).await;
    let (second, at_second) = own("plain", dir).await;
    let port = free_port();
    let template = include_str!("../../../../peers/nginx.conf");
    let ports = [("PORT", port), ("FIRST", at.port()), ("SECOND", at_second.port())];
    let (process, mut parts, addr) = run(dir, "nginx.conf", template, &ports).await?;
    parts.extend([first.pid(), second.pid()].map(|pid| (Part::Behind, pid)));
    let running = Box::new((process, first, second));
    Ok(Server { dialect: Dialect::Plain, targets: vec![addr], parts, _running: running })
}

/// Starts nginx with a configuration; gives its processes and its address.
pub(super) async fn run(
    dir: &Path,
    name: &str,
    template: &str,
    ports: &[(&str, u16)],
) -> Result<(Process, Vec<(Part, u32)>, SocketAddr), String> {
    let program = installed("/usr/sbin/nginx", "nginx")?;
    let config = configure(dir, name, template, ports);
    let args = ["-c".as_ref(), config.as_os_str(), "-p".as_ref(), dir.as_os_str()];
    let process = Process::start("nginx", program, &args, &dir.join("nginx.log"));
    let addr = listening(&process, ports[0].1).await?;
    let pids = roomring_tests::eventually("nginx's workers", super::READY, async || {
        let family = usage::family(process.pid());
        (family.len() > WORKERS.min(num_cpus())).then_some(family)
    });
    let parts = pids.await.into_iter().map(|pid| (Part::Edge, pid)).collect();
    Ok((process, parts, addr))
}

fn num_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
