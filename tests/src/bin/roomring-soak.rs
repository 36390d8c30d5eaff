//! `make soak`: one fault after the other, by chance, on a cluster under load, for as long as one asks.
//!
//! After each fault the cluster must come back to full redundancy; at the end of each round of faults everything that the
//! members were told is judged. No fault meets another, so nothing at all may be lost. What fails prints how to run the same
//! sequence again.

use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use roomring_tests::{Fault, Options, Stage, Weight};

/// Faults on one cluster, before its members' logs are judged and forgotten.
const FAULTS: usize = 8;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const ROUTERS: [&str; 2] = ["router-1", "router-2"];

#[derive(Debug, Parser)]
#[command(about = "Does faults by chance to a cluster under load, and judges what its clients were told")]
struct Args {
    /// How long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Where chance begins [default: by chance]
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args = Args::parse();
    let mut seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let (mut rounds, mut faults, mut messages) = (0, 0, 0);
    // A panic in it ends the run with code 101; what it is to be run again with was said.
    while rounds == 0 || Instant::now() < end {
        let sequence = sequence(seed);
        println!("seed {seed}; again with: make soak MINUTES=0 SEED={seed}");
        sequence.iter().enumerate().for_each(|(n, fault)| println!("  {n}: {fault}"));
        let (done, heard) = round(&sequence, end, rounds == 0).await;
        rounds += 1;
        faults += done;
        messages += heard;
        println!("so far {rounds} rounds, {faults} faults, {messages} messages; no promise was broken");
        seed += 1;
    }
}

/// The faults of a seed.
fn sequence(seed: u64) -> Vec<Fault> {
    let mut chance = StdRng::seed_from_u64(seed);
    (0..FAULTS).map(|_| fault(&mut chance)).collect()
}

fn fault(chance: &mut StdRng) -> Fault {
    let node = (*NODES.choose(chance).expect("some")).to_owned();
    let other = NODES.iter().filter(|n| **n != node).copied().collect::<Vec<_>>();
    let other = (*other.choose(chance).expect("some")).to_owned();
    let router = (*ROUTERS.choose(chance).expect("some")).to_owned();
    let lasts = Duration::from_millis(chance.random_range(200..6000));
    let cut = |from: String, to: String, one_way| Fault::Cut { from, to, one_way, lasts };
    match chance.random_range(0..9) {
        0 => Fault::Kill(node),
        1 => Fault::Hang(node),
        2 => Fault::Isolate(node),
        3 => Fault::EtcdDown(lasts),
        4 => cut(node, "etcd".to_owned(), chance.random()),
        5 => cut("etcd".to_owned(), node, true),
        6 => cut(router, node, chance.random()),
        7 => cut(node, router, true),
        _ => cut(node, other, chance.random()),
    }
}

/// One cluster, one sequence, one verdict. Gives the faults done and the messages judged. `whole`: to the end of it, however
/// late it is.
async fn round(sequence: &[Fault], end: Instant, whole: bool) -> (usize, usize) {
    // An eviction by evidence must be allowed at each fault, and not the lease be what decides.
    let options = Options {
        weight: Weight::Heavy,
        net: true,
        replication: 2,
        lease_ttl: "20s",
        fence_after: "60s",
        node_flags: vec!["--eviction-window", "1s"],
        ..Options::default()
    };
    let mut stage = Stage::set("soak", options).await;
    let mut done = 0;
    for fault in sequence {
        if !whole && Instant::now() >= end {
            break;
        }
        let began = Instant::now();
        fault.strike(&mut stage.cluster).await;
        stage.crowd.roll_call(&format!("after fault {done}")).await;
        println!("{fault}: over, and whole again, after {:?}", began.elapsed());
        done += 1;
        // The allowance of evictions is whole again after it.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    (done, stage.nothing_lost(false).await.messages)
}
