//! Whose turn it is on a small machine: heavy tests run alone, light ones beside each other.

use std::fs::File;
use std::path::PathBuf;

/// How much of the machine a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A handful of clients: runs beside other light ones.
    Light,
    /// Needs the machine for itself.
    Heavy,
}

/// A test's turn; others wait until it is dropped. Holds between test binaries and runs of cargo too, by a file's lock.
#[derive(Debug)]
pub struct Turn {
    _file: File,
}

impl Turn {
    /// Waits for the turn. Blocks the thread: taken before anything runs.
    pub fn wait(weight: Weight) -> Self {
        let path = lock_path();
        let file = File::options().create(true).append(true).open(&path);
        let file = file.unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
        let locked = match weight {
            Weight::Light => file.lock_shared(),
            Weight::Heavy => file.lock(),
        };
        locked.unwrap_or_else(|e| panic!("lock {}: {e}", path.display()));
        Self { _file: file }
    }
}

fn lock_path() -> PathBuf {
    crate::process::binary_dir().join("roomring-tests.lock")
}
