//! What is committed stays.

use crate::model::World;

/// No place ever had two committed entries, and no commit point goes back (judged as it happens).
pub fn holds(world: &World) -> bool {
    !world.ghost().is_contradicted()
}
