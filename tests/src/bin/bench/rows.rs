//! The workloads.

use crate::peers::Setup;

/// Deliveries that are under way in a saturated system: 32 messages in one room of 1,000, about 3 in each of 100 rooms of 100.
const BACKLOG: u64 = 32_768;

/// What is done to each server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// As `ROWS=` names it.
    pub(crate) name: &'static str,
    /// As people read it.
    pub(crate) title: &'static str,
    /// Rooms.
    pub(crate) rooms: usize,
    /// Members of each.
    pub(crate) members: usize,
    /// What is done.
    pub(crate) kind: Kind,
    /// How ours is set up.
    pub(crate) nodes: usize,
    /// Routers of ours.
    pub(crate) routers: usize,
    /// Copies of ours.
    pub(crate) replication: u32,
    /// Slots of ours.
    pub(crate) slots: u32,
    /// More flags of our nodes.
    pub(crate) flags: &'static [&'static str],
    /// Load processes, at least.
    pub(crate) loads: usize,
    /// Who takes part.
    pub(crate) who: Who,
}

/// Which servers a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Everybody.
    All,
    /// Ours alone: others have no such setting, or one process of theirs can't hold it.
    Ours,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Messages of so many bytes; so many deliveries are always under way. Then half of the rate that came of it.
    Saturated { payload: usize, backlog: u64 },
    /// Messages of so many bytes, so many deliveries a second.
    Rate { payload: usize, rate: f64 },
    /// Members come, stay, and subscribe to so many more rooms.
    Connections { more: usize },
    /// All members lose their connection and come back at the same moment.
    Rush,
    /// Members come, each makes so many rooms of its own, and a node dies.
    Rooms { each: usize },
    /// The same rooms, with a message in each, when everybody has left.
    EmptyRooms { each: usize },
    /// So many more slots, with nothing in them.
    Slots { more: u32 },
}

impl Kind {
    /// Deliveries are what is measured: the floor has a part in it.
    pub(crate) fn delivers(self) -> bool {
        matches!(self, Self::Saturated { .. } | Self::Rate { .. })
    }
}

impl Row {
    const fn new(name: &'static str, title: &'static str, rooms: usize, members: usize, kind: Kind) -> Self {
        let (nodes, routers, replication, slots, flags, loads) = (3, 1, 2, 1024, &[], 1);
        Self { name, title, rooms, members, kind, nodes, routers, replication, slots, flags, loads, who: Who::All }
    }

    const fn ours(self) -> Self {
        Self { who: Who::Ours, ..self }
    }

    const fn routers(self, routers: usize) -> Self {
        Self { routers, ..self }
    }

    const fn nodes(self, nodes: usize) -> Self {
        Self { nodes, ..self }
    }

    const fn one_copy(self) -> Self {
        Self { replication: 1, ..self }
    }

    const fn loads(self, loads: usize) -> Self {
        Self { loads, ..self }
    }

    const fn flags(self, flags: &'static [&'static str]) -> Self {
        Self { flags, ..self }
    }

    /// Its connections.
    pub(crate) fn connections(&self) -> usize {
        self.rooms * self.members
    }

    /// How servers are to be set up for it.
    pub(crate) fn setup(&self) -> Setup {
        let Self { nodes, routers, replication, slots, flags, .. } = *self;
        Setup { connections: self.connections(), nodes, routers, replication, slots, flags }
    }
}

const fn saturated(payload: usize) -> Kind {
    Kind::Saturated { payload, backlog: BACKLOG }
}

/// What the table has. Rows that are compared with each other follow each other: machines change with the hour.
pub(crate) const ROWS: &[Row] = &[
    Row::new("1x1000", "1 room x 1,000", 1, 1_000, saturated(128)),
    Row::new("1x1000-one-copy", "1 x 1,000, one copy", 1, 1_000, saturated(128)).ours().one_copy(),
    Row::new("100x100", "100 x 100", 100, 100, saturated(128)),
    Row::new("100x100-one-copy", "100 x 100, one copy", 100, 100, saturated(128)).ours().one_copy(),
    Row::new("1000x10", "1,000 x 10", 1_000, 10, saturated(128)),
    Row::new("1000x10-one-copy", "1,000 x 10, one copy", 1_000, 10, saturated(128)).ours().one_copy(),
    // A process may have 20,000 descriptors where this was written: 10,000 x 2 would need a few more.
    Row::new("9900x2", "9,900 x 2", 9_900, 2, saturated(128)),
    Row::new("1x1000-1k", "1 x 1,000, 1 KiB", 1, 1_000, saturated(1_024)),
    Row::new("100x100-1k", "100 x 100, 1 KiB", 100, 100, saturated(1_024)),
    Row::new("1000x10-1k", "1,000 x 10, 1 KiB", 1_000, 10, saturated(1_024)),
    Row::new("one-by-one", "1 x 1,000, one under way", 1, 1_000, Kind::Saturated { payload: 128, backlog: 1 }),
    Row::new("steady", "100 x 100, 20,000/s", 100, 100, Kind::Rate { payload: 128, rate: 20_000.0 }),
    Row::new("connections", "10,000 in rooms of 10", 1_000, 10, Kind::Connections { more: 5 }),
    Row::new("idle-19900", "19,900 in rooms of 10", 1_990, 10, Kind::Connections { more: 0 }),
    Row::new("idle-100000", "100,000 in rooms of 10", 10_000, 10, Kind::Connections { more: 0 }).ours().routers(6),
    Row::new("rush", "19,900 come back at once", 1_990, 10, Kind::Rush).loads(4),
];

/// A few clients, to see that it works at all.
pub(crate) const SLICE: &[Row] = &[
    Row::new("few-deliveries", "3 x 5", 3, 5, Kind::Saturated { payload: 128, backlog: 64 }),
    Row::new("few-connections", "20 in rooms of 5", 4, 5, Kind::Connections { more: 2 }),
    Row::new("few-rush", "20 come back at once", 4, 5, Kind::Rush).loads(2),
    Row::new("few-rooms", "40 rooms, a node dies", 10, 1, Kind::Rooms { each: 4 }).ours(),
    Row::new("few-empty-rooms", "40 empty rooms", 10, 1, Kind::EmptyRooms { each: 4 }).ours().flags(SHORT_LOG),
    Row::new("few-slots", "64 more slots", 0, 0, Kind::Slots { more: 64 }).ours(),
];

/// Rooms are measured, not the log that replays their last minute.
const SHORT_LOG: &[&str] = &["--replay-age=1s"];

/// How the cost grows. Ours alone.
pub(crate) const GROWTH: &[Row] = &[
    Row::new("members-10", "1 room x 10", 1, 10, saturated(128)).ours(),
    Row::new("members-100", "1 room x 100", 1, 100, saturated(128)).ours(),
    Row::new("members-1000", "1 room x 1,000", 1, 1_000, saturated(128)).ours(),
    Row::new("members-10000", "1 room x 10,000", 1, 10_000, saturated(128)).ours(),
    Row::new("rooms-10", "10 rooms x 10", 10, 10, saturated(128)).ours(),
    Row::new("rooms-100", "100 rooms x 10", 100, 10, saturated(128)).ours(),
    Row::new("rooms-1000", "1,000 rooms x 10", 1_000, 10, saturated(128)).ours(),
    Row::new("routers-1", "100 x 100, 1 router", 100, 100, saturated(128)).ours(),
    Row::new("routers-2", "100 x 100, 2 routers", 100, 100, saturated(128)).ours().routers(2),
    Row::new("routers-4", "100 x 100, 4 routers", 100, 100, saturated(128)).ours().routers(4),
    Row::new("nodes-2", "100 x 100, 2 nodes", 100, 100, saturated(128)).ours().nodes(2),
    Row::new("nodes-3", "100 x 100, 3 nodes", 100, 100, saturated(128)).ours().nodes(3),
    Row::new("nodes-6", "100 x 100, 6 nodes", 100, 100, saturated(128)).ours().nodes(6),
    Row::new("made-10000", "10,000 rooms, a node dies", 1_000, 1, Kind::Rooms { each: 10 }).ours(),
    Row::new("made-100000", "100,000 rooms, a node dies", 1_000, 1, Kind::Rooms { each: 100 }).ours(),
    Row::new("empty-rooms", "100,000 empty rooms", 1_000, 1, Kind::EmptyRooms { each: 100 }).ours().flags(SHORT_LOG),
    Row::new("empty-slots", "15,360 more slots", 0, 0, Kind::Slots { more: 15_360 }).ours(),
];
