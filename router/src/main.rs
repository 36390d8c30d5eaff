//! `roomring-router`: one router of a cluster.

use std::io::Write;
use std::process::ExitCode;

use roomring_control::daemon::config::USAGE_EXIT_CODE;
use roomring_control::daemon::{self, shutdown, telemetry};
use roomring_router::{Config, Flags, Ready};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> ExitCode {
    let config = daemon::load::<Flags, Config>();
    if let Err(e) = telemetry::start(&config.log, config.log_format) {
        eprintln!("roomring-router: {e}");
        return ExitCode::from(u8::try_from(USAGE_EXIT_CODE).expect("2 is a u8"));
    }
    let stop = match shutdown::on_signal() {
        Ok(stop) => stop,
        Err(e) => {
            eprintln!("roomring-router: signals: {e}");
            return ExitCode::FAILURE;
        }
    };
    let (ready, is_ready) = oneshot::channel::<Ready>();
    // Ends with the router, which holds the other end.
    tokio::spawn(async move {
        if let Ok(ready) = is_ready.await {
            // Whoever started us may not want to know.
            let _ = writeln!(std::io::stdout(), "{ready}");
        }
    });
    match roomring_router::run(config, stop, ready).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("roomring-router: {e}");
            ExitCode::FAILURE
        }
    }
}
