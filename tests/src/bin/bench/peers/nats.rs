//! nats-server with WebSockets.

use std::path::Path;

use super::{Part, Server, configure, free_port, installed, listening};
use crate::load::dialect::Dialect;
use roomring_tests::Process;

pub(super) async fn start(dir: &Path) -> Result<Server, String> {
    let program = installed("/usr/sbin/nats-server", "nats-server")?;
    let (port, clients) = (free_port(), free_port());
    let template = include_str!("../../../../peers/nats.conf");
    let config = configure(dir, "nats.conf", template, &[("PORT", port), ("CLIENTS", clients)]);
    let process = Process::start("nats", program, &["-c".as_ref(), config.as_os_str()], &dir.join("nats.log"));
    let addr = listening(&process, port).await?;
    let parts = vec![(Part::Edge, process.pid())];
    Ok(Server { dialect: Dialect::Nats, targets: vec![addr], parts, _running: Box::new(process) })
}
