//! `roomctl`: the operator's command line.

mod cli;
mod completions;
mod dev;
mod explain;
mod health;
mod nodes;
mod output;
mod probe;
mod snapshot;
mod status;
mod whereis;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use cli::{Cli, Outcome, Usage, Verb};

/// Exit code for trouble: the cluster is not healthy, or not reachable.
const TROUBLE: u8 = 1;

/// Exit code for a command line that can't be used.
const USAGE: u8 = 2;

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
        Verb::Completions(args) => completions::run(args),
    };
    match ran {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Trouble) => ExitCode::from(TROUBLE),
        Err(e) => {
            eprintln!("roomctl: {e:#}");
            ExitCode::from(if e.is::<Usage>() { USAGE } else { TROUBLE })
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
