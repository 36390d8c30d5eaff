//! Once the trouble ends, the slot serves.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::model::{SlotModel, World};

/// From this state, without further trouble, the router becomes attached to a promoted primary and every publish is answered.
/// States are looked at one in so many, chosen by their hash.
pub fn holds(model: &SlotModel, world: &World) -> bool {
    let one_in = model.bounds.calm_one_in;
    if one_in == 0 || world.broken().is_some() {
        return true;
    }
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(world);
    !hash.is_multiple_of(one_in) || serves(&world.calm(model))
}

/// Whether a state that calmed down serves; one without any process cannot.
pub fn serves(calm: &World) -> bool {
    calm.processes().is_empty() || (calm.router().attached().is_some() && !calm.router().waits())
}
