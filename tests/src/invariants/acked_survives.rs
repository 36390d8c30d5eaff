//! What was acknowledged is in the log, in its place, as long as the generation lasts; what was refused is not.

use crate::model::{Outcome, World};

/// Every acknowledgement that reached the client names the place of that publish, and nothing that was refused to it, so that
/// it may be tried again, was committed.
pub fn holds(world: &World) -> bool {
    world.router().outcomes().iter().all(|(number, outcome)| match outcome {
        Outcome::Unknown => true,
        Outcome::Refused => world.ghost().publishes().all(|(_, _, publish)| publish.data != number.to_string()),
        Outcome::Acknowledged(epoch, seq) => world.ghost().publishes().any(|(generation, _, publish)| {
            let data = number.to_string();
            (generation, publish.seq.0, &*publish.data) == (epoch.generation, *seq, data.as_bytes())
        }),
    })
}
