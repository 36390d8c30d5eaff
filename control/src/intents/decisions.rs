//! What was decided lately.

use roomring_proto::SlotId;

use super::{REASON_BYTES, cut};

/// Most decisions kept: some days of an operator's work, or an hour of a rebalancer's.
const MOST: usize = 64;

/// Longest name of who decided, in bytes.
const BY_BYTES: usize = 64;

/// Longest text, in bytes: it names every slot of a plan.
const TEXT_BYTES: usize = 2 * REASON_BYTES;

/// Most slots named.
pub(super) const SLOTS: usize = 16;

/// One change of the intents, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Unix time at the writer, ms.
    pub time_ms: u64,
    /// The node that rebalanced, or the operator.
    pub by: String,
    /// What was decided.
    pub text: String,
    /// Why; may be empty.
    pub reason: String,
    /// Slots that it names, if they are few.
    pub slots: Vec<SlotId>,
}

/// The last decisions, ascending by the time of writing. Bounded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decisions(Vec<Decision>);

impl Decisions {
    /// Adds the latest and drops what is too much.
    pub fn push(&mut self, mut decision: Decision) {
        cut(&mut decision.by, BY_BYTES);
        cut(&mut decision.text, TEXT_BYTES);
        cut(&mut decision.reason, REASON_BYTES);
        if decision.slots.len() > SLOTS {
            decision.slots.clear();
        }
        self.0.push(decision);
        let excess = self.0.len().saturating_sub(MOST);
        self.0.drain(..excess);
    }

    /// Each, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_short_ones_are_kept() {
        let mut decisions = Decisions::default();
        for time_ms in 0..100 {
            let text = "é".repeat(TEXT_BYTES);
            let slots = (0..20).map(SlotId).collect();
            decisions.push(Decision { time_ms, by: text.clone(), text: text.clone(), reason: text, slots });
        }
        let times: Vec<u64> = decisions.iter().map(|d| d.time_ms).collect();
        assert_eq!(times, (36..100).collect::<Vec<_>>());
        let last = decisions.iter().next_back().unwrap();
        assert_eq!((last.by.len(), last.text.len(), last.reason.len()), (64, 400, 200));
        assert!(last.slots.is_empty());
    }
}
