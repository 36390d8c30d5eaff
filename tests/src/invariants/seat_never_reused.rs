//! A seat that went does not come back.

use roomring_control::placement::Placement;

/// A seat that a write adds is named after that write.
pub fn judge(before: &Placement, after: &Placement) -> bool {
    let known = |seat| before.slots[0].seats().any(|s| s == seat);
    after.slots[0].seats().all(|seat| known(seat) || seat.since == after.version)
}
