//! `roomctl completions SHELL`.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs, Outcome};

#[allow(clippy::unnecessary_wraps)] // Verbs have one shape.
pub(crate) fn run(args: CompletionsArgs) -> anyhow::Result<Outcome> {
    clap_complete::generate(args.shell, &mut Cli::command(), "roomctl", &mut std::io::stdout());
    Ok(Outcome::Fine)
}
