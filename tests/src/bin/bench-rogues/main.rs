//! `make bench-rogues`: what clients that do nothing wrong notice of as many that do. The same load is measured three times on the
//! same cluster: alone; beside busy loops of the rogues' priority, as rogues elsewhere have machines of their own and here keep
//! these cores busy; and with the rogues. Whoever does nothing wrong may lose nothing and not be cut off.

mod good;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use roomring_tests::{Cluster, Got, Options, Process, Rogue, Rogues, Times, Weight, resident_bytes, write};

use good::{Good, Heard};
use tokio::task::JoinHandle;

/// Between two looks at the processes' memory.
const LOOK: Duration = Duration::from_millis(250);

/// Time that rogues have to come, before it is measured.
const COME: Duration = Duration::from_secs(3);

/// Until the rogues have told what they got.
const END: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
#[command(about = "Measures what good clients notice of rogues beside them")]
struct Args {
    /// Good clients
    #[arg(long, default_value_t = 1_000)]
    good: usize,
    /// Rogues beside them, as many of each kind
    #[arg(long, default_value_t = 1_000)]
    rogues: usize,
    /// Which kinds, such as PingFlood,Churn
    #[arg(long, value_delimiter = ',', default_values_t = Rogue::ALL)]
    kinds: Vec<Rogue>,
    /// Members of a good room
    #[arg(long, default_value_t = 10)]
    members: usize,
    /// Publishes of the good in a second, over all rooms
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds without rogues, and with them
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Runs, each on a cluster of its own
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Milliseconds until a rogue that was thrown out is back
    #[arg(long, default_value_t = 1_000)]
    again: u64,
    /// Priority of the rogues' process, which elsewhere has cores of its own: 0 = that of the servers
    #[arg(long, default_value_t = 10)]
    nice: u8,
    /// More settings of the router, as in its file
    #[arg(long, default_value = "")]
    config: String,
    /// The rogues of a run: on this router, until the input ends
    #[arg(long, hide = true)]
    on: Option<SocketAddr>,
    /// Busy loops, until the input ends
    #[arg(long, hide = true)]
    busy: bool,
}

/// As docs/limits.md has it for the open internet.
const LIMITS: &str = "connections_per_address = 200\nconnections_per_user = 20\naccept_rate = \"500/2000\"\n\
                      commands_per_connection = \"50/300\"\ncommands_per_user = \"50/300\"\n\
                      publishes_per_room = \"200/1000\"\n";

/// How a load is measured.
const CASES: [&str; 3] = ["alone", "beside busy loops", "with rogues"];

/// What a process used.
struct Use {
    id: String,
    pid: u32,
    /// Most resident bytes.
    memory: u64,
    cores: f64,
}

/// What one run gave.
struct Run {
    /// In each of the cases.
    heard: [Heard; 3],
    /// Of each process in each of the cases.
    uses: [Vec<Use>; 3],
    got: Got,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    if args.busy {
        busy().await;
        return ExitCode::SUCCESS;
    }
    if let Some(router) = args.on {
        rogues(router, &args).await;
        return ExitCode::SUCCESS;
    }
    println!(
        "{} good clients in rooms of {}, {} publishes a second; {} rogues, back after {} ms, at priority {}\n",
        args.good, args.members, args.rate, args.rogues, args.again, args.nice
    );
    let mut ratios = [Vec::new(), Vec::new()];
    let mut well = true;
    for n in 1..=args.runs {
        let run = measure(&args).await;
        println!("{}", report(n, &args, &run));
        let [alone, busy, rogues] = run.heard.each_ref().map(|heard| ms(&heard.times, 99.0));
        ratios[0].push(rogues / alone);
        ratios[1].push(rogues / busy);
        well &= run.heard.iter().all(Heard::is_whole);
    }
    for (mut ratios, case) in ratios.into_iter().zip(CASES) {
        ratios.sort_by(f64::total_cmp);
        println!("p99 with rogues / {case}, median of {} runs: {:.2}", ratios.len(), ratios[ratios.len() / 2]);
    }
    ExitCode::from(u8::from(!well))
}

/// The busy loops' part: as many as there are cores.
async fn busy() {
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        let stop = stop.clone();
        std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {});
    }
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = ended.await;
    stop.store(true, Ordering::Relaxed);
}

/// The rogues' part.
async fn rogues(router: SocketAddr, args: &Args) {
    let rogues = Rogues::start(router, args.rogues, &args.kinds, Duration::from_millis(args.again));
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = ended.await;
    for ((rogue, what), times) in rogues.stop().await {
        println!("{rogue:?}\t{what}\t{times}");
    }
    println!("end");
}

async fn measure(args: &Args) -> Run {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("router.toml");
    write(&file, &format!("{LIMITS}{}\n", args.config.replace(';', "\n")));
    let flag = &*Box::leak(format!("--config={}", file.display()).into_boxed_str());
    let mut cluster = Cluster::start(Options {
        weight: Weight::Heavy,
        routers: 1,
        slots: 1024,
        replication: 2,
        lease_ttl: "10s",
        fence_after: "60s",
        router_flags: vec![flag],
        ..Options::default()
    })
    .await;
    let router = cluster.http()[0];
    let routers = cluster.routers.iter().map(|(id, router)| (id, &router.process));
    let nodes = cluster.nodes.iter().map(|(id, node)| (id, &node.process));
    let pids: Vec<(String, u32)> = routers.chain(nodes).map(|(id, process)| (id.clone(), process.pid())).collect();
    let mut good = Good::gather(router, args.good, args.members).await;
    let span = Duration::from_secs(args.seconds);

    // Twice, as the first is also for warming up.
    good.talk(args.rate, span / 3).await;
    let watch = Watch::start(pids.clone());
    let alone = good.talk(args.rate, span).await;
    let resting = watch.stop().await;

    let mut child = start(&cluster, "busy", args.nice, vec!["--busy".to_owned()]);
    let input = child.take_stdin();
    let watch = Watch::start(pids.clone());
    let busy = good.talk(args.rate, span).await;
    let hindered = watch.stop().await;
    child.kill();
    drop(input);

    let rogues = ["--on".to_owned(), router.to_string(), "--rogues".into(), args.rogues.to_string()];
    let kinds: Vec<String> = args.kinds.iter().map(Rogue::to_string).collect();
    let rogues =
        rogues.into_iter().chain(["--again".into(), args.again.to_string(), "--kinds".into(), kinds.join(",")]);
    let mut child = start(&cluster, "rogues", args.nice, rogues.collect());
    let input = child.take_stdin();
    tokio::time::sleep(COME).await;
    let watch = Watch::start(pids);
    let beside = good.talk(args.rate, span).await;
    let harried = watch.stop().await;
    drop(input);
    let mut got = Got::new();
    loop {
        let line = child.line("what the rogues got", END).await;
        let mut fields = line.split('\t');
        let (Some(kind), Some(what), Some(times)) = (fields.next(), fields.next(), fields.next()) else { break };
        let rogue = kind.parse().expect("a kind of rogue");
        got.insert((rogue, what.to_owned()), times.parse().expect("a number"));
    }
    // Nothing was started again: these are the processes of the beginning.
    for process in cluster.routers.values_mut().map(|r| &mut r.process) {
        assert!(process.is_running(), "{}", process.tail());
    }
    for process in cluster.nodes.values_mut().map(|n| &mut n.process) {
        assert!(process.is_running(), "{}", process.tail());
    }
    Run { heard: [alone, busy, beside], uses: [resting, hindered, harried], got }
}

/// This program again, in a process of its own that has this priority.
fn start(cluster: &Cluster, name: &str, nice: u8, args: Vec<String>) -> Process {
    let exe = std::env::current_exe().expect("path of this program");
    let command = ["-n".to_owned(), nice.to_string(), exe.display().to_string()].into_iter().chain(args);
    let command: Vec<String> = command.collect();
    Process::start_with(name, Path::new("/usr/bin/nice"), &command, &cluster.log(name), Stdio::piped())
}

fn ms(times: &Times, percent: f64) -> f64 {
    times.percentile(percent).as_secs_f64() * 1e3
}

fn report(n: usize, args: &Args, run: &Run) -> String {
    let mut text = format!("run {n}\n\n| | {} |\n|---|---|---|---|\n", CASES.join(" | "));
    let mut row = |name: &str, cells: [String; 3]| {
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    };
    for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("longest", 100.0)] {
        let cells = run.heard.each_ref().map(|heard| format!("{:.2} ms", ms(&heard.times, percent)));
        row(&format!("publish to delivery, {name}"), cells);
    }
    let mut count = |name, f: fn(&Heard) -> usize| row(name, run.heard.each_ref().map(|heard| f(heard).to_string()));
    count("deliveries", |heard| heard.times.len());
    count("lost, doubled or out of order", |heard| heard.wrong);
    count("connections that ended", |heard| heard.ended);
    for (n, process) in run.uses[0].iter().enumerate() {
        let cells = run.uses.each_ref().map(|uses| format!("{} MiB", uses[n].memory >> 20));
        row(&format!("memory of {}, most", process.id), cells);
    }
    for (n, process) in run.uses[0].iter().enumerate() {
        let cells = run.uses.each_ref().map(|uses| format!("{:.2}", uses[n].cores));
        row(&format!("cores of {}", process.id), cells);
    }
    let seconds = args.seconds as f64 + COME.as_secs_f64();
    let _ = writeln!(text, "\n| rogue | got, in about {seconds} s |\n|---|---|");
    for &rogue in &args.kinds {
        let all = run.got.iter().filter(|((kind, _), _)| *kind == rogue);
        let all: Vec<String> = all.map(|((_, what), times)| format!("{what}: {times}")).collect();
        let _ = writeln!(text, "| {rogue} | {} |", all.join(", "));
    }
    text
}

/// Looks at processes while something is measured.
struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Use>>,
}

impl Watch {
    fn start(pids: Vec<(String, u32)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            let of = |(id, pid): (String, u32)| Use { id, pid, memory: 0, cores: -cpu(pid) };
            let mut uses: Vec<Use> = pids.into_iter().map(of).collect();
            while !stopped.load(Ordering::Relaxed) {
                uses.iter_mut().for_each(|used| used.memory = used.memory.max(resident_bytes(used.pid)));
                tokio::time::sleep(LOOK).await;
            }
            let took = begun.elapsed().as_secs_f64();
            uses.iter_mut().for_each(|used| used.cores = (used.cores + cpu(used.pid)) / took);
            uses
        });
        Self { stop, task }
    }

    async fn stop(self) -> Vec<Use> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the watch has not panicked")
    }
}

/// CPU seconds of a process.
fn cpu(pid: u32) -> f64 {
    use nix::sys::time::TimeValLike;
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid.cast_signed()));
    let time = clock.and_then(nix::time::clock_gettime).expect("a process that runs");
    time.num_nanoseconds() as f64 / 1e9
}
