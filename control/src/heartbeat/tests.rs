//! Real threads and sockets; the cluster is a view made by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use roomring_proto::SlotId;

use super::*;
use crate::load::Load;
use crate::placement::fixtures::placement;
use crate::placement::{Cause, Member};
use crate::view::RouterEntry;
use crate::wire::Wire;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Process {
    me: Incarnation,
    heartbeats: Heartbeats,
    /// Time for which the thread is stuck each time it is asked how the workers are, ms; 0 for none.
    stuck_ms: Arc<AtomicU64>,
}

/// `nodes` nodes from incarnation 1, and after them `routers` routers.
fn cluster(nodes: u64, routers: u64) -> (Vec<Process>, watch::Sender<ClusterView>) {
    let listen = |_| TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners: Vec<_> = (0..nodes + routers).map(listen).collect();
    let addr = |i: usize| listeners[i].local_addr().unwrap().to_string();
    let mut placement = placement(4, 1, &(1..=nodes).collect::<Vec<_>>());
    for (index, member) in placement.members.values_mut().enumerate() {
        *member = Member { watch_addr: addr(index), ..member.clone() };
    }
    let router = |n: u64| RouterEntry {
        incarnation: Incarnation(n),
        grpc_addr: "127.0.0.1:1".to_owned(),
        http_addr: String::new(),
        release: String::new(),
        watch_addr: addr(usize::try_from(n).unwrap() - 1),
    };
    let routers = (nodes + 1..=nodes + routers).map(|n| (NodeId::new(&format!("r{n}")).unwrap(), router(n))).collect();
    let view = ClusterView { placement: Some(Arc::new(placement)), routers: Arc::new(routers), ..Default::default() };
    let views = watch::Sender::new(view);
    let start = |(index, listener): (usize, TcpListener)| {
        let me = Incarnation(index as u64 + 1);
        let id = NodeId::new(&format!("p{index}")).unwrap();
        let config = HeartbeatConfig {
            cluster: NodeId::new("test").unwrap(),
            id,
            me,
            wire: Wire::default(),
            timing: Timing::default(),
        };
        let stuck_ms = Arc::new(AtomicU64::new(0));
        let stuck = Arc::clone(&stuck_ms);
        let worker_age = move || {
            std::thread::sleep(Duration::from_millis(stuck.load(Ordering::Relaxed)));
            Duration::ZERO
        };
        // As many publishes a second as its number.
        let load = Load { publishes: me.0 as f64, ..Load::default() };
        let load: LoadNow = Arc::new(move || NodeLoad::of([(SlotId(7), load)]));
        let load = ((index as u64) < nodes).then_some(load);
        let heartbeats = Heartbeats::start(listener, config, views.subscribe(), worker_age, load).unwrap();
        Process { me, heartbeats, stuck_ms }
    };
    (listeners.into_iter().enumerate().map(start).collect(), views)
}

async fn until(process: &Process, what: &str, holds: impl Fn(&Evidence) -> bool) -> Evidence {
    let mut evidence = process.heartbeats.evidence();
    let waited = tokio::time::timeout(PATIENCE, evidence.wait_for(|e| holds(e))).await;
    waited
        .unwrap_or_else(|_| panic!("{}: no {what}: {:?}", process.me, process.heartbeats.evidence().borrow()))
        .unwrap()
        .clone()
}

async fn until_all_hear(processes: &[Process], nodes: usize) {
    for process in processes {
        let me = usize::from(process.me.0 <= nodes as u64);
        until(process, "heartbeats", |e| e.answering.len() == nodes - me).await;
    }
}

#[tokio::test]
async fn a_process_that_ends_is_known_dead_at_once_without_another_opinion() {
    let (mut processes, _views) = cluster(2, 0);
    until_all_hear(&processes, 2).await;
    let gone = processes.pop().unwrap();
    let at = Instant::now();
    let who = gone.me;
    // Its listener goes with it.
    gone.heartbeats.stop().await;
    let evidence = until(&processes[0], "death", |e| e.dead.contains_key(&who)).await;
    println!("known after {:?}", at.elapsed());
    assert_eq!(evidence.dead[&who].cause, Cause::Refused);
    assert!(evidence.dead[&who].heard.is_some() && evidence.answering.is_empty());
}

#[tokio::test]
async fn a_process_that_hangs_is_dead_by_a_routers_opinion_and_alive_again_when_it_speaks() {
    let (processes, _views) = cluster(2, 1);
    until_all_hear(&processes, 2).await;
    let who = processes[1].me;
    processes[1].stuck_ms.store(2_500, Ordering::Relaxed);
    let at = Instant::now();
    let evidence = until(&processes[0], "death", |e| e.dead.contains_key(&who)).await;
    println!("known after {:?}", at.elapsed());
    assert_eq!(evidence.dead[&who].cause, Cause::Silent);
    processes[1].stuck_ms.store(0, Ordering::Relaxed);
    until(&processes[0], "end of the suspicion", |e| e.dead.is_empty() && e.answering.contains(&who)).await;
}

#[tokio::test]
async fn without_a_second_opinion_silence_is_only_suspicion() {
    let (processes, _views) = cluster(2, 0);
    until_all_hear(&processes, 2).await;
    let who = processes[1].me;
    processes[1].stuck_ms.store(2_500, Ordering::Relaxed);
    until(&processes[0], "suspicion", |e| e.suspects.contains(&who)).await;
    processes[1].stuck_ms.store(0, Ordering::Relaxed);
    let mut seen = processes[0].heartbeats.evidence();
    loop {
        let evidence = seen.borrow_and_update().clone();
        assert!(evidence.dead.is_empty(), "{evidence:?}");
        if evidence.answering.contains(&who) {
            break;
        }
        tokio::time::timeout(PATIENCE, seen.changed()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn those_of_another_cluster_are_not_heard() {
    let (processes, views) = cluster(2, 0);
    until_all_hear(&processes, 2).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let other = HeartbeatConfig {
        cluster: NodeId::new("other").unwrap(),
        id: NodeId::new("x").unwrap(),
        me: Incarnation(3),
        wire: Wire::default(),
        timing: Timing::default(),
    };
    let _other = Heartbeats::start(listener, other, views.subscribe(), || Duration::ZERO, None).unwrap();
    views.send_modify(|view| {
        let placement = Arc::make_mut(view.placement.as_mut().unwrap());
        let member = Member { watch_addr: addr, ..placement.members[&Incarnation(2)].clone() };
        placement.members.insert(Incarnation(3), member);
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(processes[0].heartbeats.evidence().borrow().answering, BTreeSet::from([Incarnation(2)]));
}

#[test]
fn a_watch_service_is_reached_on_the_host_of_the_rest() {
    let bound = "0.0.0.0:7401".parse().unwrap();
    assert_eq!(watch_address("node-1.rooms:7400", bound), "node-1.rooms:7401");
    assert_eq!(watch_address("[::1]:7400", bound), "[::1]:7401");
}

#[tokio::test]
async fn nodes_learn_each_others_load_and_routers_do_not() {
    let (processes, views) = cluster(3, 1);
    let mut loads = processes[0].heartbeats.loads();
    let all = loads.wait_for(|loads| loads.0.len() == 3);
    let known = tokio::time::timeout(Duration::from_secs(20), all).await.expect("three loads").unwrap().clone();
    for (incarnation, (load, _)) in &known.0 {
        assert_eq!(load.total().publishes, incarnation.0 as f64);
    }
    assert!(processes[3].heartbeats.loads().borrow().0.is_empty());
    views.send_modify(|view| _ = Arc::make_mut(view.placement.as_mut().unwrap()).members.remove(&Incarnation(2)));
    let gone = loads.wait_for(|loads| !loads.0.contains_key(&Incarnation(2)));
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("who left is forgotten").unwrap();
}
