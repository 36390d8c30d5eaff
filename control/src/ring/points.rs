//! The points of a node on the ring.
//!
//! The circle is cut into as many equal arcs as a node has points, and every node has one point in each arc. A slot's place is
//! the start of an arc (if there are as many arcs as slots), so the points that follow it are one of each node, and the
//! nearest one is its first choice. How far into its arc a point lies is random with an exponential distribution whose rate is
//! the node's weight: then the nearest point of all is each node's in proportion to its weight, and a node that gains weight
//! only moves nearer everywhere, so it takes slots and gives none.
//!
//! The distances of one node are not drawn one by one: its arcs are ranked by their hash, and the r-th of n gets the r-th
//! n-quantile of the distribution. So every node is near equally often, which halves the variance of what it gets
//! compared with points strewn over the circle. A bound on loads is seldom met then, and when a node
//! comes or goes next to nothing moves but what it gets or had.

use std::hash::{BuildHasher, Hash, Hasher};

use roomring_proto::{NodeId, limits};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Binary places of a distance: its unit is the mean distance of a node of weight 1.
const PLACES: u32 = 40;

/// log2 of a distance that is over the largest: quantile n of n = 16384 is under 11 and weight 1 stretches it by 100.
const ARC_BITS: u32 = PLACES + 11;

/// Low bits of a hash that make way for the arc's number while arcs are ranked.
const ARC_NUMBER: u64 = limits::SLOTS as u64 * 2 - 1;

/// A place on the circle, which is the range of u64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(pub(super) u64);

/// A node's point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) position: Position,
    node: u32,
}

impl Point {
    /// Which of the ring's nodes it belongs to.
    pub(super) fn node(self) -> usize {
        self.node as usize
    }
}

/// Where `part` of `parts` equal parts of the circle starts.
pub(super) fn start_of(part: u32, parts: u32) -> u64 {
    let start = (u128::from(part) << 64) / u128::from(parts.max(1));
    u64::try_from(start % (1 << 64)).expect("less than the circle")
}

/// The points of the node `id`, which is number `node` of the ring's: arc by arc.
pub(super) fn of(id: &NodeId, weight: u32, node: usize, arcs: u32) -> Vec<Point> {
    let node = u32::try_from(node).expect("far fewer nodes than a u32 counts");
    let seed = xxh3_64(id.as_str().as_bytes());
    let hash = |arc: u32| xxh3_64_with_seed(&arc.to_le_bytes(), seed);
    let mut ranked: Vec<u64> = (0..arcs).map(|arc| hash(arc) & !ARC_NUMBER | u64::from(arc)).collect();
    ranked.sort_unstable();

    let width = (1u128 << 64) / u128::from(arcs.max(1));
    let mut points = vec![Point { position: Position(0), node }; ranked.len()];
    let mut quantile = 0;
    for (rank, hashed) in (0..).zip(ranked) {
        let arc = u32::try_from(hashed & ARC_NUMBER).expect("masked");
        // Quantiles of the exponential distribution are partial sums of the harmonic series from its far end. The place
        // between two of them is the hash's: nodes of one rank in an arc must not tie.
        let step = (1u64 << PLACES) / u64::from(arcs - rank);
        let distance = quantile + fraction(step, hash(arc));
        quantile += step;
        let offset = (u128::from(distance) * 100 / u128::from(weight) * width) >> ARC_BITS;
        let offset = u64::try_from(offset).expect("within an arc");
        points[arc as usize].position = Position(start_of(arc, arcs) + offset);
    }
    points
}

/// `step` times the fraction that a hash is of its range.
fn fraction(step: u64, hash: u64) -> u64 {
    u64::try_from((u128::from(step) * u128::from(hash.rotate_left(32))) >> 64).expect("at most step")
}

/// Hands [`hashring::HashRing`] a position as its hash: points were placed by their own fixed hash already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Positions;

impl BuildHasher for Positions {
    type Hasher = Identity;
    fn build_hasher(&self) -> Identity {
        Identity(0)
    }
}

/// The number last written.
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl Hash for Position {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.position.hash(state);
    }
}
