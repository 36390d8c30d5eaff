//! How often something may be done, by token buckets.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use roomring_proto::RoomId;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// How often whoever waits for a token looks for one.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A number of times a second, and how many at once after a rest: `50`, or `50/200`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

impl Rate {
    fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.trim().parse::<NonZeroU32>().ok();
        let (rate, burst) = text.split_once('/').unwrap_or((text, text));
        match (number(rate), number(burst)) {
            (Some(per_second), Some(burst)) if burst >= per_second => Ok(Self { per_second, burst }),
            _ => Err("expected a rate such as 50 (a second) or 50/200 (200 at once after a rest)".to_owned()),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.per_second, self.burst)
    }
}

/// One token bucket; without a rate there is always a token.
#[derive(Debug, Default)]
pub struct Bucket(Option<Box<DefaultDirectRateLimiter>>);

impl Bucket {
    /// A full one.
    pub fn new(rate: Option<Rate>) -> Self {
        Self(rate.map(|rate| Box::new(RateLimiter::direct(rate.quota()))))
    }

    /// Takes a token; false if there is none.
    pub fn take(&self) -> bool {
        self.0.as_ref().is_none_or(|bucket| bucket.check().is_ok())
    }

    /// Waits for a token, and takes it. Safe to cancel.
    pub async fn ready(&self) {
        while !self.take() {
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// A token bucket each.
struct Buckets<K: Hash + Eq + Clone>(Option<DefaultKeyedRateLimiter<K>>);

impl<K: Hash + Eq + Clone> Default for Buckets<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(rate: Option<Rate>) -> Self {
        Self(rate.map(|rate| RateLimiter::keyed(rate.quota())))
    }

    fn take(&self, key: &K) -> bool {
        self.0.as_ref().is_none_or(|buckets| buckets.check_key(key).is_ok())
    }

    fn forget_full(&self) {
        if let Some(buckets) = &self.0 {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
    }
}

/// The token buckets that connections share.
#[derive(Default)]
pub struct Rates {
    users: Buckets<String>,
    rooms: Buckets<RoomId>,
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rates")
    }
}

impl Rates {
    /// Commands of a user, and publishes to a room.
    pub fn new(user: Option<Rate>, room: Option<Rate>) -> Self {
        Self { users: Buckets::new(user), rooms: Buckets::new(room) }
    }

    /// A command of `user`; those without a name have no bucket in common. False if it is too early.
    pub fn take_of_user(&self, user: &str) -> bool {
        user.is_empty() || self.users.0.is_none() || self.users.take(&user.to_owned())
    }

    /// A publish to `room`; false if it is too early.
    pub fn take_of_room(&self, room: &RoomId) -> bool {
        self.rooms.take(room)
    }

    /// Gives back the memory of full buckets. To be called every now and then.
    pub fn forget_full(&self) {
        self.users.forget_full();
        self.rooms.forget_full();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, read) in [("50", "50/50"), ("50/200", "50/200"), (" 1 / 2 ", "1/2")] {
            assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()), Ok(read.to_owned()));
        }
        for bad in ["", "0", "5/2", "5/", "-1", "1/2/3", "many"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn buckets_run_empty() {
        let rate = "1/3".parse().ok();
        let bucket = Bucket::new(rate);
        assert_eq!([(); 4].map(|()| bucket.take()), [true, true, true, false]);
        assert!((0..1_000).all(|_| Bucket::default().take()));
        let rates = Rates::new(rate, rate);
        assert_eq!([(); 4].map(|()| rates.take_of_user("ann")), [true, true, true, false]);
        assert!(rates.take_of_user("bob") && (0..9).all(|_| rates.take_of_user("")));
        let room = RoomId::new("a").unwrap();
        assert_eq!([(); 4].map(|()| rates.take_of_room(&room)), [true, true, true, false]);
        rates.forget_full();
        assert!(!rates.take_of_room(&room), "an empty one is not forgotten");
    }
}
