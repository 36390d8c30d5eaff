//! `roomring-router`: one router of a cluster.

use std::io::Write;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use roomring_control::daemon::config::USAGE_EXIT_CODE;
use roomring_control::daemon::{self, shutdown, telemetry};
use roomring_router::{Config, Error, Flags, Ready};
use tokio::sync::oneshot;

/// The C library's allocator keeps what thousands of small connections had: a router short of memory stayed so when they had left.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let config = daemon::load::<Flags, Config>();
    if let Err(e) = telemetry::start(&config.log, config.log_format) {
        eprintln!("roomring-router: {e}");
        return usage();
    }
    allow_files();
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
            match e {
                Error::Setting(_) => usage(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn usage() -> ExitCode {
    ExitCode::from(u8::try_from(USAGE_EXIT_CODE).expect("2 is a u8"))
}

/// Every client is an open file, and the usual soft limit of 1,024 is for programs that use select(2).
fn allow_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(e) = raised {
        tracing::warn!(error = %e, "the limit on open files stays as it is");
    }
}
