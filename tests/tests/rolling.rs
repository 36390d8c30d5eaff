//! An upgrade: every node and every router is restarted, one after the other, under load. Nothing is lost, only sockets of
//! routers that restart end, and nobody is seen to go away and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomring_tests::pods::{Pods, object};
use roomring_tests::{Cluster, Event, Options, Roamer, Roamers, Weight, eventually, evidence};

const LIMIT: Duration = Duration::from_secs(60);

/// "The server goes away: reconnect."
const SHUTDOWN: u16 = 3001;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_and_router_restarts_and_nothing_is_lost() {
    let options =
        Options { weight: Weight::Heavy, replication: 2, lease_ttl: "20s", fence_after: "60s", ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let mut roamers = Roamers::gather("rolling", &cluster.http(), 48, 24, 3).await;
    roamers.talk(Duration::from_millis(60));

    for id in ["node-1", "node-2", "node-3"] {
        let before = cluster.registration(id).await.expect("a registration").incarnation;
        cluster.stop_node(id).await;
        cluster.start_node(id).await;
        cluster.settled().await;
        let after = cluster.registration(id).await.expect("a registration").incarnation;
        assert!(after > before);
        evidence(format!("{id} ended with code 0 and came back: i{before}, i{after}"));
    }
    assert!(roamers.users().iter().all(|u| u.connections().len() == 1), "restarts of nodes end no socket");
    let mut ended = 0;
    for id in ["router-1", "router-2"] {
        let address = cluster.routers[id].http;
        let here = |u: &&Arc<Roamer>| u.connections().last().is_some_and(|c| c.router() == address);
        let count = roamers.users().iter().filter(here).count();
        assert!(count > 0, "{id} has clients");
        cluster.stop_router(id).await;
        ended += count;
        cluster.start_router_at(id, &address.to_string()).await;
        roamers.settled().await;
        evidence(format!("{id} sent {count} clients away and ended with code 0; all are back in their rooms"));
    }
    let ends = roamers.users().iter().flat_map(|u| u.connections()).filter_map(|c| c.now_closed());
    let codes: Vec<Option<u16>> = ends.map(|closed| closed.code).collect();
    assert_eq!(
        codes,
        vec![Some(SHUTDOWN); ended],
        "sockets end at restarts of routers alone, with a code that reconnects"
    );

    roamers.nothing_lost().await;
    presence_converges(&roamers).await;
    nobody_flapped(&roamers);
}

/// As Kubernetes does it, with what the manifests say: nodes from the last to the first, each once the one before is ready; for
/// each router a new one first, and the balancer in front sends clients to those that are ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_by_the_manifests_loses_nothing() {
    let mut pods = Pods::of("dev").await;
    let (nodes, routers) = (("StatefulSet", "roomring-node"), ("Deployment", "roomring-router"));
    let count = object(pods.objects(), nodes.0, nodes.1)["spec"]["replicas"].as_u64().expect("replicas");
    let names: Vec<String> = (0..count).map(|n| format!("roomring-node-{n}")).collect();
    names.iter().for_each(|name| pods.spawn(nodes.0, nodes.1, name));
    for name in &names {
        pods.ready(name).await;
    }
    let least = object(pods.objects(), "HorizontalPodAutoscaler", routers.1)["spec"]["minReplicas"].as_u64();
    let old: Vec<String> = (0..least.expect("replicas")).map(|n| format!("roomring-router-old-{n}")).collect();
    let mut ready = Vec::new();
    for name in &old {
        ready.push(pods.start(routers.0, routers.1, name, "http").await);
    }
    let mut roamers = Roamers::gather("pods", &ready, 32, 16, 3).await;
    roamers.talk(Duration::from_millis(60));

    for name in names.iter().rev() {
        pods.terminate(name).await;
        // The same name at another address.
        pods.start(nodes.0, nodes.1, name, "grpc").await;
        pods.live().await;
    }
    assert!(roamers.users().iter().all(|u| u.connections().len() == 1), "restarts of nodes end no socket");
    for (n, name) in old.iter().enumerate() {
        ready.push(pods.start(routers.0, routers.1, &format!("roomring-router-new-{n}"), "http").await);
        // A pod that ends gets nobody new, long before it is told.
        let address = pods.address(name, "http");
        ready.retain(|a| *a != address);
        roamers.route_to(&ready);
        pods.terminate(name).await;
        roamers.settled().await;
        pods.live().await;
    }
    let ends = roamers.users().iter().flat_map(|u| u.connections()).filter_map(|c| c.now_closed());
    let codes: BTreeSet<Option<u16>> = ends.map(|closed| closed.code).collect();
    assert_eq!(codes, BTreeSet::from([Some(SHUTDOWN)]), "sockets end with a code that reconnects");
    roamers.nothing_lost().await;
    presence_converges(&roamers).await;
    nobody_flapped(&roamers);
}

/// Those who were on a router that went are gone in the end, and all others are there.
async fn presence_converges(roamers: &Roamers) {
    for room in roamers.rooms() {
        let members = roamers.users().iter().enumerate().filter(|(n, _)| roamers.rooms_of(*n).contains(&room));
        let mut here = BTreeSet::new();
        let mut any = None;
        for (_, user) in members {
            let client = user.settled().await;
            here.insert(client.id());
            any = Some(client);
        }
        let any = any.expect("somebody is in each room");
        eventually(&format!("those who are in {room} and nobody else"), LIMIT, async || {
            let presence = any.presence(&room).await.ok()?;
            let listed: BTreeSet<String> = presence.as_object()?.keys().cloned().collect();
            (listed == here).then_some(())
        })
        .await;
    }
}

/// A user's next connection was seen to come before the one before it was seen to go.
fn nobody_flapped(roamers: &Roamers) {
    let mut next: BTreeMap<String, String> = BTreeMap::new();
    for user in roamers.users() {
        let ids: Vec<String> = user.connections().iter().map(|c| c.id()).collect();
        next.extend(ids.windows(2).map(|w| (w[0].clone(), w[1].clone())));
    }
    let (mut seen, mut flaps) = (0, Vec::new());
    for (n, user) in roamers.users().iter().enumerate() {
        for (client, room) in
            user.connections().iter().flat_map(|c| roamers.rooms_of(n).into_iter().map(move |room| (c, room)))
        {
            let events = client.log(&room).events;
            let joined = |id: &str| events.iter().position(|e| matches!(e, Event::Joined(m) if m.client == id));
            for (at, event) in events.iter().enumerate() {
                let Event::Left(gone) = event else { continue };
                let Some(back) = next.get(&gone.client) else { continue };
                seen += 1;
                if joined(back).is_some_and(|back| back > at) {
                    flaps.push(format!("{} saw {gone:?} go and come back as {back} in {room}", client.name()));
                }
            }
        }
    }
    evidence(format!("{seen} times somebody saw a former connection of another go, always after the next had come"));
    assert!(seen > 0 && flaps.is_empty(), "{seen} seen, {} flaps, such as {:?}", flaps.len(), flaps.first());
}
