//! Which build a process is.

use std::sync::LazyLock;

/// The release, as processes tell it to each other.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from, where whoever built it said so: `make dist` does. A plain `cargo build` does not, or it
/// would build everything anew with every commit.
pub const REVISION: Option<&str> = match option_env!("ROOMRING_REVISION") {
    Some(revision) if !revision.is_empty() => Some(revision),
    // Sources without their history have none.
    _ => None,
};

/// What `--version` says after the program's name.
pub fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| match REVISION {
        Some(revision) => format!("{RELEASE} ({revision})"),
        None => RELEASE.to_owned(),
    });
    &TEXT
}
