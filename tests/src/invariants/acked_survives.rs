//! What was acknowledged is in the log, in its place, as long as the generation lasts.

use crate::model::{Outcome, World};

/// Every acknowledgement that reached the router names the place of that publish.
pub fn holds(world: &World) -> bool {
    world.router().outcomes().iter().all(|(number, outcome)| match outcome {
        Outcome::Unknown => true,
        Outcome::Acknowledged(epoch, seq) => world.ghost().publishes().any(|(generation, _, publish)| {
            let data = number.to_string();
            (generation, publish.seq.0, &*publish.data) == (epoch.generation, *seq, data.as_bytes())
        }),
    })
}
