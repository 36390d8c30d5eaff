//! `make bench-reshard`: a node joins and leaves again under load, and nobody may notice.
//!
//! Real processes on a real etcd; all clients are in this process. See [`voice`] for how pauses are measured.

mod audience;
mod voice;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use audience::Audience;
use clap::Parser;
use nix::sys::signal::Signal;
use roomring_tests::{ANYONE_PUBLISHES, Cluster, Follow, Options, Times, Weight, has_seats, primaries, primary};
use voice::{Pace, Voice};

/// Until a node that was drained has ended.
const ENDED: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
#[command(about = "A node joins and leaves under load, again and again; measures what rooms notice of it")]
struct Args {
    /// Times that a node joins and leaves
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rooms
    #[arg(long, default_value_t = 10_000)]
    rooms: usize,
    /// Clients
    #[arg(long, default_value_t = 5000)]
    members: usize,
    /// Rooms that each client is in
    #[arg(long, default_value_t = 8)]
    each: usize,
    /// Messages in each room's history at the start
    #[arg(long, default_value_t = 100)]
    history: usize,
    /// Bytes of each message
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Publishes a second, over all rooms; those to the rooms watched closely are among them
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Rooms watched closely in each change
    #[arg(long, default_value_t = 6)]
    close: usize,
    /// Slots of the cluster
    #[arg(long, default_value_t = 1024)]
    slots: u32,
    /// Milliseconds between two changes: what the first one left over is done by then
    #[arg(long, default_value_t = 2000)]
    rest: u64,
    /// Write what everybody did and was told to this file, for roomring-check
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Write every pause and each slow publish between the moves to this file: when it began in ms, the slot, how long it was
    /// in ms
    #[arg(long, value_name = "FILE")]
    pauses: Option<PathBuf>,
}

/// What `--pauses` lists of publishes to rooms at rest, beyond the usual time.
const SLOW: Duration = Duration::from_millis(20);

/// Between two publishes to a room that is watched closely.
const INTERVAL: Duration = Duration::from_millis(10);

/// What was measured of one round.
#[derive(Debug)]
struct Round {
    join: (Instant, Instant),
    join_took: Duration,
    moved: usize,
    share: f64,
    leave: (Instant, Instant),
    /// Of the placement, by the join and by the drain.
    writes: (u64, u64),
    primaries: Duration,
    whole: Duration,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options {
        weight: Weight::Heavy,
        slots: args.slots,
        replication: 2,
        fence_after: "60s",
        lease_ttl: "10s",
        node_flags: vec!["--history-age", "1h", "--stop-grace", "60s"],
        router_flags: vec![ANYONE_PUBLISHES],
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    let began = Instant::now();
    audience::fill(&cluster.http(), args.rooms, args.history, args.bytes).await;
    println!(
        "{} rooms with {} messages of {} bytes each, in {:.1?}",
        args.rooms,
        args.history,
        args.bytes,
        began.elapsed()
    );
    let began = Instant::now();
    let audience = Audience::gather(&cluster.http(), args.rooms, args.members, args.each).await;
    println!("{} clients, each in {} rooms, in {:.1?}", args.members, args.each, began.elapsed());

    let (mut follow, news) = Follow::start(&cluster).await;
    let close = u32::try_from(args.close).expect("few")
        * u32::try_from(Duration::from_secs(1).as_millis() / INTERVAL.as_millis()).expect("few");
    let pace = Pace { a_second: args.rate.saturating_sub(close).max(1), interval: INTERVAL };
    let voice = Voice::start(audience.speakers(), args.slots as usize, pace, news);
    let rest = Duration::from_millis(args.rest);
    tokio::time::sleep(rest).await;
    let mut rounds = Vec::new();
    for n in 0..args.rounds {
        let newcomer = format!("node-{}", n + 4);
        let round = round(&mut cluster, &mut follow, &voice, (args.close, rest), &newcomer).await;
        println!("{round:.0?}");
        rounds.push(round);
    }
    let spoken = voice.stop().await;
    let (recording, verdicts) = audience.judge().await;
    if let Some(path) = &args.record {
        let written = std::fs::File::create(path).and_then(|f| recording.write(std::io::BufWriter::new(f)));
        written.unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }
    let dropped = audience.dropped();
    let broken = verdicts.iter().map(|v| v.findings.violations.len()).sum::<usize>();
    println!("\nchecker, {} events of {} clients:", recording.lines.len(), args.members);
    for verdict in &verdicts {
        let (checked, violations) = (verdict.findings.looked_at, &verdict.findings.violations);
        println!("  {:<28}{:>10} checked{:>6} violations", verdict.rule, checked, violations.len());
        violations.iter().take(5).for_each(|v| println!("    {v}"));
    }
    let [each, slow] = report(&rounds, &spoken);
    if let Some(path) = &args.pauses {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let row = |what: &str, (at, slot, pause): &(Instant, usize, Duration)| {
            format!("{:.1} {slot} {:.1} {what}\n", ms(at.duration_since(began)), ms(*pause))
        };
        let moved = each.iter().map(|pause| row("move", pause));
        let rows: String = moved.chain(slow.iter().map(|pause| row("publish", pause))).collect();
        std::fs::write(path, rows).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }
    line("sockets dropped", "0", dropped.to_string());
    for (what, rules) in KINDS {
        let of_kind = verdicts.iter().filter(|v| rules.contains(&v.rule));
        line(what, "0", of_kind.map(|v| v.findings.violations.len()).sum::<usize>().to_string());
    }
    line("violations of any rule of the checker", "0", broken.to_string());
    ExitCode::from(u8::from(dropped + broken > 0))
}

/// What the rules of the checker are about.
const KINDS: [(&str, &[&str]); 3] = [
    ("messages lost", &["AckedDeliveredOrTold", "NoLossOnSingleDeath", "GapFreeOrRecoveredFalse"]),
    ("messages delivered twice", &["NoDuplicateDelivery"]),
    ("messages out of order", &["TotalOrderAgreement", "PublisherFifo", "CausalOrder", "AckSeqMatchesDelivery"]),
];

/// A node joins; when all is where it belongs it is told to stop.
async fn round(
    cluster: &mut Cluster,
    follow: &mut Follow,
    voice: &Voice,
    (close, rest): (usize, Duration),
    newcomer: &str,
) -> Round {
    let before = follow.latest();
    // Which rooms will move to it, the ring tells.
    let with = cluster.wish_with(&before, newcomer);
    voice.watch(close, |slot| with[slot][0].as_str() == newcomer);
    tokio::time::sleep(rest).await;
    let ordered = Instant::now();
    cluster.start_node(newcomer).await;
    let after = follow.settled(&with).await;
    let join_took = ordered.elapsed();
    let moved = (0..after.slots.len()).filter(|&s| primary(&before, s) != primary(&after, s)).count();
    let share = after.slots.len() as f64 / cluster.nodes.len() as f64;
    tokio::time::sleep(rest).await;
    let join = (ordered, Instant::now());

    voice.watch(close, |slot| primary(&after, slot) == newcomer);
    tokio::time::sleep(rest).await;
    let mut node = cluster.nodes.remove(newcomer).expect("it runs");
    let wish = cluster.wish(&after);
    let ordered = Instant::now();
    node.process.signal(Signal::SIGTERM);
    follow.until("its primaries to be elsewhere", |p| !primaries(p).contains_key(newcomer)).await;
    let primaries = ordered.elapsed();
    follow.until("its seats to be elsewhere", |p| !has_seats(p, newcomer)).await;
    let whole = ordered.elapsed();
    follow.settled(&wish).await;
    let writes = (after.version - before.version, follow.latest().version - after.version);
    let status = node.process.exit(ENDED).await;
    assert_eq!(status.code(), Some(0), "{newcomer} ends well:\n{}", node.process.tail());
    tokio::time::sleep(rest).await;
    Round { join, join_took, moved, share, leave: (ordered, Instant::now()), writes, primaries, whole }
}

/// Tells what was measured; the single pauses come back.
fn report(rounds: &[Round], spoken: &voice::Spoken) -> [Vec<(Instant, usize, Duration)>; 2] {
    println!("\n{:<52}{:>8}{:>10}{:>10}{:>10}", "times in ms", "count", "p50", "p99", "max");
    let row = |what: &str, times: &Times| println!("{what:<52}{:>8}{}", times.len(), times.columns());
    let (mut all, mut elsewhere, mut late) = (Times::default(), Times::default(), Times::default());
    let mut between = Times::default();
    let (mut slots, mut each, mut slow) = (0, Vec::new(), Vec::new());
    for (what, phase) in [("join", (|r: &Round| r.join) as fn(&Round) -> _), ("drain", |r: &Round| r.leave)] {
        let (mut rooms, mut gaps) = (Times::default(), Times::default());
        for (from, to) in rounds.iter().map(phase) {
            let pauses = spoken.pauses(from, to, INTERVAL);
            slots += pauses.slots;
            rooms.extend(pauses.rooms);
            gaps.extend(pauses.gaps);
            elsewhere.extend(pauses.elsewhere);
            late.extend(pauses.late);
            between.extend(pauses.between.iter().map(|(_, _, took)| *took));
            slow.extend(pauses.between.into_iter().filter(|(_, _, took)| *took > SLOW));
            each.extend(pauses.each);
        }
        row(&format!("{what}: pause of a moved room"), &rooms);
        row(&format!("{what}: longest gap of a room watched closely"), &gaps);
        all.extend(rooms);
    }
    row("pause, all moved rooms", &all);
    row("the same of a publish to a room that did not move then", &elsewhere);
    row("a publish while copies are made and none moves", &between);
    row("lateness of this process then", &late);
    let usual = spoken.pauses(Instant::now(), Instant::now(), INTERVAL).usual;
    row("every publish, all the time", &usual);
    let took = |f: fn(&Round) -> Duration| rounds.iter().map(f).collect::<Times>();
    let writes = rounds.iter().fold((0, 0), |(join, drain), r| (join + r.writes.0, drain + r.writes.1));
    println!("writes of the placement: {} by joins, {} by drains", writes.0, writes.1);
    row("join, order to settled", &took(|r| r.join_took));
    row("drain, order to primaries elsewhere", &took(|r| r.primaries));
    row("drain, order to whole", &took(|r| r.whole));
    println!("{slots} times a slot switched; refused {}, unknown {}", spoken.failed.refused, spoken.failed.unknown);

    let worst = |f: fn(&Round) -> f64| rounds.iter().map(f).fold(0.0, f64::max);
    let pause = |percent| format!("{:.1} ms", all.percentile(percent).as_secs_f64() * 1e3);
    println!();
    line("what", "target", "measured".to_owned());
    line("pause of a room while it moves (p50 over all moved rooms)", "", pause(50.0));
    line("pause of a room while it moves (p99 over all moved rooms)", "< 20 ms", pause(99.0));
    line(
        "slots moved by one join, of the newcomer's share",
        "<= 1.3",
        format!("{:.2}", worst(|r| r.moved as f64 / r.share)),
    );
    line(
        "drain of a node's primaries, order to done",
        "< 1 s",
        format!("{:.2} s", worst(|r| r.primaries.as_secs_f64())),
    );
    line("drain of a node whole", "< 10 s", format!("{:.2} s", worst(|r| r.whole.as_secs_f64())));
    [each, slow]
}

fn line(what: &str, target: &str, value: String) {
    println!("| {what:<58} | {target:<8} | {value:>12} |");
}
