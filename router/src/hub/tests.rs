//! The hub with real links, to scripted nodes in this process.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use roomring_control::placement::{FORMAT, Member, Placement, RingParams, Settings, SlotRecord};
use roomring_control::registry::RegistrationState;
use roomring_control::view::ClusterView;
use roomring_control::wire::Wire;
use roomring_proto::{Generation, Incarnation, LINK_VERSION, NodeId, Seat, Term, Version, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};
use v1::link_server::{Link, LinkServer};
use v1::node_message::Kind as FromNode;
use v1::router_message::Kind as ToNode;

use super::api::{Client, Command, ToClient};
use super::testing::{Model, client, room};
use super::{Hub, HubConfig};
use crate::backend::Backend;

const SOON: Duration = Duration::from_secs(5);

/// A node that serves every slot from one model, or refuses to.
#[derive(Clone)]
struct Node {
    incarnation: u64,
    model: Arc<Mutex<Model>>,
    version: v1::Version,
    /// Says hello, and then nothing of its own accord.
    silent: bool,
    received: Arc<Mutex<Vec<ToNode>>>,
    /// Placements that it sends right after its hello.
    sends: Option<Bytes>,
    /// Ends its links.
    dead: CancellationToken,
}

type Batches = Pin<Box<dyn Stream<Item = Result<v1::NodeBatch, Status>> + Send>>;

#[tonic::async_trait]
impl Link for Node {
    type OpenStream = Batches;

    async fn open(&self, request: Request<Streaming<v1::RouterBatch>>) -> Result<Response<Batches>, Status> {
        let mut inbound = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let node = self.clone();
        tokio::spawn(async move {
            let hello = v1::NodeHello {
                version: Some(node.version),
                node_id: "n".to_owned(),
                incarnation: node.incarnation,
                session: 1,
                placement: None,
            };
            let mut out = vec![FromNode::Hello(hello)];
            let _ = sender.send(Ok(batch(std::mem::take(&mut out)))).await;
            out.extend(node.sends.clone().map(FromNode::Placement));
            while let Some(Ok(Some(got))) = node.dead.run_until_cancelled(inbound.message()).await {
                for message in got.messages.into_iter().filter_map(|m| m.kind) {
                    node.received.lock().unwrap().push(message.clone());
                    if matches!(message, ToNode::Heartbeat(_)) && !node.silent {
                        out.push(FromNode::Heartbeat(v1::NodeHeartbeat::default()));
                    }
                    node.model.lock().unwrap().handle(message, &mut out);
                }
                if !out.is_empty() && sender.send(Ok(batch(std::mem::take(&mut out)))).await.is_err() {
                    break;
                }
            }
            node.model.lock().unwrap().detach();
        });
        let batches = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let batch = receiver.recv().await?;
            Some((batch, receiver))
        });
        Ok(Response::new(Box::pin(batches)))
    }
}

fn batch(messages: Vec<FromNode>) -> v1::NodeBatch {
    v1::NodeBatch { messages: messages.into_iter().map(|m| v1::NodeMessage { kind: Some(m) }).collect() }
}

impl Node {
    fn new(incarnation: u64, model: Arc<Mutex<Model>>) -> Self {
        Self {
            incarnation,
            model,
            version: LINK_VERSION,
            silent: false,
            received: Arc::default(),
            sends: None,
            dead: CancellationToken::new(),
        }
    }

    /// Serves on a free port until the guard is dropped.
    async fn serve(&self) -> (SocketAddr, DropGuard) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = self.dead.clone();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder()
            .add_service(LinkServer::new(self.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(stop.clone().run_until_cancelled_owned(server));
        (addr, stop.drop_guard())
    }

    fn got(&self, what: impl Fn(&ToNode) -> bool) -> usize {
        self.received.lock().unwrap().iter().filter(|m| what(m)).count()
    }
}

/// One slot, so that the model's is every room's. The model's is 5 in name only: the number is echoed.
fn placement(version: u64, term: u64, primary: u64, nodes: &[(u64, SocketAddr)]) -> Placement {
    let seat = |i| Seat { incarnation: Incarnation(i), since: Version(1) };
    let member = |addr: &SocketAddr| Member {
        node: NodeId::new(&format!("node-{}", addr.port())).unwrap(),
        home: String::new(),
        grpc_addr: addr.to_string(),
        zone: String::new(),
        weight: 100,
        active: true,
        max_format: FORMAT,
        watch_addr: String::new(),
    };
    let record = SlotRecord {
        term: Term(term),
        primary: seat(primary),
        in_sync: vec![seat(primary)],
        learners: Vec::new(),
        generation: Generation(1),
    };
    Placement {
        uid: roomring_proto::Uid(9),
        format: FORMAT,
        version: Version(version),
        settings: Settings { slots: 6, replication: 1, ..Settings::default() },
        ring: RingParams { vnodes: 1, bound_percent: 125 },
        members: nodes.iter().map(|(i, addr)| (Incarnation(*i), member(addr))).collect(),
        slots: vec![record; 6],
        recent: Default::default(),
        apart: Default::default(),
    }
}

struct Fixture {
    hub: Hub,
    view: watch::Sender<ClusterView>,
    offered: Arc<Mutex<Vec<Placement>>>,
    _stop: DropGuard,
}

impl Fixture {
    fn new() -> Self {
        let view = watch::Sender::new(ClusterView::default());
        let offered: Arc<Mutex<Vec<Placement>>> = Arc::default();
        let stop = CancellationToken::new();
        let config = HubConfig {
            cluster: NodeId::new("test").unwrap(),
            router_id: NodeId::new("router-1").unwrap(),
            wire: Wire::default(),
            registration: watch::channel(RegistrationState { incarnation: Incarnation(77), superseded: None }).1,
            publish_deadline: Duration::from_millis(600),
            namespaces: Arc::default(),
            webhook: None,
            queue_bytes: 1 << 20,
            workers: std::num::NonZeroUsize::new(2),
        };
        let offer = {
            let offered = offered.clone();
            move |placement| offered.lock().unwrap().push(placement)
        };
        let hub = Hub::start_with(config, view.subscribe(), offer, &stop);
        Self { hub, view, offered, _stop: stop.drop_guard() }
    }

    fn place(&self, placement: Placement) {
        self.view.send_modify(|view| view.placement = Some(Arc::new(placement)));
    }

    async fn subscribe(&self, client: &Arc<Client>) {
        let command = Command::Subscribe {
            request: 1,
            room: lobby(),
            client: client.clone(),
            join_leave: false,
            recover: None,
            reject_unrecovered: false,
        };
        self.hub.send(command).known().await.unwrap();
    }

    async fn publish(&self, client: &Arc<Client>, request: u32, data: &str) {
        let (client, data) = (client.clone(), Bytes::copy_from_slice(data.as_bytes()));
        let command = Command::Publish { request, room: lobby(), client, data, id: String::new() };
        self.hub.send(command).known().await.unwrap();
    }
}

/// A room in slot 5 of 6, which is the model's.
fn lobby() -> roomring_proto::RoomId {
    (0..).map(|i| room(&format!("lobby-{i}"))).find(|r| r.slot(6).0 == super::testing::SLOT).unwrap()
}

async fn next(client: &Client) -> ToClient {
    let mut out = Vec::new();
    timeout(SOON, client.queue.recv_many(&mut out, 1)).await.expect("an answer in time").unwrap();
    out.remove(0)
}

/// Everything up to the answer to publish `request`, and the offsets pushed meanwhile.
async fn until_published(client: &Client, request: u32, offsets: &mut Vec<u64>) -> Result<u64, u32> {
    loop {
        match next(client).await {
            ToClient::Push(frame) => {
                let push: serde_json::Value = serde_json::from_slice(&frame.payload()).unwrap();
                offsets.extend(push["push"]["pub"]["offset"].as_u64());
            }
            ToClient::Published { request: r, result } if r == request => {
                return result.map(|p| p.position.seq.0).map_err(|e| e.code);
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(SOON, waiting).await.is_ok(), "{what}");
}

#[tokio::test]
async fn a_change_of_primary_is_invisible_to_clients() {
    let model = Arc::new(Mutex::new(Model::new()));
    let (first, second) = (Node::new(1, model.clone()), Node::new(2, model.clone()));
    let ((addr1, stop1), (addr2, _stop2)) = (first.serve().await, second.serve().await);
    let nodes = [(1, addr1), (2, addr2)];
    let f = Fixture::new();
    f.place(placement(1, 1, 1, &nodes));
    let ann = client("ann");
    f.subscribe(&ann).await;
    assert!(matches!(next(&ann).await, ToClient::Subscribed { result: Ok(_), .. }));
    let mut offsets = Vec::new();
    f.publish(&ann, 2, "1").await;
    assert_eq!(until_published(&ann, 2, &mut offsets).await, Ok(1));
    eventually("links to both", || f.hub.status().links.len() == 2).await;

    drop(stop1);
    eventually("the link to the dead node ends", || f.hub.status().links.len() == 1).await;
    f.publish(&ann, 3, "2").await;
    model.lock().unwrap().next_term();
    f.place(placement(2, 2, 2, &nodes));
    assert_eq!(until_published(&ann, 3, &mut offsets).await, Ok(2));
    f.publish(&ann, 4, "3").await;
    assert_eq!(until_published(&ann, 4, &mut offsets).await, Ok(3));
    eventually("all pushes", || {
        let mut out = Vec::new();
        ann.queue.try_recv_many(&mut out, 9);
        offsets.extend(out.iter().map(|_| 3));
        offsets.len() == 3
    })
    .await;
    assert_eq!(offsets, [1, 2, 3]);

    let status = f.hub.status();
    assert_eq!((status.rooms, status.members, status.publishes_total, status.deliveries_total), (1, 1, 3, 3));
    f.hub.leave(ann, vec![lobby()]).await;
    eventually("the membership ends", || f.hub.status().members == 0).await;
    eventually("the room is detached", || f.hub.status().rooms == 0).await;
    eventually("the node hears of it", || second.got(|m| matches!(m, ToNode::Detach(_))) == 1).await;
    f.hub.stop().await;
}

#[tokio::test]
async fn without_a_primary_a_publish_fails_in_time_as_never_taken() {
    let f = Fixture::new();
    let ann = client("ann");
    let command = Command::Presence { request: 1, room: lobby(), client: ann.clone(), stats_only: true };
    assert!(f.hub.send(command).known().await.is_err(), "no placement yet");
    assert_eq!(f.hub.whereabouts(&lobby()), None);
    // Nobody listens there.
    f.place(placement(1, 1, 1, &[(1, "127.0.0.1:1".parse().unwrap())]));
    f.publish(&ann, 2, "1").await;
    assert_eq!(until_published(&ann, 2, &mut Vec::new()).await, Err(100));
    assert_eq!(f.hub.whereabouts(&lobby()).unwrap().node.as_str(), "node-1");
}

#[tokio::test]
async fn another_major_version_is_not_spoken_to() {
    let model = Arc::new(Mutex::new(Model::new()));
    let node = Node { version: v1::Version { major: 2, minor: 0 }, ..Node::new(1, model) };
    let (addr, _stop) = node.serve().await;
    let f = Fixture::new();
    f.place(placement(1, 1, 1, &[(1, addr)]));
    eventually("a hello", || node.got(|m| matches!(m, ToNode::Hello(_))) == 1).await;
    let ann = client("ann");
    f.publish(&ann, 1, "1").await;
    assert_eq!(until_published(&ann, 1, &mut Vec::new()).await, Err(100));
    assert!(f.hub.status().links.is_empty());
    assert_eq!(node.got(|_| true), 1, "one hello, and no other for a while");
}

#[tokio::test]
async fn another_process_at_the_address_is_not_spoken_to() {
    let node = Node::new(3, Arc::new(Mutex::new(Model::new())));
    let (addr, _stop) = node.serve().await;
    let f = Fixture::new();
    f.place(placement(1, 1, 1, &[(1, addr)]));
    eventually("a few tries", || node.got(|m| matches!(m, ToNode::Hello(_))) > 2).await;
    assert!(f.hub.status().links.is_empty());
}

#[tokio::test]
async fn a_silent_link_is_given_up_and_opened_again() {
    let node = Node { silent: true, ..Node::new(1, Arc::new(Mutex::new(Model::new()))) };
    let (addr, _stop) = node.serve().await;
    let f = Fixture::new();
    f.place(placement(1, 1, 1, &[(1, addr)]));
    let sessions = || {
        let received = node.received.lock().unwrap();
        let hello = |m: &ToNode| if let ToNode::Hello(h) = m { Some(h.session) } else { None };
        received.iter().filter_map(hello).collect::<Vec<_>>()
    };
    eventually("a second session", || sessions() == [1, 2]).await;
}

#[tokio::test]
async fn whoever_is_ahead_sends_the_placement() {
    let mut node = Node::new(1, Arc::new(Mutex::new(Model::new())));
    let addr = "127.0.0.1:1".parse().unwrap();
    node.sends = Some(placement(8, 1, 1, &[(1, addr)]).encode());
    let (addr, _stop) = node.serve().await;
    let f = Fixture::new();
    f.place(placement(7, 1, 1, &[(1, addr)]));
    // The node's hello names none.
    let sevens = |m: &ToNode| matches!(m, ToNode::Placement(p) if Placement::decode(p).unwrap().version == Version(7));
    eventually("ours is sent", || node.got(sevens) > 0).await;
    eventually("theirs is taken", || f.offered.lock().unwrap().first().is_some_and(|p| p.version == Version(8))).await;
    assert!(node.got(sevens) <= node.got(|m| matches!(m, ToNode::Heartbeat(_))) + 1, "at most once per heartbeat");
}
