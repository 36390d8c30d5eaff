//! Configuration values that carry their unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time, written as people write it: `500ms`, `60s`, `5m`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Span(pub Duration);

/// An amount of memory: bytes, or with a unit, `64KiB`, `1MiB`, `2GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct ByteSize(pub u64);

impl Span {
    /// A span of whole seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        humantime::parse_duration(s).map(Self).map_err(|_| "expected a duration such as 60s".to_owned())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

const UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (digits, unit) =
            UNITS.iter().find_map(|(name, unit)| s.strip_suffix(name).map(|d| (d, *unit))).unwrap_or((s, 1));
        digits
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| "expected a size such as 65536, 64KiB or 1MiB".to_owned())
    }
}

/// In the largest binary unit that divides it.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) =
            UNITS[..3].iter().find(|(_, u)| self.0 >= *u && self.0.is_multiple_of(*u)).unwrap_or(&("", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl From<Span> for String {
    fn from(s: Span) -> Self {
        s.to_string()
    }
}

impl From<ByteSize> for String {
    fn from(s: ByteSize) -> Self {
        s.to_string()
    }
}

/// A value with a unit as a file gives it: quoted, or a bare number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Quoted(String),
    Number(i64),
    // Last: catches the rest, so that the message is ours rather than serde's.
    Other(serde::de::IgnoredAny),
}

impl Text {
    fn parse<T: FromStr>(self) -> Result<T, T::Err> {
        match self {
            Self::Quoted(s) => s.parse(),
            Self::Number(n) => n.to_string().parse(),
            Self::Other(_) => "?".parse(),
        }
    }
}

impl TryFrom<Text> for Span {
    type Error = String;
    fn try_from(t: Text) -> Result<Self, String> {
        t.parse()
    }
}

impl TryFrom<Text> for ByteSize {
    type Error = String;
    fn try_from(t: Text) -> Result<Self, String> {
        t.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_write() {
        for (text, bytes, shown) in [
            ("65536", 65_536, "64KiB"),
            ("1MiB", 1 << 20, "1MiB"),
            ("3 GiB", 3 << 30, "3GiB"),
            ("2MB", 2_000_000, "2000000"),
            ("0", 0, "0"),
            ("7B", 7, "7"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "99999999999GiB", "1 Mi"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_read_and_write() {
        assert_eq!("1m 30s".parse::<Span>().unwrap(), Span::secs(90));
        assert_eq!("250ms".parse::<Span>().unwrap().to_string(), "250ms");
        for bad in ["", "60", "sixty", "-1s"] {
            assert_eq!(bad.parse::<Span>().unwrap_err(), "expected a duration such as 60s", "{bad}");
        }
    }
}
