//! Socket.IO on two processes, with Redis between them.

use std::path::Path;

use roomring_tests::Process;

use super::{Part, READY, Server, free_port, installed, listening, peers_dir};
use crate::load::dialect::Dialect;

const PROCESSES: usize = 2;

pub(super) async fn start(dir: &Path) -> Result<Server, String> {
    let program = installed("/usr/bin/redis-server", "redis-server")?;
    let node = installed("/usr/bin/node", "nodejs")?;
    let script = peers_dir().join("socketio.cjs");
    if !script.is_file() {
        return Err("not installed: npm could not fetch it".to_owned());
    }
    let port = free_port();
    let listen = port.to_string();
    let args = ["--port", &listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let redis = Process::start("redis", program, &args, &dir.join("redis.log"));
    listening(&redis, port).await?;
    let mut servers = Vec::new();
    let mut targets = Vec::new();
    for n in 0..PROCESSES {
        let args = [script.as_os_str(), listen.as_ref()];
        let mut server = Process::start("socketio", node, &args, &dir.join(format!("socketio-{n}.log")));
        let line = server.line("its address", READY).await;
        targets.push(line.strip_prefix("ready addr=").and_then(|a| a.parse().ok()).ok_or(line)?);
        servers.push(server);
    }
    let servers_pids = servers.iter().map(|s| (Part::Edge, s.pid()));
    let parts = servers_pids.chain([(Part::Behind, redis.pid())]).collect();
    let running = Box::new((servers, redis));
    Ok(Server { dialect: Dialect::SocketIo, targets, parts, _running: running })
}
