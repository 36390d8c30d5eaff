//! `make bench-failover`: how long the rooms of a node that dies take to answer again, what everybody was told meanwhile, and
//! what the second copy costs.
//!
//! Real processes on a real etcd; all clients are in this process. A node that died is replaced by one of a new name, since
//! one that is evicted again and again is made to wait before it may come back.

mod audience;
mod cost;
mod kills;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use audience::{Audience, Failed};
use clap::Parser;
use kills::{Deaths, Mode};
use roomring_tests::{Cluster, Options, Times, Weight};

/// After a death and its repair: the allowance of fast evictions is whole again where the window is short.
const REST: Duration = Duration::from_secs(3);

/// A cluster with an audience, and what is done to it.
struct Stage {
    modes: &'static [Mode],
    /// Over a network that can be cut; it runs in this process, and costs it time.
    net: bool,
    /// `--eviction-window`.
    window: &'static str,
}

const STAGES: [Stage; 3] = [
    Stage { modes: &[Mode::Kill, Mode::Stop], net: false, window: "3s" },
    Stage { modes: &[Mode::Cut], net: true, window: "3s" },
    Stage { modes: &[Mode::Second], net: false, window: "60s" },
];

#[derive(Debug, Parser)]
#[command(about = "Kills nodes under load and measures how long their rooms take to answer again")]
struct Args {
    /// Deaths of each mode; of the second ones a sixth
    #[arg(long, default_value_t = 30)]
    kills: usize,
    /// How nodes die
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Kill, Mode::Stop, Mode::Cut, Mode::Second])]
    modes: Vec<Mode>,
    /// Rooms
    #[arg(long, default_value_t = 2000)]
    rooms: usize,
    /// Clients, each in one room
    #[arg(long, default_value_t = 5000)]
    members: usize,
    /// Publishes a second, over all rooms
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Do not measure the cost of the second copy
    #[arg(long)]
    no_cost: bool,
    /// Write what everybody did and was told to this file, for roomring-check; the last stage's remains
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let cost = if args.no_cost { None } else { Some(cost::of_a_second_copy(args.rate).await) };
    let mut broken = 0;
    for stage in STAGES {
        let modes: Vec<Mode> = stage.modes.iter().copied().filter(|m| args.modes.contains(m)).collect();
        if !modes.is_empty() {
            broken += stage.run(&modes, &args).await;
        }
    }
    if let Some(times) = &cost {
        report_cost(times);
    }
    ExitCode::from(u8::from(broken > 0))
}

impl Stage {
    /// Lets nodes die in these ways, reports, and gives the number of promises broken.
    async fn run(&self, modes: &[Mode], args: &Args) -> usize {
        let options = Options {
            weight: Weight::Heavy,
            slots: 1024,
            replication: 2,
            fence_after: "60s",
            lease_ttl: "10s",
            net: self.net,
            node_flags: vec!["--eviction-window", self.window],
            ..Options::default()
        };
        let mut cluster = Cluster::start(options).await;
        let audience = Audience::gather(&cluster.http(), args.rooms, args.members).await;
        println!("\n{} members in {} rooms, {} publishes a second", args.members, args.rooms, args.rate);
        let steady = audience.steady(args.rate);
        let mut newcomer = cluster.nodes.len();
        let mut results = Vec::new();
        for &mode in modes {
            // One of these takes as long as a lease.
            let kills = if mode == Mode::Second { args.kills.div_ceil(6) } else { args.kills };
            results.push((mode, kills::kill(&mut cluster, &audience, mode, kills, REST, &mut newcomer).await));
        }
        let (steady, failed) = steady.stop().await;
        let (recording, verdicts) = audience.judge().await;
        if let Some(path) = &args.record {
            let written = std::fs::File::create(path).and_then(|f| recording.write(std::io::BufWriter::new(f)));
            written.unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        }
        report(&results, &steady, failed);
        println!("\nchecker, {} events:", recording.lines.len());
        let mut broken = audience.dropped();
        println!("  sockets dropped: {broken} of {}", args.members);
        for verdict in &verdicts {
            let (checked, violations) = (verdict.findings.looked_at, &verdict.findings.violations);
            println!("  {:<28}{:>10} checked{:>6} violations", verdict.rule, checked, violations.len());
            violations.iter().take(5).for_each(|v| println!("    {v}"));
            broken += violations.len();
        }
        broken
    }
}

fn row(what: &str, times: &Times) {
    println!("{what:<44}{:>8}{}", times.len(), times.columns());
}

fn heading() {
    println!("\n{:<44}{:>8}{:>10}{:>10}{:>10}", "times in ms", "count", "p50", "p99", "max");
}

fn report(results: &[(Mode, Deaths)], steady: &Times, failed: Failed) {
    heading();
    for (mode, deaths) in results {
        row(&format!("{mode:?}: death to acknowledgement, per room"), &deaths.rooms);
        row(&format!("{mode:?}: slowest room of each death"), &deaths.slowest);
        row(&format!("{mode:?}: silence before the eviction"), &deaths.silence);
        let Failed { refused, unknown } = deaths.failed;
        println!(
            "{mode:?}: {} deaths; of the publishes at a death {refused} refused, {unknown} of unknown outcome",
            deaths.count
        );
    }
    row("steady publishes, all the time", steady);
    println!("of the steady publishes {} were refused, {} of unknown outcome", failed.refused, failed.unknown);
}

fn report_cost([one, two]: &[Times; 2]) {
    heading();
    row("publish, one copy", one);
    row("publish, two copies", two);
    let [one, two] = [one, two].map(|t| t.percentile(99.0).as_secs_f64() * 1e3);
    println!("the second copy costs {:.2} ms at p99", two - one);
}
