//! Who is in a room.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use roomring_proto::Incarnation;

use crate::entry::Client;

/// What a member counts beside its names and infos.
const OVERHEAD: usize = 200;

/// Up to so many members their users are counted when somebody asks.
const COUNTED: usize = 32;

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

/// A member, ordered by connection id. Boxed: a tree's smallest part has room for eleven, and most rooms are small.
#[derive(Debug, Clone)]
struct ById(Box<Member>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.info.client
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.info.client.cmp(&other.0.info.client)
    }
}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ById {}

/// The members of a room by connection id.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    all: BTreeSet<ById>,
    /// Connections per user of a room with more members than [`COUNTED`]: counting them anew would walk a large room.
    users: BTreeMap<String, usize>,
    bytes: usize,
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows from the members.
        self.iter().eq(other.iter())
    }
}

impl Eq for Members {}

impl Hash for Members {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|member| member.hash(state));
    }
}

impl Members {
    /// Adds a member, or replaces the one with the same connection id: that one is returned.
    pub(super) fn insert(&mut self, member: Member) -> Option<Member> {
        let before = self.remove(&member.info.client);
        self.bytes += cost(&member);
        if self.len() > COUNTED {
            *self.users.entry(member.info.user.clone()).or_default() += 1;
        }
        self.all.insert(ById(Box::new(member)));
        if self.len() == COUNTED + 1 {
            self.count_users();
        }
        before
    }

    pub(super) fn remove(&mut self, client: &str) -> Option<Member> {
        let ById(member) = self.all.take(client)?;
        self.bytes -= cost(&member);
        if self.len() <= COUNTED {
            self.users = BTreeMap::new();
        } else if let Some(count) = self.users.get_mut(&member.info.user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&member.info.user);
            }
        }
        if self.all.is_empty() {
            // An emptied tree keeps its root.
            self.all = BTreeSet::new();
        }
        Some(*member)
    }

    pub(super) fn get(&self, client: &str) -> Option<&Member> {
        self.all.get(client).map(|ById(member)| &**member)
    }

    /// In order of connection id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.iter().map(|ById(member)| &**member)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Distinct users.
    pub(super) fn users(&self) -> usize {
        if self.len() > COUNTED {
            return self.users.len();
        }
        self.iter().map(|member| &member.info.user).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn count_users(&mut self) {
        let mut users: BTreeMap<String, usize> = BTreeMap::new();
        for member in self.iter() {
            *users.entry(member.info.user.clone()).or_default() += 1;
        }
        self.users = users;
    }
}

fn cost(member: &Member) -> usize {
    OVERHEAD + member.info.cost()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_counted_in_small_rooms_and_large_ones() {
        let member = |n: usize, user: usize| Member {
            info: Client { user: format!("u{user}"), client: format!("c{n:04}"), ..Client::default() },
            router: Incarnation(1),
            announced: true,
        };
        let mut members = Members::default();
        for n in 0..3 * COUNTED {
            assert_eq!(members.insert(member(n, n / 3)), None);
            assert_eq!(members.users(), n / 3 + 1);
        }
        // One that comes again under another name is another user's.
        assert!(members.insert(member(0, 9999)).is_some());
        assert_eq!(members.users(), COUNTED + 1);
        assert!(members.insert(member(0, 0)).is_some());
        for n in (0..3 * COUNTED).rev() {
            assert_eq!(members.users(), n / 3 + 1);
            assert!(members.remove(&format!("c{n:04}")).is_some());
        }
        assert_eq!((members.users(), members.bytes()), (0, 0));
    }
}
