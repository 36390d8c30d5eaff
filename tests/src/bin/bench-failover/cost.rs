//! What a second copy costs a publish: two clusters side by side, asked in turns, so that both meet the same weather.

use std::time::Duration;

use roomring_tests::{Cluster, Options, Times, Weight};

use crate::audience::Audience;

/// One turn.
const TURN: Duration = Duration::from_secs(5);
/// Turns of each.
const TURNS: usize = 6;
/// Rooms, with two members each.
const ROOMS: usize = 200;

/// How long publishes take with one copy, and with two.
pub(crate) async fn of_a_second_copy(rate: u32) -> [Times; 2] {
    let mut stages = Vec::new();
    for replication in [1, 2] {
        let options =
            Options { weight: Weight::Light, replication, fence_after: "60s", lease_ttl: "20s", ..Options::default() };
        let cluster = Cluster::start(options).await;
        let audience = Audience::gather(&cluster.http(), ROOMS, 2 * ROOMS).await;
        stages.push((cluster, audience, Times::default()));
    }
    for turn in 0..=TURNS {
        for (_, audience, times) in &mut stages {
            let steady = audience.steady(rate);
            tokio::time::sleep(TURN).await;
            let (took, failed) = steady.stop().await;
            assert_eq!((failed.refused, failed.unknown), (0, 0), "nothing is wrong with the cluster");
            // The first turn warms everything up.
            if turn > 0 {
                times.extend(took);
            }
        }
    }
    let mut times = stages.into_iter().map(|(_, _, times)| times);
    [times.next().expect("two"), times.next().expect("two")]
}
