//! What a router tells: its connections, its rooms, its deliveries.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use roomring_control::daemon::metrics::{Busy, Counter, Latencies, Sink, Source};

use crate::site::RouterSite;
use crate::webhook::Webhook;

/// From the arrival of deliveries at this router to the end of the writes to its clients.
pub(crate) static DELIVERIES: Latencies = Latencies::new();
/// From the turn that took a publish to the one that had its acknowledgement.
pub(crate) static ACKNOWLEDGED: Latencies = Latencies::new();
/// Bytes written to clients' sockets.
pub(crate) static SENT_BYTES: Busy = Busy::new();
/// The calls that it took.
pub(crate) static SENT_WRITES: Busy = Busy::new();
/// What waits in the outboxes of all links.
pub(crate) static OUTBOX_BYTES: Counter = Counter::new();

/// Events that the business server took.
pub(crate) static WEBHOOK_TAKEN: Counter = Counter::new();
/// Those that it refused.
pub(crate) static WEBHOOK_REFUSED: Counter = Counter::new();
/// Those that became too old before it took them.
pub(crate) static WEBHOOK_EXPIRED: Counter = Counter::new();
/// Those that there was no room for.
pub(crate) static WEBHOOK_DROPPED: Counter = Counter::new();

/// Connections that ended, by close code.
static ENDED: Mutex<BTreeMap<Ended, u64>> = Mutex::new(BTreeMap::new());

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    /// The socket was gone.
    Gone,
    /// The client closed.
    ByClient,
    /// The router closed, with this code.
    Close(u16),
}

/// A connection ended.
pub(crate) fn ended(how: Ended) {
    *ENDED.lock().unwrap_or_else(PoisonError::into_inner).entry(how).or_default() += 1;
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("gone"),
            Self::ByClient => f.write_str("client"),
            Self::Close(code) => write!(f, "{code}"),
        }
    }
}

/// Tells all of a router's numbers.
#[derive(Debug)]
pub(crate) struct RouterMetrics(pub(crate) Arc<RouterSite>, pub(crate) Option<Arc<Webhook>>);

impl Source for RouterMetrics {
    fn tell(&self, sink: &mut Sink<'_>) -> fmt::Result {
        let site = &self.0;
        sink.build("router")?;
        let ready = u64::from(site.is_ready());
        sink.gauge("ready", "1 while the process is ready as /readyz has it.", ready)?;

        sink.gauge("router_connections", "Open client connections.", site.app.connections())?;
        sink.counter("router_connections_opened", "Client connections that were opened.", site.app.opened())?;
        let ended: Vec<(String, u64)> = {
            let ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
            ended.iter().map(|(how, n)| (how.to_string(), *n)).collect()
        };
        let ended: Vec<_> = ended.iter().map(|(how, n)| (how.as_str(), *n)).collect();
        sink.counters(
            "router_connections_ended",
            "Client connections that ended: the close code that the router gave, client = the client closed, gone = the socket broke.",
            "code",
            &ended,
        )?;

        let hub = site.hub().map(|hub| (hub.status(), hub.waiting()));
        let of = |f: fn(&crate::hub::HubStatus) -> u64| hub.as_ref().map_or(0, |(status, _)| f(status));
        sink.gauge("router_rooms", "Rooms with members here, or attached a moment ago.", of(|s| s.rooms))?;
        sink.gauge("router_members", "Memberships of clients in rooms.", of(|s| s.members))?;
        sink.counter("router_publishes", "Publishes taken from clients.", of(|s| s.publishes_total))?;
        sink.counter("router_deliveries", "Pushes put into clients' queues.", of(|s| s.deliveries_total))?;
        sink.counter(
            "router_slow_clients",
            "Clients cut off because they did not read as fast as their rooms talk.",
            of(|s| s.slow_clients_total),
        )?;
        sink.counter("router_sent_bytes", "Bytes written to clients' sockets.", SENT_BYTES.get())?;
        sink.counter(
            "router_socket_writes",
            "Writes to clients' sockets; each carries one message or many.",
            SENT_WRITES.get(),
        )?;
        sink.latencies(
            "router_delivery_seconds",
            "From the arrival of a delivery at this router to the end of the turn that wrote it to its clients' sockets; all of a turn as its oldest.",
            &DELIVERIES,
        )?;
        sink.latencies(
            "router_publish_seconds",
            "From the turn of the hub that took a publish, or what takes one back, from a client to the turn that had the primary's acknowledgement: both trips, the commit, and a failover in between.",
            &ACKNOWLEDGED,
        )?;
        sink.gauge("router_node_links", "Nodes with an open link.", of(|s| s.links.len() as u64))?;
        let waiting = hub.as_ref().map_or(0, |(_, waiting)| *waiting as u64);
        sink.gauge("router_mailbox_events", "Events that wait for the hub's workers.", waiting)?;
        sink.gauge("router_outbox_bytes", "What waits to be sent to nodes.", OUTBOX_BYTES.get())?;
        sink.counters(
            "router_webhook_events",
            "Events of [webhook] that are done with: taken by the business server, refused by it, expired = not taken in time, dropped = too many waited or the router stopped.",
            "outcome",
            &[
                ("taken", WEBHOOK_TAKEN.get()),
                ("refused", WEBHOOK_REFUSED.get()),
                ("expired", WEBHOOK_EXPIRED.get()),
                ("dropped", WEBHOOK_DROPPED.get()),
            ],
        )?;
        let waiting = self.1.as_ref().map_or(0, |webhook| webhook.waiting() as u64);
        sink.gauge("router_webhook_waiting", "Events of [webhook] that the business server is to be told.", waiting)?;
        site.cluster.tell(sink)
    }
}
