//! Waiting with a deadline, and saying what for.

use std::future::Future;
use std::time::{Duration, Instant};

/// Between two looks at a condition that has no event to wait for.
const POLL: Duration = Duration::from_millis(25);

/// Looks until `probe` gives a value, for at most `limit`.
///
/// # Panics
/// When the time is over, naming `what`.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Awaits `future` for at most `limit`.
///
/// # Panics
/// When the time is over, naming `what`.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} for: {what}"),
    }
}

/// Prints what shows that an injected fault took effect (visible with `--nocapture` and when the test fails).
pub fn evidence(text: impl AsRef<str>) {
    println!("EVIDENCE {}", text.as_ref());
}
