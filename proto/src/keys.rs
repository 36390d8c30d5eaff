//! Layout of a cluster's keys in etcd.

use crate::NodeId;

/// The keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
    denials: String,
}

impl Keys {
    /// Keys of the cluster `cluster`, whose name follows the rules of [`NodeId`].
    pub fn new(cluster: &NodeId) -> Self {
        Self { prefix: format!("/roomring/{cluster}/"), denials: format!("/roomring/{cluster}:denials/") }
    }

    /// What every key of the cluster begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A node's registration: [`crate::v1::NodeInfo`], leased.
    pub fn node(&self, id: &NodeId) -> String {
        format!("{}nodes/{id}", self.prefix)
    }

    /// What every node's key begins with.
    pub fn nodes(&self) -> String {
        format!("{}nodes/", self.prefix)
    }

    /// A router's registration: [`crate::v1::RouterInfo`], leased.
    pub fn router(&self, id: &NodeId) -> String {
        format!("{}routers/{id}", self.prefix)
    }

    /// What every router's key begins with.
    pub fn routers(&self) -> String {
        format!("{}routers/", self.prefix)
    }

    /// What operators and the rebalancer want: [`crate::v1::Intents`].
    pub fn intents(&self) -> String {
        format!("{}intents", self.prefix)
    }

    /// What every [`crate::v1::Denial`] begins with. Not under [`Self::prefix`], whose keys every process compares all the time.
    pub fn denials(&self) -> &str {
        &self.denials
    }

    /// Where every slot is: [`crate::v1::Placement`].
    pub fn placement(&self) -> String {
        format!("{}placement", self.prefix)
    }
}
