//! The floor, a process for each load process.

use std::path::Path;

use super::{Part, Server, Setup, own};
use crate::load::dialect::Dialect;
use crate::loads;

pub(super) async fn start(setup: Setup, dir: &Path) -> Result<Server, String> {
    let (mut processes, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..loads::needed(setup.connections) {
        let (process, addr) = own("floor", dir).await;
        processes.push(process);
        targets.push(addr);
    }
    let parts = processes.iter().map(|p| (Part::Edge, p.pid())).collect();
    Ok(Server { dialect: Dialect::Floor, targets, parts, _running: Box::new(processes) })
}
