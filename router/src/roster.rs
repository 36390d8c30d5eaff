//! Who is connected to this router, and what users may not do: how the business server reaches connections.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use roomring_control::denials::{Denial, Denials, Denied};
use roomring_control::registry::Change;
use roomring_proto::RoomId;
use roomring_proto::close::CloseCode;

use crate::auth::Unix;
use crate::hub::api::{Client, Order, ToClient};

/// Connections of this router by their users, and the denials that hold for these.
#[derive(Debug, Default)]
pub struct Roster {
    /// Most connections of a user; `None` = any number.
    most: Option<usize>,
    clients: Mutex<Clients>,
    denials: RwLock<Denials>,
}

/// By user and id of the connection.
type Clients = BTreeMap<Key, Arc<Client>>;

/// A connection, ordered by its user and then by its id.
type Key = (Arc<str>, Arc<str>);

/// Connections of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whom<'a> {
    /// The user's name.
    pub user: &'a str,
    /// One of its connections; empty = all.
    pub client: &'a str,
}

impl Roster {
    /// At most so many connections of each user; `None` = any number. Nobody in particular has any number of them.
    pub fn new(most: Option<usize>) -> Self {
        Self { most, ..Self::default() }
    }

    /// Takes in a connection, which is in the roster while the result lives.
    ///
    /// # Errors
    /// If its user may not connect, or is connected too often.
    pub(crate) fn enter(self: &Arc<Self>, client: &Arc<Client>, now: Unix) -> Result<Entry, CloseCode> {
        let key: Key = (client.user.as_str().into(), client.id.as_str().into());
        let mut clients = self.clients();
        if let Some(most) = self.most.filter(|_| !client.user.is_empty())
            && Self::of(&clients, Whom { user: &client.user, client: "" }).take(most).count() >= most
        {
            return Err(CloseCode::CONNECTION_LIMIT);
        }
        clients.insert(key.clone(), client.clone());
        drop(clients);
        let entry = Entry { roster: self.clone(), key };
        // Looked at last: a ban that comes now finds the connection in the roster.
        if self.denials().bans(&client.user, now.0) {
            return Err(CloseCode::PERMISSION_DENIED);
        }
        Ok(entry)
    }

    /// Gives an order to connections; how many there were.
    pub fn order(&self, whom: Whom<'_>, order: &Order) -> u64 {
        let clients: Vec<Arc<Client>> = Self::of(&self.clients(), whom).cloned().collect();
        for client in &clients {
            client.queue.push(ToClient::Order(order.clone()));
        }
        clients.len() as u64
    }

    fn of<'a>(clients: &'a Clients, whom: Whom<'a>) -> impl Iterator<Item = &'a Arc<Client>> {
        let first: Key = (whom.user.into(), "".into());
        let of_user = clients.range((Bound::Included(first), Bound::Unbounded));
        let of_user = of_user.take_while(move |((user, _), _)| **user == *whom.user);
        let wanted = of_user.filter(move |((_, id), _)| whom.client.is_empty() || **id == *whom.client);
        wanted.map(|(_, client)| client)
    }

    /// A denial holds from now on: whoever is connected has to go by it. How many connections were told.
    pub fn deny(&self, denial: Denial) -> u64 {
        let (user, what, over) = (denial.user.clone(), denial.what.clone(), denial.until <= unix_now().0);
        let news = self.denials.write().unwrap_or_else(PoisonError::into_inner).insert(denial);
        if over || !news {
            return 0;
        }
        self.enforce(&user, &what)
    }

    /// What etcd has.
    pub(crate) fn follow(&self, change: Change) {
        match change {
            Change::Put(denial) => {
                self.deny(denial);
            }
            Change::Gone(name) => self.denials.write().unwrap_or_else(PoisonError::into_inner).remove(&name),
            Change::All(all) => {
                let mut now = Denials::default();
                for denial in all {
                    now.insert(denial);
                }
                let known =
                    std::mem::replace(&mut *self.denials.write().unwrap_or_else(PoisonError::into_inner), now.clone());
                let at = unix_now().0;
                for denial in now.iter().filter(|denial| denial.until > at && !known.has(denial)) {
                    self.enforce(&denial.user, &denial.what);
                }
            }
        }
    }

    fn enforce(&self, user: &str, what: &Denied) -> u64 {
        let all = Whom { user, client: "" };
        match what {
            // They may come back with another token.
            Denied::Tokens { .. } => self.order(all, &Order::Disconnect(CloseCode::CONNECTION_EXPIRED)),
            Denied::Everywhere => self.order(all, &Order::Disconnect(CloseCode::PERMISSION_DENIED)),
            Denied::Room(room) => self.order(all, &Order::Unsubscribe(room.clone())),
        }
    }

    /// A token of `user` that was issued then no longer counts.
    pub(crate) fn revokes(&self, user: &str, issued: Option<Unix>, now: Unix) -> bool {
        self.denials().revokes(user, issued.map(|at| at.0), now.0)
    }

    /// `user` may not join `room` or publish to it.
    pub(crate) fn bans_from(&self, user: &str, room: &RoomId, now: Unix) -> bool {
        self.denials().bans_from(user, room, now.0)
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        // Whole between any two statements.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denials(&self) -> std::sync::RwLockReadGuard<'_, Denials> {
        self.denials.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the roster.
#[derive(Debug)]
pub struct Entry {
    roster: Arc<Roster>,
    key: Key,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.roster.clients().remove(&self.key);
    }
}

/// The time of day.
pub(crate) fn unix_now() -> Unix {
    Unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use roomring_proto::client::Format;

    use super::*;
    use crate::hub::api::Codec;
    use crate::hub::queue::ClientQueue;

    fn client(user: &str, id: &str) -> Arc<Client> {
        let (codec, queue) = (Codec::Centrifuge(Format::Json), ClientQueue::new(1_000));
        Arc::new(Client { id: id.into(), user: user.into(), conn_info: Bytes::new(), codec, queue })
    }

    fn orders(client: &Client) -> Vec<Order> {
        let mut out = Vec::new();
        let _ = client.queue.try_recv_many(&mut out, 9);
        out.into_iter()
            .map(|event| if let ToClient::Order(order) = event { order } else { panic!("{event:?}") })
            .collect()
    }

    #[test]
    fn orders_reach_the_connections_of_their_user() {
        let roster = Arc::new(Roster::default());
        let now = unix_now();
        let clients = [("ann", "1"), ("ann", "2"), ("ann ", "3"), ("bob", "1"), ("", "9")].map(|(u, id)| client(u, id));
        let mut entries: Vec<Entry> = clients.iter().map(|c| roster.enter(c, now).unwrap()).collect();
        let order = Order::Disconnect(CloseCode::FORCE_DISCONNECT);
        let told = |user, client| roster.order(Whom { user, client }, &order);
        assert_eq!(
            [told("ann", ""), told("ann", "2"), told("bob", "2"), told("", ""), told("eve", "")],
            [2, 1, 0, 1, 0]
        );
        assert_eq!(clients.each_ref().map(|c| orders(c).len()), [1, 2, 0, 0, 1]);
        drop(entries.remove(0));
        assert_eq!(told("ann", ""), 1);
    }

    #[test]
    fn a_user_has_so_many_connections() {
        let roster = Arc::new(Roster::new(Some(2)));
        let now = unix_now();
        let enter = |user, id| roster.enter(&client(user, id), now);
        let first = enter("ann", "1").unwrap();
        let _others = (enter("ann", "2").unwrap(), enter("bob", "1").unwrap(), enter("", "1"), enter("", "2"));
        assert_eq!(enter("ann", "3").unwrap_err(), CloseCode::CONNECTION_LIMIT);
        assert!(enter("", "3").is_ok());
        drop(first);
        assert!(enter("ann", "3").is_ok());
    }

    #[test]
    fn denials_are_enforced_once() {
        let roster = Arc::new(Roster::default());
        let now = unix_now();
        let ann = client("ann", "1");
        let entry = roster.enter(&ann, now).unwrap();
        let room = RoomId::new("lobby").unwrap();
        let until = now.0 + 100;
        let from_room = Denial { user: "ann".into(), what: Denied::Room(room.clone()), until };
        assert_eq!((roster.deny(from_room.clone()), roster.deny(from_room.clone())), (1, 0));
        assert_eq!(orders(&ann), [Order::Unsubscribe(room.clone())]);
        assert!(roster.bans_from("ann", &room, now));
        let tokens = Denial { user: "ann".into(), what: Denied::Tokens { issued_until: now.0 }, until };
        roster.follow(Change::Put(tokens));
        assert_eq!(orders(&ann), [Order::Disconnect(CloseCode::CONNECTION_EXPIRED)]);
        assert!(roster.revokes("ann", Some(now), now) && !roster.revokes("ann", Some(Unix(now.0 + 1)), now));
        let everywhere = Denial { user: "ann".into(), what: Denied::Everywhere, until };
        roster.follow(Change::All(vec![everywhere.clone()]));
        // Known by now.
        roster.follow(Change::All(vec![everywhere.clone()]));
        assert_eq!(orders(&ann), [Order::Disconnect(CloseCode::PERMISSION_DENIED)]);
        assert!(!roster.bans_from("ann", &room, now) && !roster.revokes("ann", None, now));
        drop(entry);
        assert_eq!(roster.enter(&ann, now).unwrap_err(), CloseCode::PERMISSION_DENIED);
        // Taken back.
        roster.follow(Change::Put(Denial { until: 0, ..everywhere.clone() }));
        assert!(roster.enter(&ann, now).is_ok() && orders(&ann).is_empty());
        roster.follow(Change::Gone(everywhere.name()));
    }
}
