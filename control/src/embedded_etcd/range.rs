//! A range of keys as etcd writes it.

use std::ops::Bound;

/// `[key, range_end)`, with etcd's two special ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyRange {
    /// `range_end` empty: this key alone.
    One(Vec<u8>),
    /// `range_end` a single zero byte: this key and every later one.
    From(Vec<u8>),
    /// Up to, and without, the second.
    Between(Vec<u8>, Vec<u8>),
}

impl KeyRange {
    pub(super) fn new(key: &[u8], end: &[u8]) -> Self {
        match end {
            [] => Self::One(key.to_vec()),
            [0] => Self::From(key.to_vec()),
            _ => Self::Between(key.to_vec(), end.to_vec()),
        }
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(k) => k == key,
            Self::From(k) => k.as_slice() <= key,
            Self::Between(k, end) => k.as_slice() <= key && key < end.as_slice(),
        }
    }

    /// No key can be in it.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Between(k, end) if k >= end)
    }

    /// Bounds for a sorted map. Not for an empty range: maps panic on those.
    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::One(k) => (Bound::Included(k), Bound::Included(k)),
            Self::From(k) => (Bound::Included(k), Bound::Unbounded),
            Self::Between(k, end) => (Bound::Included(k), Bound::Excluded(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds() {
        let one = KeyRange::new(b"a", b"");
        assert!(one.contains(b"a") && !one.contains(b"aa"));
        let from = KeyRange::new(b"b", b"\0");
        assert!(from.contains(b"b") && from.contains(b"zz") && !from.contains(b"a"));
        let prefix = KeyRange::new(b"a/", b"a0");
        assert!(prefix.contains(b"a/") && prefix.contains(b"a/x") && !prefix.contains(b"a0"));
        assert!(KeyRange::new(b"b", b"a").is_empty());
    }
}
