//! The other processes of the cluster, asked on behalf of the business server.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use roomring_control::denials::Denial;
use roomring_control::intents::Intents;
use roomring_control::registry::{EtcdError, IntentsError, Registry};
use roomring_control::view::ClusterView;
use roomring_control::wire::Wire;
use roomring_proto::close::CloseCode;
use roomring_proto::v1::admin_client::AdminClient;
use roomring_proto::v1::edge_client::EdgeClient;
use roomring_proto::v1::edge_server::Edge;
use roomring_proto::{NodeId, RoomId, limits, v1};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::http::{Delivered, Emulated};
use crate::hub::api::Order;
use crate::roster::{Roster, Whom};

/// Time for one process to answer. The business server waits for the slowest.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The other processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    id: NodeId,
    registry: Registry,
    roster: Arc<Roster>,
    wire: Wire,
}

/// What is asked of every router.
#[derive(Debug, Clone)]
pub(crate) enum Errand {
    /// Ends connections.
    Disconnect(v1::DisconnectRequest),
    /// Makes connections members of a room.
    Subscribe(v1::SubscribeRequest),
    /// Ends memberships.
    Unsubscribe(v1::UnsubscribeRequest),
    /// Takes in a denial.
    Deny(v1::DenyRequest),
}

/// What came of asking several processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked<T> {
    /// Who answered, and what.
    pub(crate) answers: BTreeMap<NodeId, T>,
    /// Who did not.
    pub(crate) unreached: Vec<NodeId>,
}

impl Cluster {
    pub(crate) fn new(id: NodeId, registry: Registry, roster: Arc<Roster>, wire: Wire) -> Self {
        Self { id, registry, roster, wire }
    }

    pub(crate) fn view(&self) -> ClusterView {
        self.registry.view().borrow().clone()
    }

    /// Changes what operators want, in the cluster as it is seen here.
    ///
    /// # Errors
    /// If etcd does not answer, or holds something unreadable.
    pub(crate) async fn change_intents<T, E>(
        &self,
        mut change: impl FnMut(&mut Intents, &ClusterView) -> Result<T, E>,
    ) -> Result<Result<T, E>, IntentsError> {
        let view = self.view();
        self.registry.update_intents(|intents| change(intents, &view)).await
    }

    /// Sends every registered router on an errand; gives how many connections of each were concerned.
    pub(crate) async fn send(&self, errand: &Errand) -> Asked<u64> {
        let routers = self.view().routers;
        let others = routers.iter().filter(|(id, _)| **id != self.id);
        let mut asked = ask(&self.wire, others.map(|(id, router)| (id, router.grpc_addr.as_str())), async |channel| {
            let mut edge = EdgeClient::new(channel);
            Ok(match errand.clone() {
                Errand::Disconnect(request) => edge.disconnect(request).await?,
                Errand::Subscribe(request) => edge.subscribe(request).await?,
                Errand::Unsubscribe(request) => edge.unsubscribe(request).await?,
                Errand::Deny(request) => edge.deny(request).await?,
            }
            .into_inner()
            .connections)
        })
        .await;
        // Not over the network: this router's own address need not be one that it can reach itself at.
        match run(&self.roster, errand.clone()) {
            Ok(here) => drop(asked.answers.insert(self.id.clone(), here)),
            Err(status) => {
                tracing::warn!(error = status.message(), "an errand failed here");
                asked.unreached.push(self.id.clone());
            }
        }
        asked
    }

    /// Tells every router of a denial, and writes it into etcd. In this order: the watch of etcd would be first with some, and they
    /// could not say any more how many connections it ended.
    ///
    /// # Errors
    /// If etcd does not answer: it holds at the routers, but need not be kept.
    pub(crate) async fn deny(&self, denial: Denial, seconds: u64) -> Result<Asked<u64>, EtcdError> {
        let asked = self.send(&Errand::Deny(v1::DenyRequest { denial: Some(denial.to_wire()) })).await;
        match denial.until {
            0 => self.registry.lift_denial(&denial).await?,
            _ => self.registry.put_denial(&denial, seconds).await?,
        }
        Ok(asked)
    }

    /// Hands a client's commands to the router `node`, which has its session; `None` if there is no such router, or it does not
    /// answer.
    pub(crate) async fn emulate(&self, node: &str, session: String, data: Bytes) -> Option<Delivered> {
        use v1::emulate_reply::Outcome;
        let (id, router) =
            self.view().routers.iter().find(|(id, _)| id.as_str() == node).map(|(i, r)| (i.clone(), r.clone()))?;
        let asked = ask(&self.wire, [(&id, router.grpc_addr.as_str())].into_iter(), async |channel| {
            let request = v1::EmulateRequest { session: session.clone(), data: data.clone() };
            Ok(EdgeClient::new(channel).emulate(request).await?.into_inner().outcome())
        });
        match asked.await.answers.into_values().next()? {
            Outcome::Taken => Some(Delivered::Taken),
            Outcome::Gone => Some(Delivered::Gone),
            Outcome::Full => Some(Delivered::Full),
            Outcome::Unspecified => None,
        }
    }

    /// How every router is.
    pub(crate) async fn routers(&self) -> Asked<v1::RouterStatusReply> {
        let routers = self.view().routers;
        ask(&self.wire, routers.iter().map(|(id, router)| (id, router.grpc_addr.as_str())), async |channel| {
            Ok(AdminClient::new(channel).router_status(v1::RouterStatusRequest {}).await?.into_inner())
        })
        .await
    }

    /// The rooms of every node.
    pub(crate) async fn rooms(&self) -> Asked<v1::RoomsReply> {
        let nodes = self.view().nodes;
        ask(&self.wire, nodes.iter().map(|(id, node)| (id, node.grpc_addr.as_str())), async |channel| {
            let mut admin = AdminClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
            Ok(admin.rooms(v1::RoomsRequest::default()).await?.into_inner())
        })
        .await
    }
}

async fn ask<'a, T, F: Future<Output = Result<T, Status>>>(
    wire: &Wire,
    processes: impl Iterator<Item = (&'a NodeId, &'a str)>,
    question: impl Fn(Channel) -> F,
) -> Asked<T> {
    let question = &question;
    let each = processes.map(|(id, address)| async move {
        let answer = async {
            let channel = connect(wire, address).await.map_err(|e| Status::unavailable(e.to_string()))?;
            question(channel).await
        };
        (id, timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))))
    });
    let mut asked = Asked { answers: BTreeMap::new(), unreached: Vec::new() };
    for (id, answer) in join_all(each).await {
        match answer {
            Ok(answer) => drop(asked.answers.insert(id.clone(), answer)),
            Err(status) => {
                tracing::warn!(process = %id, error = status.message(), "not reached for the business server");
                asked.unreached.push(id.clone());
            }
        }
    }
    asked
}

async fn connect(wire: &Wire, address: &str) -> Result<Channel, tonic::transport::Error> {
    wire.endpoint(address)?.connect_timeout(ANSWER_WITHIN).connect().await
}

/// Does here what is asked of every router; gives how many connections were told.
fn run(roster: &Roster, errand: Errand) -> Result<u64, Status> {
    let (whom, order) = match errand {
        Errand::Deny(request) => {
            let denial = request.denial.ok_or_else(|| Status::invalid_argument("denial: missing"))?;
            let denial = Denial::from_wire(denial).map_err(|e| Status::invalid_argument(e.to_string()))?;
            return Ok(roster.deny(denial));
        }
        Errand::Disconnect(request) => {
            let code = if request.reconnect { CloseCode::FORCE_RECONNECT } else { CloseCode::FORCE_DISCONNECT };
            (request.whom, Order::Disconnect(code))
        }
        Errand::Subscribe(request) => (request.whom, Order::Subscribe(room(&request.room)?)),
        Errand::Unsubscribe(request) => (request.whom, Order::Unsubscribe(room(&request.room)?)),
    };
    let whom = whom.ok_or_else(|| Status::invalid_argument("whom: missing"))?;
    Ok(roster.order(Whom { user: &whom.user, client: &whom.client }, &order))
}

fn room(name: &str) -> Result<RoomId, Status> {
    RoomId::new(name).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// What routers ask of this one.
#[derive(Debug, Clone)]
pub(crate) struct EdgeService {
    pub(crate) roster: Arc<Roster>,
    pub(crate) emulated: Arc<Emulated>,
}

impl EdgeService {
    fn run(&self, errand: Errand) -> Result<Response<v1::Affected>, Status> {
        Ok(Response::new(v1::Affected { connections: run(&self.roster, errand)? }))
    }
}

#[tonic::async_trait]
impl Edge for EdgeService {
    async fn disconnect(&self, r: Request<v1::DisconnectRequest>) -> Result<Response<v1::Affected>, Status> {
        self.run(Errand::Disconnect(r.into_inner()))
    }

    async fn subscribe(&self, r: Request<v1::SubscribeRequest>) -> Result<Response<v1::Affected>, Status> {
        self.run(Errand::Subscribe(r.into_inner()))
    }

    async fn unsubscribe(&self, r: Request<v1::UnsubscribeRequest>) -> Result<Response<v1::Affected>, Status> {
        self.run(Errand::Unsubscribe(r.into_inner()))
    }

    async fn deny(&self, r: Request<v1::DenyRequest>) -> Result<Response<v1::Affected>, Status> {
        self.run(Errand::Deny(r.into_inner()))
    }

    async fn emulate(&self, r: Request<v1::EmulateRequest>) -> Result<Response<v1::EmulateReply>, Status> {
        use v1::emulate_reply::Outcome;
        let v1::EmulateRequest { session, data } = r.into_inner();
        let outcome = match self.emulated.deliver(&session, data) {
            Delivered::Taken => Outcome::Taken,
            Delivered::Gone => Outcome::Gone,
            Delivered::Full => Outcome::Full,
        };
        Ok(Response::new(v1::EmulateReply { outcome: outcome.into() }))
    }
}
