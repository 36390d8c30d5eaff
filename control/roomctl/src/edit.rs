//! Changing what operators want, which every verb that changes something does alike.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressStyle;
use roomring_control::clock::unix_ms;
use roomring_control::intents::{Author, Edit, Hazard, Intents, NotMade};
use roomring_control::registry::{IntentsError, IntentsStore};
use serde::Serialize;

use crate::cli::{Change, Conflict, Refused};
use crate::output::{self, Format};
use crate::snapshot::Snapshot;

/// How long the whole change may take; etcd's client tries one server after the other.
const DEADLINE: Duration = Duration::from_secs(10);

/// What became of a change.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    /// Of what was ordered, in words.
    pub(crate) change: String,
    /// False: it was so already.
    pub(crate) changed: bool,
    /// What hurts about it and was confirmed.
    pub(crate) confirmed: Vec<String>,
}

/// Makes the change, once whatever hurts about it was confirmed.
pub(crate) async fn make(args: &Change, snapshot: &Snapshot, edit: &Edit) -> anyhow::Result<Made> {
    snapshot.formed(&args.common.target)?;
    let view = snapshot.view();
    let hazards = edit.judge(&snapshot.intents, &view).map_err(|e| Refused(e.to_string()))?;
    confirm(args, edit, &hazards)?;
    let author = author(&args.reason);
    let changed = match update(args, |intents| edit.make(intents, &view, &hazards, &author)).await? {
        Ok(changed) => changed,
        Err(NotMade::Refused(refusal)) => return Err(Refused(refusal.to_string()).into()),
        Err(hazardous @ NotMade::Hazardous { .. }) => {
            let text = "others changed the cluster meanwhile; nothing was changed: look, then try again";
            return Err(Conflict(format!("{text} ({hazardous})")).into());
        }
    };
    let confirmed = hazards.iter().map(Hazard::to_string).collect();
    Ok(Made { change: edit.to_string(), changed, confirmed })
}

/// Writes the intents as `change` wants them; what it refuses with comes back.
pub(crate) async fn update<T, E>(
    args: &Change,
    change: impl FnMut(&mut Intents) -> Result<T, E>,
) -> anyhow::Result<Result<T, E>> {
    let target = &args.common.target;
    let write = async {
        let store = IntentsStore::open(&target.etcd, target.access.etcd(), &target.cluster)?;
        store.update(change).await
    };
    let written = tokio::time::timeout(DEADLINE, write).await;
    let unknown = "whether the change was made is not known; see `roomctl status`, or order it again";
    match written.with_context(|| format!("no answer from etcd within {}s: {unknown}", DEADLINE.as_secs()))? {
        Ok(told) => Ok(told),
        Err(contended @ IntentsError::Contended { .. }) => Err(Conflict(contended.to_string()).into()),
        Err(IntentsError::Etcd(e)) => Err(anyhow::anyhow!("{e}: {unknown}")),
        Err(e @ IntentsError::Unreadable { .. }) => {
            Err(anyhow::Error::new(e).context("what operators want can't be read; a newer roomctl may be needed"))
        }
    }
}

/// Asks on a terminal, unless `--yes` was given.
fn confirm(args: &Change, what: &Edit, hazards: &[Hazard]) -> Result<(), Refused> {
    let hurts = hazards.iter().map(Hazard::to_string).collect::<Vec<_>>().join("; ");
    if hazards.is_empty() || args.yes {
        return Ok(());
    }
    ask(args, &format!("{what}: {hurts}"))
}

/// Has somebody say yes to `what`, or refuses with the advice to give `--yes`.
pub(crate) fn ask(args: &Change, what: &str) -> Result<(), Refused> {
    let somebody = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if args.common.output == Format::Json || !somebody {
        return Err(Refused(format!("{what}; nothing was changed: give --yes to do it all the same")));
    }
    eprint!("{what}.\nGo on? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" if read.is_ok() => Ok(()),
        _ => Err(Refused("nothing was changed".to_owned())),
    }
}

/// A bar on stderr, if that is a terminal: `what` is under way.
pub(crate) fn bar_style(what: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(&format!("{what} [{{bar:30}}] {{pos}}/{{len}} {{msg}} ({{elapsed}})"));
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Whoever runs this, now.
pub(crate) fn author(reason: &str) -> Author {
    let name = std::env::var("USER").ok().filter(|name| !name.is_empty());
    Author { name: name.unwrap_or_else(|| "an operator".to_owned()), time_ms: unix_ms(), reason: reason.to_owned() }
}

/// Writes the answer: a sentence, or everything.
pub(crate) fn tell(args: &Change, answer: &impl Serialize, sentence: &str) -> anyhow::Result<()> {
    match args.common.output {
        Format::Json => output::print_json(answer),
        Format::Table => output::print_text(&format!("{sentence}\n")),
    }
}
