//! Registry values as bytes: nodes and routers. What comes in is checked whole.

use prost::Message;
use roomring_proto::{Incarnation, Malformed, v1};

use crate::placement::WEIGHT;
use crate::view::{NodeEntry, RouterEntry};

/// Longest home, address, zone or release, in bytes: host names end at 253.
const TEXT_BYTES: usize = 300;

impl NodeEntry {
    /// Reads the value of a node's key that was last written at etcd's `mod_revision`.
    ///
    /// # Errors
    /// The field that breaks its rule.
    pub fn decode(value: &[u8], mod_revision: i64) -> Result<Self, Malformed> {
        let info = v1::NodeInfo::decode(value).map_err(|e| Malformed(format!("node info: {e}")))?;
        if info.weight > WEIGHT {
            return Err(Malformed(format!("weight is {}, the limit is {WEIGHT}", info.weight)));
        }
        Ok(Self {
            incarnation: incarnation(info.incarnation, mod_revision)?,
            home: text("home", info.home, 1)?,
            grpc_addr: text("grpc_addr", info.grpc_addr, 1)?,
            zone: text("zone", info.zone, 0)?,
            weight: info.weight,
            draining: info.draining,
            release: text("release", info.release, 0)?,
            max_format: info.max_format,
            watch_addr: text("watch_addr", info.watch_addr, 0)?,
        })
    }
}

impl RouterEntry {
    /// Reads the value of a router's key that was last written at etcd's `mod_revision`.
    ///
    /// # Errors
    /// The field that breaks its rule.
    pub fn decode(value: &[u8], mod_revision: i64) -> Result<Self, Malformed> {
        let info = v1::RouterInfo::decode(value).map_err(|e| Malformed(format!("router info: {e}")))?;
        Ok(Self {
            incarnation: incarnation(info.incarnation, mod_revision)?,
            grpc_addr: text("grpc_addr", info.grpc_addr, 1)?,
            http_addr: text("http_addr", info.http_addr, 0)?,
            release: text("release", info.release, 0)?,
            watch_addr: text("watch_addr", info.watch_addr, 0)?,
        })
    }
}

/// A process that writes its first value does not know its incarnation yet: it is that write's revision.
fn incarnation(given: u64, mod_revision: i64) -> Result<Incarnation, Malformed> {
    let own = u64::try_from(mod_revision).unwrap_or(0);
    match if given == 0 { own } else { given } {
        0 => Err(Malformed("incarnation is 0".into())),
        i => Ok(Incarnation(i)),
    }
}

fn text(field: &str, value: String, min: usize) -> Result<String, Malformed> {
    let len = value.len();
    if (min..=TEXT_BYTES).contains(&len) {
        Ok(value)
    } else {
        Err(Malformed(format!("{field} has {len} bytes, it must have {min} to {TEXT_BYTES}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> v1::NodeInfo {
        v1::NodeInfo { home: "h".into(), grpc_addr: "a:1".into(), weight: 100, max_format: 1, ..Default::default() }
    }

    #[test]
    fn the_first_write_is_the_incarnation() {
        let first = NodeEntry::decode(&info().encode_to_vec(), 42).unwrap();
        assert_eq!(first.incarnation, Incarnation(42));
        let again = v1::NodeInfo { incarnation: 42, draining: true, ..info() };
        let again = NodeEntry::decode(&again.encode_to_vec(), 50).unwrap();
        assert_eq!((again.incarnation, again.draining), (Incarnation(42), true));
    }

    #[test]
    fn bad_nodes_are_refused_by_field() {
        for (bad, says) in [
            (v1::NodeInfo { weight: 10_001, ..info() }, "weight is 10001"),
            (v1::NodeInfo { home: String::new(), ..info() }, "home has 0 bytes"),
            (v1::NodeInfo { grpc_addr: "x".repeat(301), ..info() }, "grpc_addr has 301 bytes"),
        ] {
            let error = NodeEntry::decode(&bad.encode_to_vec(), 50).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(NodeEntry::decode(b"\xff", 50).is_err());
        assert!(NodeEntry::decode(&info().encode_to_vec(), 0).is_err());
    }
}
