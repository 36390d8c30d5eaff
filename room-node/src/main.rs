//! `roomring-node`: one room node of a cluster.

use std::io::Write;
use std::process::ExitCode;

use roomring_control::daemon::config::USAGE_EXIT_CODE;
use roomring_control::daemon::{self, shutdown, telemetry};
use roomring_node::config::{Config, Flags};
use tokio::runtime;
use tokio::sync::oneshot;

/// Slots that come and go are a hundred thousand small blocks at a time. The C library's allocator took a third of all time for
/// them, and stood still for a tenth of a second now and then.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = daemon::load::<Flags, Config>();
    if let Err(e) = telemetry::start(&config.log, config.log_format) {
        eprintln!("roomring-node: {e}");
        return ExitCode::from(u8::try_from(USAGE_EXIT_CODE).expect("2 is a u8"));
    }
    let mut runtime = match config.threads() {
        1 => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    match runtime.worker_threads(config.threads()).enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(e) => {
            eprintln!("roomring-node: threads: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> ExitCode {
    let stop = match shutdown::on_signal() {
        Ok(stop) => stop,
        Err(e) => {
            eprintln!("roomring-node: signals: {e}");
            return ExitCode::FAILURE;
        }
    };
    let (ready, is_ready) = oneshot::channel::<roomring_node::Ready>();
    // Ends with the node, which holds the other end.
    tokio::spawn(async move {
        if let Ok(ready) = is_ready.await {
            // Whoever started us may not want to know.
            let _ = writeln!(std::io::stdout(), "{ready}");
        }
    });
    match roomring_node::run(config, stop, ready).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("roomring-node: {e}");
            ExitCode::FAILURE
        }
    }
}
