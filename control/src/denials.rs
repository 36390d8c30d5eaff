//! What users may not do for a while: tokens that were revoked, and bans. Pure.

use std::collections::BTreeMap;

use prost::Message;
use roomring_proto::{Malformed, RoomId, v1};

/// What a user may not do until a time of day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Whom it is about.
    pub user: String,
    /// What is denied.
    pub what: Denied,
    /// Until when, in seconds since 1970.
    pub until: u64,
}

/// What is denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// Tokens issued up to then (seconds since 1970), and those that do not say when, count as expired.
    Tokens {
        /// Up to when.
        issued_until: u64,
    },
    /// To connect.
    Everywhere,
    /// To join and to publish to a room.
    Room(RoomId),
}

impl Denial {
    /// What identifies it among all of a cluster: another of the same kind for the same user and room takes its place.
    /// Printable, as names need not be.
    pub fn name(&self) -> String {
        let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
        let user = hex(&self.user);
        match &self.what {
            Denied::Tokens { .. } => format!("tokens/{user}"),
            Denied::Everywhere => format!("users/{user}"),
            Denied::Room(room) => format!("rooms/{user}/{}", hex(room.as_str())),
        }
    }

    /// As it is kept in etcd and sent between routers.
    pub fn to_wire(&self) -> v1::Denial {
        use v1::denial::Kind;
        let kind = match &self.what {
            Denied::Tokens { issued_until } => Kind::TokensUntil(*issued_until),
            Denied::Everywhere => Kind::Everywhere(v1::Everywhere {}),
            Denied::Room(room) => Kind::Room(room.as_str().to_owned()),
        };
        v1::Denial { user: self.user.clone(), until: self.until, kind: Some(kind) }
    }

    /// # Errors
    /// What is wrong with it.
    pub fn from_wire(wire: v1::Denial) -> Result<Self, Malformed> {
        use v1::denial::Kind;
        let what = match wire.kind.ok_or_else(|| Malformed("a denial lacks what it denies".to_owned()))? {
            Kind::TokensUntil(issued_until) => Denied::Tokens { issued_until },
            Kind::Everywhere(_) => Denied::Everywhere,
            Kind::Room(room) => Denied::Room(RoomId::new(&room)?),
        };
        Ok(Self { user: wire.user, what, until: wire.until })
    }

    /// Reads what [`Self::to_wire`] has encoded.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, Malformed> {
        Self::from_wire(v1::Denial::decode(value).map_err(|e| Malformed(e.to_string()))?)
    }
}

/// The denials that a router knows of, by [`Denial::name`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denials {
    users: BTreeMap<String, BTreeMap<String, Denial>>,
}

impl Denials {
    /// Adds one. Says whether it is news.
    pub fn insert(&mut self, denial: Denial) -> bool {
        let of_user = self.users.entry(denial.user.clone()).or_default();
        of_user.insert(denial.name(), denial.clone()).as_ref() != Some(&denial)
    }

    /// Forgets the one of that name.
    pub fn remove(&mut self, name: &str) {
        for of_user in self.users.values_mut() {
            of_user.remove(name);
        }
        self.users.retain(|_, of_user| !of_user.is_empty());
    }

    /// This very one is among them.
    pub fn has(&self, denial: &Denial) -> bool {
        self.users.get(&denial.user).and_then(|of_user| of_user.get(&denial.name())) == Some(denial)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Denial> {
        self.users.values().flat_map(BTreeMap::values)
    }

    fn of<'a>(&'a self, user: &str, now: u64) -> impl Iterator<Item = &'a Denied> + use<'a> {
        let all = self.users.get(user).into_iter().flat_map(BTreeMap::values);
        all.filter(move |denial| denial.until > now).map(|denial| &denial.what)
    }

    /// `user` may not connect.
    pub fn bans(&self, user: &str, now: u64) -> bool {
        self.of(user, now).any(|what| *what == Denied::Everywhere)
    }

    /// `user` may not join `room` or publish to it.
    pub fn bans_from(&self, user: &str, room: &RoomId, now: u64) -> bool {
        self.of(user, now).any(|what| matches!(what, Denied::Room(banned) if banned == room))
    }

    /// A token of `user` that was issued then is no longer good.
    pub fn revokes(&self, user: &str, issued: Option<u64>, now: u64) -> bool {
        self.of(user, now).any(|what| match what {
            Denied::Tokens { issued_until } => issued.is_none_or(|issued| issued <= *issued_until),
            Denied::Everywhere | Denied::Room(_) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(user: &str, what: Denied) -> Denial {
        Denial { user: user.into(), what, until: 100 }
    }

    #[test]
    fn denials_hold_for_their_user_until_their_time() {
        let room = RoomId::new("a/b").unwrap();
        let mut denials = Denials::default();
        assert!(denials.insert(denial("ann", Denied::Everywhere)));
        assert!(!denials.insert(denial("ann", Denied::Everywhere)));
        denials.insert(denial("bob", Denied::Room(room.clone())));
        denials.insert(denial("cid", Denied::Tokens { issued_until: 50 }));
        assert!(denials.bans("ann", 99) && !denials.bans("ann", 100) && !denials.bans("bob", 1));
        assert!(denials.bans_from("bob", &room, 1) && !denials.bans_from("bob", &RoomId::new("a").unwrap(), 1));
        let revoked = [None, Some(50), Some(51)].map(|issued| denials.revokes("cid", issued, 1));
        assert_eq!(revoked, [true, true, false]);
        assert!(!denials.revokes("ann", None, 1));
        denials.remove(&denial("ann", Denied::Everywhere).name());
        assert!(!denials.bans("ann", 1));
        assert_eq!(denials.iter().count(), 2);
    }

    #[test]
    fn they_survive_the_wire_and_names_are_printable() {
        for what in
            [Denied::Everywhere, Denied::Tokens { issued_until: 7 }, Denied::Room(RoomId::new("räume/ä").unwrap())]
        {
            let denial = denial("ann/ä", what);
            assert_eq!(Denial::decode(&denial.to_wire().encode_to_vec()), Ok(denial.clone()));
            assert!(denial.name().is_ascii() && denial.name().matches('/').count() <= 2);
        }
        assert!(Denial::decode(&v1::Denial::default().encode_to_vec()).is_err());
        assert!(Denial::decode(b"\xff").is_err());
    }
}
