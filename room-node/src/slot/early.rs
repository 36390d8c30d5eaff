//! Attaches that came before the placement that they follow: a router that sees a switch before its new primary does is not
//! sent away, which would cost it a back-off, but waits here.

use roomring_proto::{PlacementRef, Version, v1};
use v1::router_message::Kind as FromRouter;

use super::LinkId;

/// Attaches held for one slot. Each router has one of the whole slot at most, and few of single rooms meanwhile.
const HELD: usize = 64;

/// The attaches of one slot, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Early(Vec<(LinkId, v1::Attach)>);

impl Early {
    /// Keeps an attach that follows a later placement than `known`. False: it is to be answered now.
    pub(super) fn keep(&mut self, link: LinkId, attach: &v1::Attach, known: PlacementRef) -> bool {
        let follows = attach.placement.map(PlacementRef::from);
        if follows.is_none_or(|p| p.uid != known.uid || p.version <= known.version) {
            return false;
        }
        if attach.whole {
            // It takes the place of what the router asked before.
            self.drop_link(link);
        }
        let fits = self.0.len() < HELD;
        if fits {
            self.0.push((link, attach.clone()));
        }
        fits
    }

    /// What a router says meanwhile of rooms that it waits for.
    pub(super) fn amend(&mut self, link: LinkId, message: &FromRouter) {
        for (_, attach) in self.0.iter_mut().filter(|(l, _)| *l == link) {
            match message {
                FromRouter::Presence(presence) => {
                    announce(attach, presence);
                }
                FromRouter::Detach(detach) => detach_from(attach, detach),
                FromRouter::Attach(_)
                | FromRouter::Publish(_)
                | FromRouter::History(_)
                | FromRouter::PresenceQuery(_)
                | FromRouter::Hello(_)
                | FromRouter::Heartbeat(_)
                | FromRouter::Placement(_) => {}
            }
        }
    }

    pub(super) fn drop_link(&mut self, link: LinkId) {
        self.0.retain(|(l, _)| *l != link);
    }

    /// Those that need not wait any longer now that `version` is known.
    pub(super) fn due(&mut self, version: Version) -> Vec<(LinkId, v1::Attach)> {
        let later = |attach: &v1::Attach| attach.placement.is_some_and(|p| p.version > version.0);
        self.0.extract_if(.., |(_, attach)| !later(attach)).collect()
    }
}

/// Takes who came and went into an attach that waits. False if the room is not in it.
pub(super) fn announce(attach: &mut v1::Attach, presence: &v1::Presence) -> bool {
    let Some(wanted) = attach.rooms.iter_mut().find(|r| r.room == presence.room) else { return false };
    wanted.members.retain(|m| !presence.left.contains(&m.client));
    wanted.members.extend(presence.joined.iter().cloned());
    true
}

/// Takes rooms out of an attach that waits.
pub(super) fn detach_from(attach: &mut v1::Attach, detach: &v1::Detach) {
    attach.rooms.retain(|r| !detach.rooms.contains(&r.room));
}
