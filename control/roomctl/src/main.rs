//! `roomctl`: the operator's command line.

mod cli;
mod completions;
mod dev;
mod drain;
mod edit;
mod events;
mod explain;
mod health;
mod moves;
mod nodes;
mod output;
mod pin;
mod probe;
mod rebalance;
mod room_limits;
mod rooms;
mod snapshot;
mod status;
mod tail;
mod top;
mod weight;
mod whereis;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use cli::{Cli, Conflict, Outcome, Refused, Usage, Verb};

/// Exit code for trouble: the cluster is not healthy, or not reachable.
const TROUBLE: u8 = 1;

/// Exit code for a command line that can't be used.
const USAGE: u8 = 2;

/// Exit code for a change that was refused.
const REFUSED: u8 = 3;

/// Exit code for a change that others came before.
const CONFLICT: u8 = 4;

/// Exit code for what was ordered and is not done in time.
const UNFINISHED: u8 = 5;

// One thread: children started by `dev` are tied to the life of the thread that starts them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return refuse(&e),
    };
    let ran = match cli.verb {
        Verb::Dev(args) => dev::run(args).await,
        Verb::Launch(args) => dev::launch(args),
        Verb::Status(args) => status::run(args).await,
        Verb::Nodes(args) => nodes::run(args).await,
        Verb::Where(args) => whereis::run(args).await,
        Verb::Explain(args) => explain::run(args).await,
        Verb::Drain(args) => drain::drain(args).await,
        Verb::Undrain(args) => drain::undrain(args).await,
        Verb::Weight(args) => weight::run(args).await,
        Verb::Pin(args) => pin::pin(args).await,
        Verb::Unpin(args) => pin::unpin(args).await,
        Verb::Move(args) => moves::run(args).await,
        Verb::Rebalance(args) => rebalance::run(args).await,
        Verb::Rooms(args) => rooms::run(args).await,
        Verb::Events(args) => events::run(args).await,
        Verb::Top(args) => top::run(args).await,
        Verb::Tail(args) => tail::run(args).await,
        Verb::Completions(args) => completions::run(args),
    };
    match ran {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Trouble) => ExitCode::from(TROUBLE),
        Ok(Outcome::Unfinished) => ExitCode::from(UNFINISHED),
        Err(e) => {
            eprintln!("roomctl: {e:#}");
            ExitCode::from(match () {
                () if e.is::<Usage>() => USAGE,
                () if e.is::<Refused>() => REFUSED,
                () if e.is::<Conflict>() => CONFLICT,
                () => TROUBLE,
            })
        }
    }
}

/// Help goes to stdout as it is; of an error only the first paragraph, which says what is wrong, as one line.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nowhere to complain to if this fails.
        let _ = error.print();
    } else {
        let text = error.to_string();
        let words: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let line = words.join(" ");
        eprintln!("roomctl: {}; see roomctl --help", line.strip_prefix("error: ").unwrap_or(&line));
    }
    ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
}
