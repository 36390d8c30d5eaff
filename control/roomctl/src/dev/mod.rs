//! `roomctl dev`: a whole cluster on this machine, as separate processes that end when this one does.

mod child;
mod formed;
mod launch;
mod plan;
mod report;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::future::try_join_all;
use roomring_control::daemon::{shutdown, telemetry};
use roomring_control::embedded_etcd::EmbeddedEtcd;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::{DevArgs, Outcome, Target, Usage};
use crate::snapshot::Snapshot;
use child::{Child, Ended, Info};
use plan::Plan;

pub(crate) use launch::launch;

/// What this process itself logs; the others have files.
const OWN_LOG: &str = "warn,h2=error";

/// Where the embedded etcd listens if nobody else does: the verbs' default, so that they need no `--etcd`.
const USUAL_ETCD: &str = "127.0.0.1:2379";

/// A process has this long to print its ready line: it may have to wait for the registration of one that died to end.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run(args: DevArgs) -> anyhow::Result<Outcome> {
    telemetry::start(OWN_LOG, telemetry::LogFormat::Text)?;
    let stop = shutdown::on_signal().context("catching signals")?;
    plan::check_ports(args.http, args.routers)?;
    let programs = plan::Programs::find()?;
    let dir = tempfile::Builder::new().prefix("roomring-dev-").tempdir().context("making a temporary directory")?;

    // Outlives the children, whose last act is to take their keys away.
    let etcd_stop = CancellationToken::new();
    let etcd = if args.etcd.is_empty() { Some(serve_etcd(&etcd_stop).await?) } else { None };
    let urls = etcd.as_ref().map_or_else(|| args.etcd.clone(), |etcd| vec![etcd.url()]);
    let target = Target { etcd: urls, access: args.access.clone(), cluster: args.cluster.clone() };
    if etcd.is_none() {
        // Rather now than from five logs.
        Snapshot::read(&target).await?;
    }

    let plan = Plan::new(&args, &target, &programs, dir.path());
    let ended = operate(&args, &plan, &target, etcd.is_some(), dir.path(), &stop).await;
    etcd_stop.cancel();
    if let Some(etcd) = etcd {
        etcd.stopped().await;
    }
    let worth_reading = match &ended {
        Ok(deaths) => *deaths != Deaths::None,
        Err(e) => !e.is::<Usage>(),
    };
    if worth_reading {
        eprintln!("roomctl: the logs are kept in {}", dir.keep().display());
    }
    match ended? {
        Deaths::None | Deaths::Some => Ok(Outcome::Fine),
        Deaths::All => bail!("nothing is left running"),
    }
}

async fn serve_etcd(stop: &CancellationToken) -> anyhow::Result<EmbeddedEtcd> {
    let usual = USUAL_ETCD.parse().context("the usual address")?;
    if let Ok(etcd) = EmbeddedEtcd::start(usual, stop.clone()).await {
        return Ok(etcd);
    }
    let any = "127.0.0.1:0".parse().context("any address")?;
    EmbeddedEtcd::start(any, stop.clone()).await.context("serving etcd")
}

/// How many processes ended without being told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deaths {
    None,
    Some,
    All,
}

/// Starts everything, tells once it is ready, and runs until told to stop or nothing is left.
async fn operate(
    args: &DevArgs,
    plan: &Plan,
    target: &Target,
    embedded: bool,
    dir: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Deaths> {
    eprintln!("roomctl: starting {} node(s) and {} router(s); logs in {}", args.nodes, args.routers, dir.display());
    let mut children = plan.specs.iter().map(Child::spawn).collect::<anyhow::Result<Vec<_>>>()?;
    let spoken = stop.run_until_cancelled(try_join_all(children.iter_mut().map(|c| c.ready(READY_WITHIN)))).await;
    let infos: Vec<Info> = children.iter().map(|child| child.info.clone()).collect();

    let end = stop.child_token();
    let mut running: JoinSet<Ended> = children.into_iter().map(|child| child.run(end.clone())).collect();
    let up = match spoken {
        Some(Ok(_)) => tokio::select! {
            () = stop.cancelled() => Ok(()),
            formed = formed::wait(target, &plan.specs) => {
                formed.and_then(|()| report::ready(args, target, embedded, dir, &infos))
            }
            Some(ended) = running.join_next() => Err(match ended {
                Ok(ended) => anyhow!("{ended}"),
                Err(e) => e.into(),
            }),
        },
        Some(Err(e)) => Err(e),
        None => Ok(()),
    };
    if up.is_err() {
        end.cancel();
    }
    let deaths = watch(&mut running, &end).await?;
    up.map(|()| deaths)
}

/// Reports whatever ends by itself, until all have ended.
async fn watch(running: &mut JoinSet<Ended>, end: &CancellationToken) -> anyhow::Result<Deaths> {
    let mut deaths = Deaths::None;
    while let Some(ended) = running.join_next().await {
        let ended = ended.context("watching a process")?;
        if !end.is_cancelled() {
            eprintln!("roomctl: {ended}");
            deaths = if running.is_empty() { Deaths::All } else { Deaths::Some };
        }
    }
    Ok(deaths)
}
