//! Who a client says it is.

use std::fmt;
use std::time::SystemTime;

use roomring_proto::limits;

/// A user's name: at most [`limits::USER_BYTES`] bytes without control characters; empty = anonymous.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User(String);

/// A name that breaks the rules of [`User`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUser {
    /// Longer than [`limits::USER_BYTES`].
    #[error("user has {0} bytes, the limit is {limit}", limit = limits::USER_BYTES)]
    TooLong(usize),
    /// Unprintable.
    #[error("user has a control character")]
    Control,
    /// The connect data's `user` is something else than a string.
    #[error("user must be a string")]
    NotText,
}

impl User {
    /// Checks `name`.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn new(name: String) -> Result<Self, BadUser> {
        if name.len() > limits::USER_BYTES {
            return Err(BadUser::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(BadUser::Control);
        }
        Ok(Self(name))
    }

    /// The name in an application's connect data `{"user": ...}`; `None` if it has none.
    ///
    /// # Errors
    /// A name is there, but can't be used.
    pub fn of_connect_data(data: &[u8]) -> Result<Option<Self>, BadUser> {
        // The data belongs to the application: it may be anything.
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(data) else { return Ok(None) };
        match fields.remove("user") {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(name)) => Self::new(name).map(Some),
            Some(_) => Err(BadUser::NotText),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Id of a connection: 32 bits of its time, 96 random ones, so that none can be guessed and none comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(pub u128);

impl ClientId {
    /// An id for a connection that comes now. Rooms keep their members by id: those who came one after the other, whose memory
    /// and sockets lie side by side as a rule, are written to one after the other.
    pub fn now() -> Self {
        const RANDOM: u32 = 96;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The low bits of the time: they begin anew every 49 days.
        Self(since.as_millis() << RANDOM | rand::random::<u128>() >> (u128::BITS - RANDOM))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_connect_data() {
        let user = |data: &str| User::of_connect_data(data.as_bytes());
        assert_eq!(user(r#"{"user":"ann","more":[1]}"#), Ok(Some(User("ann".into()))));
        for none in ["", "null", "7", "[1]", "{}", r#"{"user":null}"#, "{broken"] {
            assert_eq!(user(none), Ok(None), "{none}");
        }
        assert_eq!(user(r#"{"user":7}"#), Err(BadUser::NotText));
        assert_eq!(user(r#"{"user":"a\nb"}"#), Err(BadUser::Control));
        assert!(User::new("x".repeat(255)).is_ok());
        assert_eq!(User::new("x".repeat(256)).unwrap_err().to_string(), "user has 256 bytes, the limit is 255");
    }

    #[test]
    fn later_ids_are_higher_and_no_two_are_the_same() {
        let ids: Vec<_> = (0..1_000).map(|_| ClientId::now()).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().map(|id| id.0 << 32).collect();
        assert_eq!(distinct.len(), ids.len(), "the random parts alone differ");
        std::thread::sleep(std::time::Duration::from_millis(2));
        let (last, next) = (ids[999].0 >> 96, ClientId::now().0 >> 96);
        assert!((next.wrapping_sub(last) as u32) < 60_000, "{last} {next}");
        assert_ne!(next, last);
    }

    #[test]
    fn ids_are_hexadecimal() {
        assert_eq!(ClientId(10).to_string(), "0000000000000000000000000000000a");
    }
}
