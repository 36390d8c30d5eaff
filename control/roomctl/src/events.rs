//! `roomctl events`.

use serde::Serialize;

use crate::cli::{EventsArgs, Outcome};
use crate::output::{self, Format, Tone, word};
use crate::snapshot::Snapshot;

/// Something that happened.
#[derive(Debug, Serialize)]
pub(crate) struct EventRow {
    pub(crate) at: String,
    pub(crate) time_ms: u64,
    pub(crate) by: String,
    /// `decision`: somebody or the rebalancer wanted something else; `placement`: slots changed.
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    /// Why; of decisions, and of evictions.
    pub(crate) reason: Option<String>,
    /// Slots that it names, if they are few.
    pub(crate) slots: Vec<u32>,
    /// How many slots it changed.
    pub(crate) slots_changed: u64,
    /// Of the copies that came to be in sync by it, the longest time that one took.
    pub(crate) copying_ms: Option<u64>,
    pub(crate) placement_version: Option<u64>,
}

pub(crate) async fn run(args: EventsArgs) -> anyhow::Result<Outcome> {
    let snapshot = Snapshot::read(&args.common.target).await?;
    snapshot.formed(&args.common.target)?;
    let mut rows = rows(&snapshot);
    let skip = rows.len().saturating_sub(args.last);
    rows.drain(..skip);
    match args.common.output {
        Format::Json => output::print_json(&rows)?,
        Format::Table => output::print_text(&table(&rows))?,
    }
    Ok(Outcome::Fine)
}

/// Everything that is still known, the oldest first.
pub(crate) fn rows(snapshot: &Snapshot) -> Vec<EventRow> {
    let decisions = snapshot.intents.decisions.iter().map(|d| EventRow {
        at: output::utc(d.time_ms),
        time_ms: d.time_ms,
        by: d.by.clone(),
        kind: "decision",
        text: d.text.clone(),
        reason: Some(d.reason.clone()).filter(|r| !r.is_empty()),
        slots: d.slots.iter().map(|s| s.0).collect(),
        slots_changed: d.slots.len() as u64,
        copying_ms: None,
        placement_version: None,
    });
    let writes = snapshot.placement.iter().flat_map(|p| p.recent.iter()).map(|r| EventRow {
        at: output::utc(r.time_ms),
        time_ms: r.time_ms,
        by: r.by.to_string(),
        kind: "placement",
        text: r.text.clone(),
        reason: None,
        slots: r.slots.iter().map(|s| s.0).collect(),
        slots_changed: r.slots_changed.into(),
        copying_ms: r.copying.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        placement_version: Some(r.version.0),
    });
    let mut rows: Vec<_> = decisions.chain(writes).collect();
    // Writes of one placement are in order whatever the clocks of those who wrote them say; decisions come among them.
    rows.sort_by_key(|r| r.time_ms);
    rows
}

/// Rows in their order, those that say the same one after the other as one, the last, with their number: a move is many small
/// writes.
pub(crate) fn grouped(rows: &[EventRow]) -> Vec<(&EventRow, usize)> {
    let mut groups = Vec::<(&EventRow, usize)>::new();
    for row in rows {
        match groups.last_mut() {
            Some((last, count)) if (&last.by, &last.text, &last.reason) == (&row.by, &row.text, &row.reason) => {
                *last = row;
                *count += 1;
            }
            _ => groups.push((row, 1)),
        }
    }
    groups
}

/// What happened, and why.
pub(crate) fn in_words(row: &EventRow, count: usize) -> String {
    let reason = row.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
    let times = if count > 1 { format!(", {count} times") } else { String::new() };
    format!("{}{reason}{times}", row.text)
}

fn table(rows: &[EventRow]) -> String {
    if rows.is_empty() {
        return "Nothing has happened that is still known.\n".to_owned();
    }
    let mut table = output::table(&["WHEN", "BY", "SLOTS", "COPYING", "WHAT AND WHY"]);
    for (r, times) in grouped(rows) {
        let count = if r.slots_changed == 0 { "-".to_owned() } else { r.slots_changed.to_string() };
        let copying = r.copying_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let tone = if r.kind == "decision" { Tone::Attention } else { Tone::Plain };
        table.add_row([
            word(output::ago(r.time_ms), Tone::Plain),
            word(&r.by, Tone::Plain),
            word(count, Tone::Plain),
            word(copying, Tone::Plain),
            word(in_words(r, times), tone),
        ]);
    }
    output::finish(table, &[2, 3])
}
