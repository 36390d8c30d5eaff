//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use roomring_control::access::AccessFlags;
use roomring_control::daemon::Span;
use roomring_control::placement::WEIGHT;
use roomring_proto::{NodeId, RoomId};

use crate::output::Format;

/// What scripts can count on; `main.rs` has the numbers.
const EXIT_CODES: &str = "Exit codes: 0 done or fine; 1 trouble in the cluster, or it is not reachable; 2 a bad command line; \
3 refused, nothing was changed (no such node, or --yes is needed); 4 others changed the cluster meanwhile, nothing was \
changed: try again; 5 ordered, but not done within --timeout. What to do next is on stderr.";

/// The operator's command line for Roomring.
#[derive(Debug, Parser)]
#[command(name = "roomctl", version = roomring_control::daemon::version(), max_term_width = 80)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a whole cluster on this machine until Ctrl-C
    Dev(DevArgs),
    /// Show how the cluster is
    Status(Common),
    /// List the room nodes
    Nodes(Common),
    /// Show which node holds a room
    Where(WhereArgs),
    /// Show why a room is where it is, and what changed lately
    Explain(WhereArgs),
    /// Empty a node: its rooms move to the others, and nobody notices
    Drain(DrainArgs),
    /// Let a drained node have rooms again
    Undrain(NodeArgs),
    /// Give a node a larger or smaller share of the rooms
    Weight(WeightArgs),
    /// Keep a room, and all rooms of its slot, on a node
    Pin(PinArgs),
    /// Let a pinned room, and all rooms of its slot, move again
    Unpin(UnpinArgs),
    /// Move a slot to a node
    Move(MoveArgs),
    /// Show how even the load is, and move hot slots off nodes that carry too much
    Rebalance(RebalanceArgs),
    /// List rooms, the largest or the busiest first
    Rooms(RoomsArgs),
    /// Show what moved lately, when, why and how long it took
    Events(EventsArgs),
    /// Show nodes, load and moves, live
    Top(TopArgs),
    /// Follow a room's messages
    Tail(TailArgs),
    /// Write a completion script for a shell to stdout
    Completions(CompletionsArgs),
    /// Run a program that ends when its parent does
    #[command(hide = true)]
    Launch(LaunchArgs),
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// URLs of etcd, separated by commas
    #[arg(long, env = "ROOMRING_ETCD", value_name = "URL,...", value_delimiter = ',')]
    #[arg(default_value = "http://127.0.0.1:2379", value_parser = etcd_url)]
    pub(crate) etcd: Vec<String>,
    #[command(flatten)]
    pub(crate) access: AccessFlags,
    /// Name of the cluster
    #[arg(long, env = "ROOMRING_CLUSTER", value_name = "NAME", default_value = "roomring")]
    pub(crate) cluster: NodeId,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How to write the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct WhereArgs {
    /// The room's name
    pub(crate) room: RoomId,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// How a change is made.
#[derive(Debug, Args)]
pub(crate) struct Change {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Do it without asking, even if it hurts
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node's id
    pub(crate) node: NodeId,
    /// Wait until nothing is left on it
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value_t = Span::secs(600), requires = "wait")]
    pub(crate) timeout: Span,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The node's id
    pub(crate) node: NodeId,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct WeightArgs {
    /// The node's id
    pub(crate) node: NodeId,
    /// In percent of a whole share; 0 leaves it only what is pinned to it
    #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(WEIGHT)), required_unless_present = "registered")]
    pub(crate) percent: Option<u32>,
    /// Back to the weight that it registered with
    #[arg(long, conflicts_with = "percent")]
    pub(crate) registered: bool,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// The room's name
    pub(crate) room: RoomId,
    /// The node's id
    pub(crate) node: NodeId,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct UnpinArgs {
    /// The room's name
    #[arg(required_unless_present = "slot")]
    pub(crate) room: Option<RoomId>,
    /// A slot's number, instead of a room
    #[arg(long, value_name = "SLOT", conflicts_with = "room")]
    pub(crate) slot: Option<u32>,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The slot's number
    pub(crate) slot: u32,
    /// The node's id
    #[arg(required_unless_present = "back")]
    pub(crate) node: Option<NodeId>,
    /// Give the slot back to the ring
    #[arg(long, conflicts_with = "node")]
    pub(crate) back: bool,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct RebalanceArgs {
    /// Show the plan, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Let the nodes rebalance by themselves
    #[arg(long, conflicts_with_all = ["dry_run", "off", "wait"])]
    pub(crate) on: bool,
    /// Have the nodes leave slots where they are
    #[arg(long, conflicts_with_all = ["dry_run", "wait"])]
    pub(crate) off: bool,
    /// Wait until the slots are there
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value_t = Span::secs(600), requires = "wait")]
    pub(crate) timeout: Span,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// What rooms are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RoomsBy {
    /// Most members first
    #[default]
    Members,
    /// Most messages a second first
    Rate,
}

#[derive(Debug, Args)]
pub(crate) struct RoomsArgs {
    /// Only rooms of this node
    #[arg(long)]
    pub(crate) node: Option<NodeId>,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: RoomsBy,
    /// How many to list at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(crate) last: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// How many of the latest to list at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(crate) last: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Write one screen and end
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The room's name
    pub(crate) room: RoomId,
    /// Name under which it is read: members of the room see who reads
    #[arg(long, value_name = "USER", default_value = "roomctl")]
    pub(crate) user: String,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Number of room nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MOST_PROCESSES))]
    pub(crate) nodes: u16,
    /// Number of routers, on consecutive ports
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=MOST_PROCESSES))]
    pub(crate) routers: u16,
    /// Address of the first router; port 0 lets each choose one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    pub(crate) http: std::net::SocketAddr,
    /// URLs of an etcd to use, separated by commas; without it one is served from memory
    #[arg(long, env = "ROOMRING_ETCD", value_name = "URL,...", value_delimiter = ',', value_parser = etcd_url)]
    pub(crate) etcd: Vec<String>,
    #[command(flatten)]
    pub(crate) access: AccessFlags,
    /// Name of the cluster
    #[arg(long, env = "ROOMRING_CLUSTER", value_name = "NAME", default_value = "roomring")]
    pub(crate) cluster: NodeId,
    /// How long a node may serve without contact with etcd; a crashed node's rooms come back after this
    #[arg(long, value_name = "TIME", default_value_t = Span::secs(60))]
    pub(crate) fence_after: Span,
    /// Write one line of JSON once all is ready, instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// TOML file with more settings for the routers
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What the processes log, into a file each
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

/// A laptop runs this many; more is a mistype.
const MOST_PROCESSES: i64 = 64;

#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// Process whose end ends the program
    #[arg(long)]
    pub(crate) parent: i32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

/// How a verb that could say what was asked went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Fine,
    /// The answer was given, and it is bad news.
    Trouble,
    /// What was ordered goes on, and was not waited for any longer.
    Unfinished,
}

/// The command line can't be used, as found out after it was read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Nothing was changed: it can't be, or was not confirmed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// Nothing was changed: others changed it meanwhile.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Conflict(pub(crate) String);

fn etcd_url(url: &str) -> Result<String, String> {
    let host =
        url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).map(|rest| rest.trim_end_matches('/'));
    match host.and_then(|h| h.rsplit_once(':')) {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(url.to_owned()),
        _ => Err("expected a URL such as http://127.0.0.1:2379".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn etcd_urls_are_checked() {
        assert!(etcd_url("http://127.0.0.1:2379").is_ok());
        assert!(etcd_url("http://[::1]:2379/").is_ok());
        assert!(etcd_url("https://etcd:2379").is_ok());
        for bad in ["", "127.0.0.1:2379", "http://", "http://:1", "http://host", "http://host:70000", "ftp://a:1"] {
            assert!(etcd_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_value_names_its_flag() {
        for (args, flag) in [
            (&["roomctl", "status", "--cluster", "a/b"][..], "--cluster"),
            (&["roomctl", "status", "-o", "xml"], "--output"),
            (&["roomctl", "dev", "--nodes", "0"], "--nodes"),
            (&["roomctl", "dev", "--http", "8000"], "--http"),
            (&["roomctl", "dev", "--fence-after", "soon"], "--fence-after"),
            (&["roomctl", "where", ""], "<ROOM>"),
            (&["roomctl", "drain", "a/b"], "<NODE>"),
            (&["roomctl", "drain", "a", "--timeout", "1s"], "--wait"),
            (&["roomctl", "weight", "a"], "<PERCENT>"),
            (&["roomctl", "weight", "a", "10001"], "[PERCENT]"),
            (&["roomctl", "weight", "a", "50", "--registered"], "--registered"),
            (&["roomctl", "pin", "lobby"], "<NODE>"),
            (&["roomctl", "unpin"], "<ROOM>"),
            (&["roomctl", "unpin", "lobby", "--slot", "3"], "--slot"),
            (&["roomctl", "move", "lobby", "a"], "<SLOT>"),
            (&["roomctl", "move", "3"], "<NODE>"),
            (&["roomctl", "rebalance", "--on", "--off"], "--off"),
            (&["roomctl", "rebalance", "--dry-run", "--wait"], "--wait"),
            (&["roomctl", "rooms", "--sort", "name"], "--sort"),
            (&["roomctl", "events", "-n", "few"], "--last"),
            (&["roomctl", "tail"], "<ROOM>"),
        ] {
            let error = Cli::try_parse_from(args).unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
