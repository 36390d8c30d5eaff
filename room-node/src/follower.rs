//! Hands what the registry sees to the workers.

use std::sync::Arc;

use roomring_control::view::ClusterView;
use roomring_proto::Uid;
use tokio::sync::{oneshot, watch};

use crate::shell::Shell;
use crate::worker::Mail;

/// Follows the view for one life of the node.
#[derive(Debug)]
pub(crate) struct Follower {
    shell: Arc<Shell>,
    view: watch::Receiver<ClusterView>,
    /// The history that this life belongs to: that of the first placement seen.
    uid: Option<Uid>,
    /// Told once the workers have a placement of which this process is a member, and may serve.
    joined: Option<oneshot::Sender<()>>,
}

impl Follower {
    pub(crate) fn new(shell: Arc<Shell>, joined: oneshot::Sender<()>) -> Self {
        let view = shell.registry.view();
        Self { shell, view, uid: None, joined: Some(joined) }
    }

    /// Runs until the placement is of another history: everything held here is void then. Or until the workers are gone.
    pub(crate) async fn run(mut self) {
        loop {
            let (placement, contact) = {
                let view = self.view.borrow_and_update();
                (view.placement.clone(), view.contact)
            };
            if let Some(placement) = placement {
                if *self.uid.get_or_insert(placement.uid) != placement.uid {
                    return;
                }
                let mail = || Mail::Adopt { placement: Arc::clone(&placement), contact };
                if self.shell.workers.broadcast(mail).await.is_err() {
                    return;
                }
                let member = placement.members.get(&self.shell.incarnation).is_some_and(|m| m.active);
                // Without contact its slots serve nothing yet.
                if member
                    && contact.is_some()
                    && let Some(joined) = self.joined.take()
                {
                    // Nobody waits for it when the node stops first.
                    let _ = joined.send(());
                }
            }
            if self.view.changed().await.is_err() {
                return;
            }
        }
    }
}
