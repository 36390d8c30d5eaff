//! `make bench-false-evictions`: counts evictions while every core is busy and nothing is wrong. There may be none.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use roomring_tests::{Cluster, Crowd, Options, Outcome, Times, Traffic, Weight};

/// Between two looks at the cores and the placement.
const LOOK: Duration = Duration::from_secs(1);

/// Busy enough to count.
const BUSY_PERCENT: f64 = 95.0;

#[derive(Debug, Parser)]
#[command(about = "Keeps every core busy and counts evictions; there may be none")]
struct Args {
    /// How long
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Busy loops for each core, at normal priority
    #[arg(long, default_value_t = 1)]
    loops: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options {
        weight: Weight::Heavy,
        slots: 1024,
        replication: 2,
        fence_after: "60s",
        lease_ttl: "10s",
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    let crowd = Crowd::gather("busy", &cluster.http(), 100, 4, 5).await;
    let before = cluster.placement().await.expect("a placement");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let stop = Arc::new(AtomicBool::new(false));
    let burners: Vec<_> = (0..cores * args.loops)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let traffic = Traffic::start(crowd.speakers(1), Duration::from_millis(500), None);
    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let (mut least, mut sum, mut looks) = (100.0_f64, 0.0, 0_u32);
    let mut taken = Times::default();
    let mut last = busy();
    while Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        let now = busy();
        let shares =
            last.iter().zip(&now).map(|((b0, a0), (b1, a1))| 100.0 * (b1 - b0) as f64 / (a1 - a0).max(1) as f64);
        let share = shares.fold(100.0, f64::min);
        least = least.min(share);
        sum += share;
        looks += 1;
        last = now;
        let asked = Instant::now();
        let room = crowd.rooms().nth(looks as usize % 100).expect("a room").to_owned();
        if crowd.members(&room)[1].publish(&room, format!("look {looks}")).await.is_ok() {
            taken.extend([asked.elapsed()]);
        }
    }
    stop.store(true, Ordering::Relaxed);
    burners.into_iter().for_each(|b| b.join().expect("a loop"));
    let sent = traffic.stop().await;
    let after = cluster.placement().await.expect("a placement");
    let evictions: usize = after.recent.iter().map(|r| r.evictions.len()).sum();
    let terms = before.slots.iter().zip(&after.slots).filter(|(b, a)| b.term != a.term).count();
    let failed = sent.iter().filter(|s| s.outcome != Outcome::Acked).count();
    let mean = sum / f64::from(looks.max(1));
    println!(
        "{:.1} minutes, {cores} cores: the less busy one was {mean:.1} % busy on average, {least:.1} % at least",
        args.minutes
    );
    println!("{} publishes, {failed} of them failed; a publish took p50 p99 max{} ms", sent.len(), taken.columns());
    println!("false evictions: {evictions}; slots whose primary changed: {terms}");
    if mean < BUSY_PERCENT {
        println!("the cores were not busy enough to show anything");
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(evictions > 0))
}

/// Busy and all time of each core so far, in ticks.
fn busy() -> Vec<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
    let cores = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "));
    let read = |line: &str| {
        let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|t| t.parse().unwrap_or(0)).collect();
        // user nice system idle iowait irq softirq steal; guest time is in user time already.
        let all: u64 = ticks.iter().take(8).sum();
        (all - ticks[3] - ticks[4], all)
    };
    cores.map(read).collect()
}
