//! nginx with nchan.

use std::path::Path;

use super::{Server, free_port, nginx};
use crate::load::dialect::Dialect;

pub(super) async fn start(dir: &Path) -> Result<Server, String> {
    if !Path::new("/usr/lib/nginx/modules/ngx_nchan_module.so").is_file() {
        return Err("not installed: libnginx-mod-nchan".to_owned());
    }
    let port = free_port();
    let template = include_str!("../../../../peers/nchan.conf");
    let (process, parts, addr) = nginx::run(dir, "nchan.conf", template, &[("PORT", port)]).await?;
    Ok(Server { dialect: Dialect::Nchan, targets: vec![addr], parts, _running: Box::new(process) })
}
