//! What both kinds of connection check of a hello.

use std::time::Duration;

use roomring_proto::{Incarnation, LINK_VERSION, NodeId, v1};
use tonic::Status;

/// How long the first message of a connection may take; routers and nodes send it at once.
pub(crate) const HELLO_DEADLINE: Duration = Duration::from_secs(3);

/// How long nothing may come before a connection is given up: a dozen missed heartbeats.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// The fields that the hellos of routers and nodes have in common.
pub(crate) struct Claims<'a> {
    pub(crate) version: Option<v1::Version>,
    pub(crate) cluster: &'a str,
    pub(crate) id: &'a str,
    pub(crate) incarnation: u64,
}

/// Checks a hello: who speaks, and as which process.
pub(crate) fn check(claims: &Claims<'_>, cluster: &NodeId) -> Result<(NodeId, Incarnation), Status> {
    let theirs = claims.version.ok_or_else(|| Status::invalid_argument("hello: `version` is missing"))?;
    if theirs.major != LINK_VERSION.major {
        return Err(Status::failed_precondition(format!(
            "link protocol {}.{} is not spoken here: this node speaks {}.{}",
            theirs.major, theirs.minor, LINK_VERSION.major, LINK_VERSION.minor
        )));
    }
    if claims.cluster != cluster.as_str() {
        let theirs: String = claims.cluster.chars().take(64).collect();
        return Err(Status::failed_precondition(format!("this node belongs to cluster {cluster:?}, not {theirs:?}")));
    }
    let id = NodeId::new(claims.id).map_err(|e| Status::invalid_argument(format!("hello: {e}")))?;
    if claims.incarnation == 0 {
        return Err(Status::invalid_argument("hello: the incarnation is missing"));
    }
    Ok((id, Incarnation(claims.incarnation)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_error() {
        let cluster = NodeId::new("ours").unwrap();
        let good = || Claims { version: Some(LINK_VERSION), cluster: "ours", id: "r-1", incarnation: 9 };
        assert_eq!(check(&good(), &cluster).unwrap(), (NodeId::new("r-1").unwrap(), Incarnation(9)));
        let newer_minor = v1::Version { major: LINK_VERSION.major, minor: 77 };
        assert!(check(&Claims { version: Some(newer_minor), ..good() }, &cluster).is_ok());

        let says = |claims: Claims<'_>| check(&claims, &cluster).unwrap_err().message().to_owned();
        assert_eq!(says(Claims { version: None, ..good() }), "hello: `version` is missing");
        assert_eq!(
            says(Claims { version: Some(v1::Version { major: 2, minor: 5 }), ..good() }),
            "link protocol 2.5 is not spoken here: this node speaks 1.0"
        );
        assert_eq!(says(Claims { cluster: "other", ..good() }), "this node belongs to cluster ours, not \"other\"");
        assert!(says(Claims { id: "a/b", ..good() }).starts_with("hello: node id may only have"));
        assert_eq!(says(Claims { incarnation: 0, ..good() }), "hello: the incarnation is missing");
    }
}
