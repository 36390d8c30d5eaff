//! Who carries how much.

use std::collections::BTreeMap;

use roomring_proto::NodeId;

/// What one node carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Messages a second.
    pub load: f64,
    /// What its weight makes its share of the whole.
    pub fair: f64,
}

/// What each node that takes slots carries.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Balance(pub BTreeMap<NodeId, Share>);

impl Share {
    /// How many times its share it carries; 1 for a node without a share, which only has what is pinned to it.
    pub fn ratio(&self) -> f64 {
        if self.fair > 0.0 { self.load / self.fair } else { 1.0 }
    }
}

impl Balance {
    /// `loads` of nodes with these weights in percent. Load on others is not theirs to carry, and left out.
    pub(super) fn new(weights: &BTreeMap<NodeId, u32>, loads: &BTreeMap<NodeId, f64>) -> Self {
        let load = |node: &NodeId| loads.get(node).copied().unwrap_or(0.0);
        let total: f64 = weights.keys().map(load).sum();
        let whole: f64 = weights.values().map(|w| f64::from(*w)).sum();
        let fair = |weight: u32| if whole > 0.0 { total * f64::from(weight) / whole } else { 0.0 };
        Self(weights.iter().map(|(n, w)| (n.clone(), Share { load: load(n), fair: fair(*w) })).collect())
    }

    /// Load of all nodes together.
    pub fn total(&self) -> f64 {
        self.0.values().map(|s| s.load).sum()
    }

    /// The node that carries the most for its share, and how many times its share that is.
    pub fn hottest(&self) -> Option<(&NodeId, f64)> {
        self.0.iter().map(|(n, s)| (n, s.ratio())).max_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// As [`Balance::hottest`], only how much; 1 if there is nobody.
    pub fn highest(&self) -> f64 {
        self.hottest().map_or(1.0, |(_, ratio)| ratio)
    }
}
