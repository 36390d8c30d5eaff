//! Who is in a room.

use std::collections::BTreeMap;

use roomring_proto::Incarnation;

use crate::entry::Client;

/// What a member counts beside its names and infos.
const OVERHEAD: usize = 200;

/// A client in a room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) info: Client,
    /// The router process that holds its socket.
    pub(super) router: Incarnation,
    /// Its join was shown to the others. Only then its leave is too, so that joins and leaves of a client alternate also
    /// in a room that was over the list limit for a while.
    pub(super) announced: bool,
}

/// The members of a room by connection id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Members {
    by_client: BTreeMap<String, Member>,
    /// Connections per user, so that counting users does not walk a large room.
    users: BTreeMap<String, usize>,
    bytes: usize,
}

impl Members {
    /// Adds a member, or replaces the one with the same connection id: that one is returned.
    pub(super) fn insert(&mut self, member: Member) -> Option<Member> {
        self.bytes += cost(&member);
        *self.users.entry(member.info.user.clone()).or_default() += 1;
        let before = self.by_client.insert(member.info.client.clone(), member);
        if let Some(before) = &before {
            self.forget(before);
        }
        before
    }

    pub(super) fn remove(&mut self, client: &str) -> Option<Member> {
        let member = self.by_client.remove(client)?;
        self.forget(&member);
        Some(member)
    }

    pub(super) fn get(&self, client: &str) -> Option<&Member> {
        self.by_client.get(client)
    }

    /// In order of connection id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_client.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self, member: &Member) {
        self.bytes -= cost(member);
        if let Some(count) = self.users.get_mut(&member.info.user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&member.info.user);
            }
        }
    }
}

fn cost(member: &Member) -> usize {
    OVERHEAD + member.info.cost()
}
