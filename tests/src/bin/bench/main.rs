//! `make bench`: what a delivery costs, beside others and beside the kernel's own cost.
//!
//! This program is all there is to it: it starts the servers, the load processes (itself, as `bench load`) and two servers
//! of its own: the floor (`bench floor`) and the plain one (`bench plain`).

mod floor;
mod histogram;
mod kept;
mod load;
mod loads;
mod machine;
mod measure;
mod peers;
mod plain;
mod plots;
mod report;
mod rows;
mod svg;
mod table;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use machine::Machine;
use measure::{Lengths, Measured, measure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use peers::Peer;
use report::{Line, Results};
use rows::{GROWTH, ROWS, Row, SLICE, Who};

/// Others without which a table proves nothing.
const ENOUGH: usize = 3;

#[derive(Debug, Parser)]
#[command(about = "Measures what a delivery costs, beside others and beside one write per delivery")]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Rows by name; all if none [possible values: see --list]
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Servers beside the floor; all if none
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// How the cost grows, in place of the table
    #[arg(long)]
    growth: bool,
    /// A few clients only, to see that it works
    #[arg(long)]
    slice: bool,
    /// Where results are kept; target/bench by default
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Times that everything is measured; the table has the medians
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// One short run of each
    #[arg(long)]
    quick: bool,
    /// Name the rows and do nothing
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Show everything that was measured so far, and write it to target/bench
    Report,
    /// A load process
    #[command(hide = true)]
    Load,
    /// The floor
    #[command(hide = true)]
    Floor,
    /// The plain server
    #[command(hide = true)]
    Plain,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.part {
        Some(Part::Load) => load::run(),
        Some(Part::Floor) => floor::serve(),
        Some(Part::Plain) => plain::run(),
        Some(Part::Report) => report_all(&args.out.clone().unwrap_or_else(kept::default_dir)),
        None => bench(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> std::io::Result<()> {
    let all = match (args.slice, args.growth) {
        (true, _) => SLICE,
        (_, true) => GROWTH,
        _ => ROWS,
    };
    let out = args.out.clone().unwrap_or_else(kept::default_dir);
    if args.list {
        all.iter().for_each(|row| println!("{:<18} {}", row.name, row.title));
        return Ok(());
    }
    for name in &args.rows {
        if !all.iter().any(|row| row.name == name) {
            return Err(std::io::Error::other(format!("there is no row {name:?}; --list names them")));
        }
    }
    let rows: Vec<&Row> =
        all.iter().filter(|row| args.rows.is_empty() || args.rows.iter().any(|n| n == row.name)).collect();
    // What is started inherits it. Ten thousand connections take more than the usual 1,024.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let machine = Machine::here();
    let mut lines = Vec::new();
    for row in rows {
        let of_row = runtime.block_on(measure_row(row, args))?;
        println!("{}", table::text(&of_row));
        kept::keep(&out, row, &machine, of_row.clone())?;
        lines.extend(of_row);
    }
    println!("{}\n{}", table::text(&lines), verdict(&lines));
    plots::write(&kept::all(&out), &out)
}

async fn measure_row(row: &Row, args: &Args) -> std::io::Result<Vec<Line>> {
    let lengths = match args.quick {
        true => Lengths { warm_up: Duration::from_millis(500), window: Duration::from_millis(1_500) },
        false => Lengths { warm_up: Duration::from_secs(1), window: Duration::from_secs(3) },
    };
    let peers: Vec<Peer> = match args.peers.as_slice() {
        [] => Peer::value_variants().iter().copied().filter(|p| *p != Peer::Floor).collect(),
        some => some.to_vec(),
    };
    let dir = tempfile::tempdir()?;
    let mut results = Results::default();
    for _ in 0..if args.quick { 1 } else { args.runs } {
        for &peer in peers.iter().filter(|p| row.who == Who::All || **p == Peer::Ours) {
            // The floor right before each, so that both meet the same weather.
            let floor = match row.kind.delivers() {
                true => measure(Peer::Floor, row, lengths, dir.path()).await,
                false => Ok(Measured::default()),
            };
            results.add(row, peer, floor, measure(peer, row, lengths, dir.path()).await);
        }
    }
    Ok(results.lines(row))
}

fn report_all(dir: &Path) -> std::io::Result<()> {
    let kept = kept::all(dir);
    let lines: Vec<Line> = kept.iter().flat_map(|k| k.lines.clone()).collect();
    println!("{}\n{}", table::text(&lines), verdict(&lines));
    std::fs::write(dir.join("results.md"), table::markdown(&lines))?;
    plots::write(&kept, dir)
}

/// What the lines are good for.
fn verdict(lines: &[Line]) -> String {
    let mut there: Vec<&str> =
        lines.iter().filter(|l| l.runs > 0 && l.faults.is_empty()).map(|l| l.peer.as_str()).collect();
    there.sort_unstable();
    there.dedup();
    let others = there.iter().filter(|peer| **peer != Peer::Ours.name()).count();
    match others {
        ENOUGH.. => format!("{others} other servers took part."),
        _ => format!("Only {others} other servers took part: this proves nothing."),
    }
}
