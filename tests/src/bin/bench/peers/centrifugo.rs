//! Centrifugo, at its defaults, and with small pooled buffers as its documentation advises for many connections.

use std::path::Path;

use roomring_tests::Process;

use super::{Part, Server, configure, free_port, listening, peers_dir};
use crate::load::dialect::Dialect;

/// What its documentation says about memory per connection.
const TUNED: &str = r#""read_buffer_size": 512, "write_buffer_size": 512, "use_write_buffer_pool": true"#;

pub(super) async fn start(dir: &Path, tuned: bool) -> Result<Server, String> {
    let program = peers_dir().join("bin/centrifugo");
    if !program.is_file() {
        return Err("not built: it takes Go and a module proxy".to_owned());
    }
    let port = free_port();
    let template = include_str!("../../../../peers/centrifugo.json");
    let template = template.replace("@WEBSOCKET@", if tuned { TUNED } else { "" });
    let config = configure(dir, "centrifugo.json", &template, &[("PORT", port)]);
    let args = ["-c".as_ref(), config.as_os_str()];
    let process = Process::start("centrifugo", &program, &args, &dir.join("centrifugo.log"));
    let addr = listening(&process, port).await?;
    let parts = vec![(Part::Edge, process.pid())];
    Ok(Server { dialect: Dialect::Centrifuge, targets: vec![addr], parts, _running: Box::new(process) })
}
