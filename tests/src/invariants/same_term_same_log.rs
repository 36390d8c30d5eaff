//! An entry of a term is the same wherever it is, and so is everything before it.

use roomring_node::slot::inspect::Held;

use crate::model::World;

/// Two logs that agree on the term of an entry agree up to there.
pub fn holds(world: &World) -> bool {
    let held: Vec<Held<'_>> = world.processes().values().filter_map(|p| p.slot().held()).collect();
    held.iter().enumerate().all(|(i, a)| held[i + 1..].iter().all(|b| agree(*a, *b)))
}

fn agree(a: Held<'_>, b: Held<'_>) -> bool {
    if a.generation() != b.generation() {
        return true;
    }
    let both = a.entries().filter_map(|entry| Some((entry, b.entry(entry.lsn)?)));
    let mut differed = false;
    for (of_a, of_b) in both {
        if of_a.term == of_b.term && (differed || of_a != of_b) {
            return false;
        }
        differed |= of_a != of_b;
    }
    true
}
