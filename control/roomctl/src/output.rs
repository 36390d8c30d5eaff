//! Tables for people, JSON for programs.

use std::io::{IsTerminal, Write};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use roomring_control::clock::unix_ms;
use serde::Serialize;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// How good a word is: its colour on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Attention,
    Bad,
}

/// A table without lines, which stays as wide as it is when it goes to a file.
pub(crate) fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if is_plain() {
        table.force_no_tty();
    } else {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    if !headers.is_empty() {
        table.set_header(headers.iter().map(|h| Cell::new(h).add_attribute(Attribute::Bold)));
    }
    table
}

/// Two spaces between columns, none before the first; the columns in `numbers` to the right.
pub(crate) fn finish(mut table: Table, numbers: &[usize]) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

pub(crate) fn word(text: impl ToString, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Attention => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
    }
}

pub(crate) fn print_json(answer: &impl Serialize) -> anyhow::Result<()> {
    print_text(&(serde_json::to_string_pretty(answer).context("writing JSON")? + "\n"))
}

/// Like `print!`, but a reader that went away (`roomctl nodes | head -1`) is no reason to panic.
pub(crate) fn print_text(text: &str) -> anyhow::Result<()> {
    print_some(text).map(|_| ())
}

/// As [`print_text`]; says whether there still is a reader.
pub(crate) fn print_some(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("writing to stdout"),
    }
}

/// An age for people.
pub(crate) fn age(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1}s", Duration::from_millis(ms).as_secs_f64()),
        10_000..120_000 => format!("{}s", ms / 1000),
        120_000..7_200_000 => format!("{}min", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}

/// How long ago a moment is, by this machine's clock and the one that told it.
pub(crate) fn ago(time_ms: u64) -> String {
    format!("{} ago", age(unix_ms().saturating_sub(time_ms)))
}

/// A moment in UTC, for programs.
pub(crate) fn utc(time_ms: u64) -> String {
    // Past the year 9999 there is no such text.
    let time_ms = time_ms.min(253_402_300_799_999);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(time_ms)).to_string()
}

/// No colours, no wrapping: a pipe, a file, or somebody who asked for it.
fn is_plain() -> bool {
    !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}
