//! The plain server, by itself.

use std::path::Path;

use super::{Part, Server, own};
use crate::load::dialect::Dialect;

pub(super) async fn start(dir: &Path) -> Result<Server, String> {
    let (process, addr) = own("plain", dir).await;
    let parts = vec![(Part::Edge, process.pid())];
    Ok(Server { dialect: Dialect::Plain, targets: vec![addr], parts, _running: Box::new(process) })
}
