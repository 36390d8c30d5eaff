//! Who a client says it is.

use std::fmt;

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

/// Id of a connection: 128 random bits, so that none can be guessed and none comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(pub u128);

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
    fn ids_are_hexadecimal() {
        assert_eq!(ClientId(10).to_string(), "0000000000000000000000000000000a");
    }
}
