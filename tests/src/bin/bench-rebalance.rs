//! How even nodes are under a Zipf load, before and after automatic rebalancing, on a cluster of real processes.
//!
//! What a node carries is counted here, from what publishers were told, not taken from what nodes say of themselves.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use roomring_tests::{ANYONE_PUBLISHES, Cluster, Options, Skew, SkewedTraffic, Weight};

/// Over so long what nodes carry is counted.
const COUNTED: Duration = Duration::from_secs(20);

/// Without a new decision for so long it is done: longer than the rebalancer waits for anything.
const RESTED: Duration = Duration::from_secs(30);

/// The hottest node may carry so many times the mean.
const TARGET: f64 = 1.25;

#[derive(Debug, Parser)]
#[command(about = "Measures how even nodes are under a Zipf load after automatic rebalancing")]
struct Args {
    /// Nodes
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Rooms
    #[arg(long, default_value_t = 10_000)]
    rooms: u32,
    /// The n-th room gets n to the minus this of the load
    #[arg(long, default_value_t = 1.1)]
    exponent: f64,
    /// Publishes a second
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Which loads: each has other room names
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    seeds: Vec<u32>,
    /// Longest time for each
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    println!("{} nodes, {} rooms, Zipf({}), {} publishes/s", args.nodes, args.rooms, args.exponent, args.rate);
    println!(
        "{:>6}{:>10}{:>10}{:>8}{:>12}{:>10}{:>10}",
        "load", "expected", "before", "moves", "seconds", "after", "failed"
    );
    let mut met = true;
    for seed in &args.seeds {
        met &= measure(&args, *seed).await;
    }
    ExitCode::from(u8::from(!met))
}

async fn measure(args: &Args, seed: u32) -> bool {
    let options = Options {
        weight: Weight::Heavy,
        nodes: args.nodes,
        slots: 1024,
        replication: 2,
        fence_after: "60s",
        lease_ttl: "10s",
        router_flags: vec![ANYONE_PUBLISHES],
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    // Off until it is measured what the ring alone does.
    cluster.roomctl_json(&["rebalance", "--off"]).await;
    let skew = Skew::zipf(args.rooms, args.exponent, seed);
    let start = cluster.placement().await.expect("a placement");
    let expected = skew.expected(&start);
    let traffic = SkewedTraffic::start(&cluster.http(), skew, args.rate).await;
    let counted = traffic.acked();
    tokio::time::sleep(COUNTED).await;
    let before = traffic.hottest_since(&counted, &start);

    cluster.roomctl_json(&["rebalance", "--on"]).await;
    let began = Instant::now();
    let (mut decided, mut last) = (0, Instant::now());
    while last.elapsed() < RESTED && began.elapsed() < Duration::from_secs(args.seconds) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = cluster.roomctl_json(&["status"]).await["wishes"]["overrides"].as_object().map_or(0, |o| o.len());
        if now != decided {
            (decided, last) = (now, Instant::now());
        }
    }
    let took = last.duration_since(began).as_secs_f64();
    let counted = traffic.acked();
    tokio::time::sleep(COUNTED).await;
    let after = traffic.hottest_since(&counted, &cluster.placement().await.expect("a placement"));
    let (_, failed) = traffic.stop().await;
    println!("{seed:>6}{expected:>10.2}{before:>10.2}{decided:>8}{took:>12.0}{after:>10.2}{failed:>10}");
    after < TARGET && failed == 0
}
