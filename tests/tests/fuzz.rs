//! Every target of `make fuzz` on the inputs that are kept, and on changed ones.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roomring_tests::evidence;
use roomring_tests::fuzz::{TARGETS, Target};

/// Inputs of each target beside those that are kept.
const CHANGED: usize = 50_000;

/// Kept inputs of a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file of ours")).collect()
}

/// A kept input with some bytes changed, left out, or from another one.
fn change(rng: &mut StdRng, kept: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = kept[rng.random_range(0..kept.len())].clone();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => _ = bytes.remove(at),
            2 => bytes.insert(at, rng.random()),
            _ => {
                let other = &kept[rng.random_range(0..kept.len())];
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
        }
    }
    bytes
}

fn feed(name: &str, target: Target) {
    let kept = corpus(name);
    assert!(!kept.is_empty(), "{name} has inputs");
    kept.iter().for_each(|input| target(input));
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..CHANGED {
        target(&change(&mut rng, &kept));
    }
    evidence(format!("{name}: {} kept inputs and {CHANGED} changed ones", kept.len()));
}

#[test]
fn nothing_from_outside_stops_us() {
    for (name, target) in TARGETS {
        feed(name, target);
    }
}
