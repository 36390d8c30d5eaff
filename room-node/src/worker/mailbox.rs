//! How the rest of the node talks to the workers.

use std::sync::Arc;

use roomring_control::clock::Time;
use roomring_control::placement::Placement;
use roomring_proto::{Incarnation, SlotId, v1};
use tokio::sync::{mpsc, oneshot};

use crate::outbox::Outbox;
use crate::slot::LinkId;

/// Mails that may wait for a worker. Each is a batch of one connection, so this is far more than all connections send in
/// a worker's turn; past it the connections' readers wait, which is felt by their senders.
const WAITING_MAILS: usize = 1024;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Mail {
    Adopt {
        placement: Arc<Placement>,
        contact: Option<Time>,
    },
    /// The stream that this process opened to that one.
    PeerUp {
        peer: Incarnation,
        outbox: Outbox<v1::PeerMessage>,
    },
    PeerDown(Incarnation),
    /// The stream that the other process opened: our answers go there.
    CallerUp {
        peer: Incarnation,
        outbox: Outbox<v1::PeerMessage>,
    },
    CallerDown(Incarnation),
    Peer(Vec<v1::Replication>),
    LinkUp {
        link: LinkId,
        router: Incarnation,
        /// It is told who comes and goes.
        listens: bool,
        outbox: Outbox<v1::NodeMessage>,
    },
    LinkDown(LinkId),
    Router {
        link: LinkId,
        messages: Vec<(SlotId, v1::router_message::Kind)>,
    },
    Status(oneshot::Sender<Vec<v1::SlotStatus>>),
    Rooms(oneshot::Sender<Vec<v1::RoomStatus>>),
}

/// The worker has ended: the process is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the worker has ended")]
pub(crate) struct Gone;

impl From<Gone> for tonic::Status {
    fn from(_: Gone) -> Self {
        Self::unavailable("the node is stopping")
    }
}

/// All mailboxes.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    /// Index = worker; the worker holds the receiving end.
    mailboxes: Arc<[mpsc::Sender<Mail>]>,
}

impl Workers {
    /// Mailboxes of `count` workers, with their receiving ends.
    pub(crate) fn new(count: usize) -> (Self, Vec<mpsc::Receiver<Mail>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(WAITING_MAILS)).unzip();
        (Self { mailboxes: senders.into() }, receivers)
    }

    /// Sends to every worker. Mails of one sender arrive in order.
    pub(crate) async fn broadcast(&self, mail: impl Fn() -> Mail) -> Result<(), Gone> {
        for mailbox in self.mailboxes.iter() {
            mailbox.send(mail()).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Sends each message of a router to the worker of its slot, in order.
    pub(crate) async fn route(
        &self,
        link: LinkId,
        messages: Vec<(SlotId, v1::router_message::Kind)>,
    ) -> Result<(), Gone> {
        for (mailbox, messages) in self.split(messages, |(slot, _)| *slot) {
            mailbox.send(Mail::Router { link, messages }).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Sends each message of another node to the worker of its slot, in order.
    pub(crate) async fn replicate(&self, messages: Vec<v1::Replication>) -> Result<(), Gone> {
        for (mailbox, messages) in self.split(messages, |m| SlotId(m.slot)) {
            mailbox.send(Mail::Peer(messages)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Every slot here, by number.
    pub(crate) async fn status(&self) -> Result<Vec<v1::SlotStatus>, Gone> {
        let mut slots = Vec::new();
        for mailbox in self.mailboxes.iter() {
            let (answer, answered) = oneshot::channel();
            mailbox.send(Mail::Status(answer)).await.map_err(|_| Gone)?;
            slots.extend(answered.await.map_err(|_| Gone)?);
        }
        slots.sort_by_key(|s| s.slot);
        Ok(slots)
    }

    /// Every room of the slots that this process is primary of.
    pub(crate) async fn rooms(&self) -> Result<Vec<v1::RoomStatus>, Gone> {
        let mut rooms = Vec::new();
        for mailbox in self.mailboxes.iter() {
            let (answer, answered) = oneshot::channel();
            mailbox.send(Mail::Rooms(answer)).await.map_err(|_| Gone)?;
            rooms.extend(answered.await.map_err(|_| Gone)?);
        }
        Ok(rooms)
    }

    /// Mails that wait, of all workers.
    pub(crate) fn waiting(&self) -> usize {
        self.mailboxes.iter().map(|m| m.max_capacity() - m.capacity()).sum()
    }

    fn split<T>(
        &self,
        all: Vec<T>,
        slot: impl Fn(&T) -> SlotId,
    ) -> impl Iterator<Item = (&mpsc::Sender<Mail>, Vec<T>)> {
        let mut parts: Vec<Vec<T>> = self.mailboxes.iter().map(|_| Vec::new()).collect();
        for one in all {
            let part = slot(&one).0 as usize % parts.len();
            parts[part].push(one);
        }
        self.mailboxes.iter().zip(parts).filter(|(_, part)| !part.is_empty())
    }
}
