//! What was measured is kept row by row, so that a long run can be made in pieces and shown as a whole.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::report::Line;
use crate::rows::{GROWTH, ROWS, Row};

/// One row's lines, and where and when they came to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// Where.
    pub(crate) machine: Machine,
    /// What.
    pub(crate) lines: Vec<Line>,
}

/// `bench` in cargo's target directory.
pub(crate) fn default_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("path of this program");
    exe.ancestors().nth(2).expect("it lies in target/PROFILE").join("bench")
}

/// Keeps the lines of a row.
pub(crate) fn keep(dir: &Path, row: &Row, machine: &Machine, lines: Vec<Line>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let kept = Kept { at, machine: machine.clone(), lines };
    std::fs::write(path(dir, row), serde_json::to_string_pretty(&kept).expect("plain data"))
}

/// Everything that is kept, in the order of the rows.
pub(crate) fn all(dir: &Path) -> Vec<Kept> {
    let read = |row: &Row| {
        let text = std::fs::read_to_string(path(dir, row)).ok()?;
        serde_json::from_str(&text).ok()
    };
    ROWS.iter().chain(GROWTH).filter_map(read).collect()
}

fn path(dir: &Path, row: &Row) -> PathBuf {
    dir.join(format!("{}.json", row.name))
}
