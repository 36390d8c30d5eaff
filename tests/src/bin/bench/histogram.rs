//! Counts of times by size, exact to 3 %, which can be added up over processes.

use serde::{Deserialize, Serialize};

/// Parts that each doubling is divided into.
const PARTS: u64 = 32;

/// Counts of values.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    /// Counts one.
    pub(crate) fn record(&mut self, value: u64) {
        let bucket = bucket(value);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
    }

    /// Adds another's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        let length = self.counts.len().max(other.counts.len());
        self.counts.resize(length, 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
    }

    /// How many were counted.
    pub(crate) fn len(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A value that `percent` of 100 are not above; `None` of none.
    pub(crate) fn percentile(&self, percent: f64) -> Option<u64> {
        let wanted = (self.len() as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.counts
            .iter()
            .position(|count| {
                seen += count;
                seen >= wanted
            })
            .map(|bucket| top(bucket as u64))
    }
}

fn bucket(value: u64) -> usize {
    if value < PARTS {
        return value as usize;
    }
    let shift = u64::from(value.ilog2() - PARTS.ilog2());
    (shift * PARTS + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn top(bucket: u64) -> u64 {
    if bucket < 2 * PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    ((bucket % PARTS + PARTS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_ends_at_or_above_it() {
        for value in (0..5_000).chain((12..40).flat_map(|p| [(1 << p) - 1, 1 << p, (1 << p) + 1])) {
            let end = top(bucket(value) as u64);
            assert!(end >= value && end as f64 <= value as f64 * 1.04, "{value} is in a bucket that ends at {end}");
            assert!(bucket(end + 1) == bucket(value) + 1, "{value}");
        }
    }

    #[test]
    fn percentiles_hold_after_adding_up() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        assert_eq!(a.percentile(50.0), None);
        (1..=50).for_each(|v| a.record(v));
        (51..=100).for_each(|v| b.record(v));
        a.add(&b);
        assert_eq!(a.len(), 100);
        assert_eq!(a.percentile(50.0), Some(50));
        assert!((99..=103).contains(&a.percentile(99.0).expect("some")));
    }
}
