//! Waiting until the cluster serves: every process has started, but slots may still be on their way.

use std::time::Duration;

use anyhow::bail;
use roomring_control::placement::Placement;
use roomring_proto::v1;
use roomring_proto::v1::slot_status::Role as SlotRole;
use tokio::time::Instant;

use super::plan::{Role, Spec};
use crate::cli::Target;
use crate::health;
use crate::probe;
use crate::snapshot::Snapshot;

/// How long forming takes at most, besides the time after which slots of an earlier run are made anew.
const FORM_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// After this long it says what it waits for.
const TALK_AFTER: Duration = Duration::from_secs(5);

/// Returns once every process named by `specs` has seen the placement, and every slot is served.
pub(super) async fn wait(target: &Target, specs: &[Spec]) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut talked = start;
    loop {
        let snapshot = Snapshot::read(target).await?;
        let Err(missing) = look(&snapshot, specs).await else { return Ok(()) };
        let fence = snapshot.placement.as_ref().map_or(Duration::ZERO, |p| p.settings.fence_after);
        if start.elapsed() > FORM_WITHIN + fence * 2 {
            bail!("the cluster does not come up: {missing}");
        }
        if talked.elapsed() > TALK_AFTER {
            talked = Instant::now();
            eprintln!("roomctl: waiting: {missing}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is still missing.
async fn look(snapshot: &Snapshot, specs: &[Spec]) -> Result<(), String> {
    let placement = snapshot.placement.as_ref().ok_or("no placement yet")?;
    let counts = health::slot_counts(snapshot, placement);
    if counts.offline + counts.moving > 0 {
        return Err(format!("{} slot(s) offline, {} moving", counts.offline, counts.moving));
    }
    let find = |role: Role| specs.iter().filter(move |s| s.role == role).map(|s| s.id.as_str());
    for id in find(Role::Node) {
        // With more nodes than slots some stay empty.
        let enough_slots = placement.slots.len() >= specs.len();
        let member = placement.members.iter().find(|(_, m)| m.node.as_str() == id && m.active);
        let (incarnation, _) = member.ok_or_else(|| format!("{id} is no member yet"))?;
        if enough_slots && placement.slots.iter().all(|s| s.primary.incarnation != *incarnation) {
            return Err(format!("{id} has no slots yet"));
        }
    }
    let nodes: Vec<_> = snapshot.nodes.iter().collect();
    let addrs: Vec<&str> = nodes.iter().map(|(_, n)| n.grpc_addr.as_str()).collect();
    let mut served = 0;
    for (answer, (id, _)) in probe::nodes(&snapshot.wire, &addrs, true).await.into_iter().zip(&nodes) {
        let answer = answer.map_err(|e| format!("{id}: {e}"))?;
        seen(placement, answer.placement).ok_or_else(|| format!("{id} has not seen the placement yet"))?;
        served += answer.slots.iter().filter(|s| s.role() == SlotRole::Primary).count();
    }
    if served < placement.slots.len() {
        return Err(format!("{served} of {} slots are served", placement.slots.len()));
    }
    let routers: Vec<_> =
        snapshot.routers.iter().filter(|(id, _)| find(Role::Router).any(|r| r == id.as_str())).collect();
    if routers.len() < find(Role::Router).count() {
        return Err("a router is not registered yet".to_owned());
    }
    let addrs: Vec<&str> = routers.iter().map(|(_, r)| r.grpc_addr.as_str()).collect();
    for (answer, (id, _)) in probe::routers(&snapshot.wire, &addrs).await.into_iter().zip(&routers) {
        let answer = answer.map_err(|e| format!("{id}: {e}"))?;
        seen(placement, answer.placement).ok_or_else(|| format!("{id} has not seen the placement yet"))?;
        if answer.links.len() < placement.members.values().filter(|m| m.active).count() {
            return Err(format!("{id} has no link to every node yet"));
        }
    }
    Ok(())
}

/// Whether a process has the placement, or a newer one.
fn seen(placement: &Placement, reference: Option<v1::PlacementRef>) -> Option<()> {
    let r = reference?;
    (r.uid == placement.uid.0 && r.version >= placement.version.0).then_some(())
}
