//! A load that is uneven as real ones are: few rooms are busy, most are not (Zipf's law).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use roomring_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::Client;
use crate::cluster::holder;

/// Connections that publish.
const PUBLISHERS: u32 = 8;

/// Rooms by how busy they are.
#[derive(Debug, Clone)]
pub struct Skew {
    rooms: Vec<String>,
    /// Of each room and all before it.
    cumulative: Vec<f64>,
}

/// Publishers at work, and what was acknowledged.
#[derive(Debug)]
pub struct SkewedTraffic {
    skew: Arc<Skew>,
    acked: Arc<Vec<AtomicU64>>,
    failed: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    publishers: JoinSet<()>,
}

impl Skew {
    /// The n-th of `rooms` rooms gets n^-exponent of the load. Another seed gives other names, so other slots.
    pub fn zipf(rooms: u32, exponent: f64, seed: u32) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=rooms).map(|n| {
            sum += f64::from(n).powf(-exponent);
            sum
        });
        let cumulative = cumulative.collect();
        Self { rooms: (1..=rooms).map(|n| format!("zipf-{seed}-{n}")).collect(), cumulative }
    }

    /// What the busiest node would carry over what nodes carry on average, if rooms stay where `placement` has them.
    pub fn expected(&self, placement: &v1::Placement) -> f64 {
        let weight = |n: usize| self.cumulative[n] - if n == 0 { 0.0 } else { self.cumulative[n - 1] };
        hottest(placement, self.rooms.iter().enumerate().map(|(n, room)| (room.as_str(), weight(n))))
    }

    fn pick(&self, rng: &mut SmallRng) -> usize {
        let at = rng.random_range(0.0..self.cumulative.last().copied().unwrap_or(1.0));
        self.cumulative.partition_point(|sum| *sum <= at).min(self.rooms.len() - 1)
    }
}

/// The busiest node's load over the mean of all active members.
fn hottest<'a>(placement: &v1::Placement, loads: impl Iterator<Item = (&'a str, f64)>) -> f64 {
    let members = placement.members.iter().filter(|m| m.active);
    let mut by_node: BTreeMap<&str, f64> = members.map(|m| (m.node_id.as_str(), 0.0)).collect();
    let mut total = 0.0;
    for (room, load) in loads {
        *by_node.entry(holder(placement, room)).or_default() += load;
        total += load;
    }
    let mean = total / by_node.len() as f64;
    by_node.values().copied().fold(0.0, f64::max) / mean
}

impl SkewedTraffic {
    /// `rate` publishes a second over all rooms.
    pub async fn start(routers: &[SocketAddr], skew: Skew, rate: u32) -> Self {
        let skew = Arc::new(skew);
        let acked: Arc<Vec<AtomicU64>> = Arc::new(skew.rooms.iter().map(|_| AtomicU64::new(0)).collect());
        let failed = Arc::new(AtomicU64::new(0));
        let stop = watch::Sender::new(false);
        let mut publishers = JoinSet::new();
        for (n, router) in (0..PUBLISHERS).zip(routers.iter().cycle()) {
            let client = Arc::new(Client::connect(*router, &format!("speaker-{n}")).await);
            let (skew, acked, failed) = (Arc::clone(&skew), Arc::clone(&acked), Arc::clone(&failed));
            let mut stop = stop.subscribe();
            publishers.spawn(async move {
                let mut rng = SmallRng::seed_from_u64(n.into());
                let mut ticks = interval(Duration::from_secs(1) * PUBLISHERS / rate.max(1));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut flying = JoinSet::new();
                loop {
                    tokio::select! {
                        _ = ticks.tick() => {}
                        _ = stop.wait_for(|stop| *stop) => break,
                    }
                    let room = skew.pick(&mut rng);
                    let (skew, acked, failed, client) =
                        (Arc::clone(&skew), Arc::clone(&acked), Arc::clone(&failed), Arc::clone(&client));
                    flying.spawn(async move {
                        match client.publish(&skew.rooms[room], "x".repeat(50)).await {
                            Ok(()) => acked[room].fetch_add(1, Ordering::Relaxed),
                            Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                        };
                    });
                    while flying.try_join_next().is_some() {}
                }
                flying.join_all().await;
            });
        }
        Self { skew, acked, failed, stop, publishers }
    }

    /// Publishes acknowledged in each room so far.
    pub fn acked(&self) -> Vec<u64> {
        self.acked.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// What the busiest node carried over the mean, by what was acknowledged since `before` and where `placement` has the rooms.
    pub fn hottest_since(&self, before: &[u64], placement: &v1::Placement) -> f64 {
        let counted = self.acked().into_iter().zip(before).map(|(now, before)| (now - before) as f64);
        hottest(placement, self.skew.rooms.iter().map(String::as_str).zip(counted))
    }

    /// Ends it; gives how many publishes were acknowledged and how many not.
    pub async fn stop(self) -> (u64, u64) {
        self.stop.send_replace(true);
        self.publishers.join_all().await;
        let acked = self.acked.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        (acked, self.failed.load(Ordering::Relaxed))
    }
}
