//! A program that can't outlive the process that started it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::cli::{LaunchArgs, Outcome};

/// Becomes the program, after asking the kernel for SIGKILL when the parent dies, however it dies: that request survives
/// the exec, and so the program needs to know nothing of it.
pub(crate) fn launch(args: LaunchArgs) -> anyhow::Result<Outcome> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to end with the parent")?;
    // It may have died just before.
    if getppid().as_raw() != args.parent {
        bail!("process {} is gone already", args.parent);
    }
    let (program, arguments) = args.command.split_first().context("no program given")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("running {}", program.display()))
}
