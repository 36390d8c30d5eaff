//! The intents as bytes. What comes in is checked whole.

use prost::Message;
use roomring_proto::{Malformed, NodeId, SlotId, limits, v1};
use v1::r#override::Origin as WireOrigin;

use super::decisions::SLOTS;
use super::{Decision, Decisions, Intents, Origin, Override, REASON_BYTES, cut};
use crate::placement::WEIGHT;

/// Most entries of each kind: a pin for every slot fits.
const ENTRIES: usize = limits::SLOTS as usize;

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
            if len > ENTRIES {
                return Err(Malformed(format!("{field} has {len} entries, the limit is {ENTRIES}")));
            }
        }
        let weight = |(id, weight): (String, u32)| match weight {
            0..=WEIGHT => Ok((NodeId::new(&id)?, weight)),
            _ => Err(Malformed(format!("weight of {id} is {weight}, the limit is {WEIGHT}"))),
        };
        let pin = |(slot, id): (u32, String)| Ok::<_, Malformed>((SlotId(slot), NodeId::new(&id)?));
        let moved = |(slot, o): (u32, v1::Override)| Ok::<_, Malformed>((SlotId(slot), Override::read(o)?));
        let mut decisions = Decisions::default();
        m.decisions.into_iter().map(Decision::read).for_each(|d| decisions.push(d));
        Ok(Self {
            drained: m.drained.iter().map(|id| Ok(NodeId::new(id)?)).collect::<Result<_, Malformed>>()?,
            weights: m.weights.into_iter().map(weight).collect::<Result<_, _>>()?,
            pins: m.pins.into_iter().map(pin).collect::<Result<_, _>>()?,
            overrides: m.overrides.into_iter().map(moved).collect::<Result<_, _>>()?,
            rebalancing_off: m.rebalancing_off,
            decisions,
        })
    }

    /// The intents as [`v1::Intents`].
    pub fn encode(&self) -> Vec<u8> {
        v1::Intents {
            drained: self.drained.iter().map(NodeId::to_string).collect(),
            weights: self.weights.iter().map(|(n, w)| (n.to_string(), *w)).collect(),
            pins: self.pins.iter().map(|(s, n)| (s.0, n.to_string())).collect(),
            overrides: self.overrides.iter().map(|(s, o)| (s.0, o.wire())).collect(),
            rebalancing_off: self.rebalancing_off,
            decisions: self.decisions.iter().map(Decision::wire).collect(),
        }
        .encode_to_vec()
    }
}

impl Override {
    fn read(o: v1::Override) -> Result<Self, Malformed> {
        let origin = match o.origin() {
            WireOrigin::Rebalancer => Origin::Rebalancer,
            // One that is not known is not the rebalancer's to drop.
            WireOrigin::Operator | WireOrigin::Unspecified => Origin::Operator,
        };
        let mut reason = o.reason;
        cut(&mut reason, REASON_BYTES);
        Ok(Self { node: NodeId::new(&o.node_id)?, origin, time_ms: o.time_ms, reason })
    }

    fn wire(&self) -> v1::Override {
        let origin = match self.origin {
            Origin::Operator => WireOrigin::Operator,
            Origin::Rebalancer => WireOrigin::Rebalancer,
        };
        let mut reason = self.reason.clone();
        cut(&mut reason, REASON_BYTES);
        v1::Override { node_id: self.node.to_string(), origin: origin.into(), time_ms: self.time_ms, reason }
    }
}

impl Decision {
    fn read(d: v1::Decision) -> Self {
        let slots = d.slots.into_iter().take(SLOTS + 1).map(SlotId).collect();
        Self { time_ms: d.time_ms, by: d.by, text: d.text, reason: d.reason, slots }
    }

    fn wire(&self) -> v1::Decision {
        v1::Decision {
            time_ms: self.time_ms,
            by: self.by.clone(),
            text: self.text.clone(),
            reason: self.reason.clone(),
            slots: self.slots.iter().map(|s| s.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intents_read_back() {
        let id = |s| NodeId::new(s).unwrap();
        let moved = |origin| Override { node: id("d"), origin, time_ms: 7, reason: "hot".to_owned() };
        let mut decisions = Decisions::default();
        let slots = vec![SlotId(4), SlotId(5)];
        decisions.push(Decision { time_ms: 7, by: "a".into(), text: "move".into(), reason: "hot".into(), slots });
        let intents = Intents {
            drained: [id("a")].into(),
            weights: [(id("b"), 50)].into(),
            pins: [(SlotId(3), id("c"))].into(),
            overrides: [(SlotId(4), moved(Origin::Operator)), (SlotId(5), moved(Origin::Rebalancer))].into(),
            rebalancing_off: true,
            decisions,
        };
        assert_eq!(Intents::decode(&intents.encode()).unwrap(), intents);
    }

    #[test]
    fn bad_values_are_refused_by_field() {
        let bad = v1::Intents { drained: vec!["a b".into()], ..Default::default() };
        assert!(Intents::decode(&bad.encode_to_vec()).is_err());
        let bad = v1::Intents { weights: [("a".to_owned(), 20_000)].into(), ..Default::default() };
        assert!(Intents::decode(&bad.encode_to_vec()).unwrap_err().to_string().contains("weight of a is 20000"));
        let bad = v1::Intents { overrides: [(3, v1::Override::default())].into(), ..Default::default() };
        assert!(Intents::decode(&bad.encode_to_vec()).is_err());
        assert!(Intents::decode(b"\xff").is_err());
    }
}
