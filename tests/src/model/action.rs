//! What may happen to the slot next.

use roomring_node::slot::LinkId;
use roomring_proto::{Incarnation, Seat, Term, Version};

/// One step of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The oldest message on the stream that `opener` opened to `other` arrives; `back`: one of the answers on it.
    Deliver {
        /// Who opened the stream.
        opener: Incarnation,
        /// The other end.
        other: Incarnation,
        /// Towards the opener.
        back: bool,
    },
    /// A process adopts a placement. If it is the newest this was a read of etcd, and its contact is fresh.
    View(Incarnation, Version),
    /// A process reads etcd and finds nothing new.
    Renew(Incarnation),
    /// `fence_after` passes without contact.
    Expire(Incarnation),
    /// Whatever waits for time in a process comes due.
    Tick(Incarnation),
    /// A process dies.
    Crash(Incarnation),
    /// The dead process of this node gets a successor, which knows nothing and has read etcd.
    Restart(u64),
    /// The stream that the first opened to the second ends; what is under way on it is lost. It is opened again at once.
    Break(Incarnation, Incarnation),
    /// The oldest message that was under way on a stream from the first to the second when it ended arrives.
    Late(Incarnation, Incarnation),
    /// A registered process becomes a member if it is none, and gets a learner's seat if it has none.
    Admit(Incarnation),
    /// A proposal of a primary reaches etcd. Nobody learns of its outcome but by a later view.
    Land(Ready),
    /// Another in-sync seat becomes primary.
    Switch(Seat),
    /// A seat goes.
    Remove(Seat),
    /// A process is evicted, dead or not.
    Evict(Incarnation),
    /// The slot starts empty on this process.
    Recreate(Incarnation),
    /// A client publishes at the router.
    Publish,
    /// The router opens a link to the primary that the placement of this version names, and attaches.
    Attach(Version),
    /// The router gets the oldest message of its link.
    Hear,
    /// That message is lost.
    Lose,
    /// The router gets the oldest message of this earlier link.
    Overhear(LinkId),
    /// As much time passes at the router as a publish may take.
    Wait,
}

/// A primary's word that a learner may go in sync: a write of it is based on `base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ready {
    /// The learner.
    pub seat: Seat,
    /// The primary's term.
    pub term: Term,
    /// The placement that the primary knew.
    pub base: Version,
}
