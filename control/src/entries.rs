//! Registry values as bytes: nodes, routers, intents. What comes in is checked whole.

use prost::Message;
use roomring_proto::{Incarnation, Malformed, NodeId, SlotId, limits, v1};

use crate::placement::WEIGHT;
use crate::view::{Intents, NodeEntry, RouterEntry};

/// Longest home, address, zone or release, in bytes: host names end at 253.
const TEXT_BYTES: usize = 300;

/// Most entries of each kind in the intents: a pin for every slot fits.
const INTENTS: usize = limits::SLOTS as usize;

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

impl Intents {
    /// Reads the value of the intents' key.
    ///
    /// # Errors
    /// The field that breaks its rule.
    pub fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let m = v1::Intents::decode(value).map_err(|e| Malformed(format!("intents: {e}")))?;
        for (field, len) in [
            ("drained", m.drained.len()),
            ("weights", m.weights.len()),
            ("pins", m.pins.len()),
            ("overrides", m.overrides.len()),
        ] {
            if len > INTENTS {
                return Err(Malformed(format!("{field} has {len} entries, the limit is {INTENTS}")));
            }
        }
        let weight = |(id, weight): (String, u32)| match weight {
            0..=WEIGHT => Ok((NodeId::new(&id)?, weight)),
            _ => Err(Malformed(format!("weight of {id} is {weight}, the limit is {WEIGHT}"))),
        };
        let slot = |(slot, id): (u32, String)| Ok::<_, Malformed>((SlotId(slot), NodeId::new(&id)?));
        Ok(Self {
            drained: m.drained.iter().map(|id| Ok(NodeId::new(id)?)).collect::<Result<_, Malformed>>()?,
            weights: m.weights.into_iter().map(weight).collect::<Result<_, _>>()?,
            pins: m.pins.into_iter().map(slot).collect::<Result<_, _>>()?,
            overrides: m.overrides.into_iter().map(slot).collect::<Result<_, _>>()?,
        })
    }

    /// The intents as [`v1::Intents`].
    pub fn encode(&self) -> Vec<u8> {
        let slots =
            |m: &std::collections::BTreeMap<SlotId, NodeId>| m.iter().map(|(s, n)| (s.0, n.to_string())).collect();
        v1::Intents {
            drained: self.drained.iter().map(NodeId::to_string).collect(),
            weights: self.weights.iter().map(|(n, w)| (n.to_string(), *w)).collect(),
            pins: slots(&self.pins),
            overrides: slots(&self.overrides),
        }
        .encode_to_vec()
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

    #[test]
    fn intents_read_back() {
        let id = |s| NodeId::new(s).unwrap();
        let intents = Intents {
            drained: [id("a")].into(),
            weights: [(id("b"), 50)].into(),
            pins: [(SlotId(3), id("c"))].into(),
            overrides: [(SlotId(4), id("d"))].into(),
        };
        assert_eq!(Intents::decode(&intents.encode()).unwrap(), intents);
        let bad = v1::Intents { drained: vec!["a b".into()], ..Default::default() };
        assert!(Intents::decode(&bad.encode_to_vec()).is_err());
        let bad = v1::Intents { weights: [("a".to_owned(), 20_000)].into(), ..Default::default() };
        assert!(Intents::decode(&bad.encode_to_vec()).unwrap_err().to_string().contains("weight of a is 20000"));
    }
}
