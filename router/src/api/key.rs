//! The keys that the business server shows.

use std::fmt;

use subtle::ConstantTimeEq;

/// Least length of a key, in bytes: shorter ones can be guessed.
const KEY_BYTES: usize = 16;

/// A key that can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Shorter than that can be guessed.
    #[error("a key has {0} bytes, it must have at least {KEY_BYTES}")]
    Short(usize),
    /// There is none.
    #[error("there is no key")]
    None,
}

/// The keys that let in the business server. Several, so that they can be changed one after the other.
#[derive(Clone)]
pub struct ApiKeys(Vec<Vec<u8>>);

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key(s)", self.0.len())
    }
}

impl ApiKeys {
    /// One key a line; empty lines are left out.
    ///
    /// # Errors
    /// A key that is too short, or none at all.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let keys: Vec<Vec<u8>> =
            text.lines().map(str::trim).filter(|key| !key.is_empty()).map(|key| key.as_bytes().to_vec()).collect();
        match keys.iter().map(Vec::len).min() {
            None => Err(BadKey::None),
            Some(short) if short < KEY_BYTES => Err(BadKey::Short(short)),
            Some(_) => Ok(Self(keys)),
        }
    }

    /// Whether `shown` is one of them. How long it takes says nothing about a key but its length.
    pub(crate) fn admit(&self, shown: &[u8]) -> bool {
        // Every key is looked at, whichever fits.
        self.0.iter().fold(false, |found, key| found | bool::from(key.as_slice().ct_eq(shown)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_compared() {
        let keys = ApiKeys::parse("first-key-of-them\n\n second-key-of-them \n").unwrap();
        assert!(keys.admit(b"first-key-of-them") && keys.admit(b"second-key-of-them"));
        for wrong in ["", "first-key-of-the", "first-key-of-them\n", "First-key-of-them", "third-key-of-them"] {
            assert!(!keys.admit(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(ApiKeys::parse("a-key-that-is-long\nshort").unwrap_err(), BadKey::Short(5));
        assert_eq!(ApiKeys::parse(" \n").unwrap_err(), BadKey::None);
        assert!(!format!("{keys:?}").contains("first"));
    }
}
