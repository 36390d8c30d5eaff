//! The table, for a terminal and in Markdown.

use crate::report::{Figures, Line};

/// A column's heading, and what it shows.
type Column = (&'static str, fn(&Figures) -> String);

/// Of rows with messages.
const DELIVERIES: &[Column] = &[
    ("x floor", |f| number(f.times_floor, 2)),
    ("CPU s/M", |f| number(f.cpu, 2)),
    ("of it edge", |f| number(f.cpu_edge, 2)),
    ("floor", |f| number(f.cpu_floor, 2)),
    ("etcd", |f| number(f.cpu_etcd, 2)),
    ("deliveries/s", |f| number(f.rate, 0)),
    ("a read", |f| number(f.gathered, 1)),
    ("p50/p99/p999 ms", |f| latencies(&f.latency)),
    ("at half the rate", |f| latencies(&f.half)),
];

/// Of rows with connections.
const CONNECTIONS: &[Column] = &[
    ("connects/s", |f| number(f.connects, 0)),
    ("CPU ms a connection", |f| number(f.connect_ms, 3)),
    ("KiB each, edge", |f| number(f.edge_kib, 1)),
    ("KiB each, all", |f| number(f.kib, 1)),
    ("CPU ms a subscribe", |f| number(f.subscribe_ms, 4)),
];

/// The lines as text with columns.
pub(crate) fn text(lines: &[Line]) -> String {
    each(lines, |columns, lines| {
        let rows = cells(columns, lines);
        let width = |n: usize| rows.iter().map(|r| r[n].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        let mut out = String::new();
        for row in &rows {
            for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Names to the left, figures to the right.
                out += &if n < 2 { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out
    })
}

/// The lines as tables in Markdown.
pub(crate) fn markdown(lines: &[Line]) -> String {
    each(lines, |columns, lines| {
        let rows = cells(columns, lines);
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let rule = format!("|---|---|{}\n", "---:|".repeat(columns.len()));
        let body: String = rows[1..].iter().map(line).collect();
        format!("{}{rule}{body}", line(&rows[0]))
    })
}

/// The kinds of lines one after the other, each kind with what went wrong under it.
fn each(lines: &[Line], show: impl Fn(&[Column], &[&Line]) -> String) -> String {
    let (others, lines_of_columns): (Vec<&Line>, Vec<&Line>) =
        lines.iter().filter(|l| l.runs > 0).partition(|l| !l.median.others.is_empty());
    let (connections, deliveries): (Vec<&Line>, Vec<&Line>) =
        lines_of_columns.into_iter().partition(|l| l.median.connects.is_some());
    let mut parts = Vec::new();
    for (columns, lines) in [(DELIVERIES, deliveries), (CONNECTIONS, connections)] {
        if !lines.is_empty() {
            parts.push(show(columns, &lines));
        }
    }
    let others: Vec<String> = others
        .iter()
        .flat_map(|l| {
            let figures = l.median.others.iter();
            figures.map(|(name, figure)| format!("- {}, {}: {} {name}\n", l.title, l.peer, digits(*figure)))
        })
        .collect();
    if !others.is_empty() {
        parts.push(others.concat());
    }
    let faults: Vec<String> = lines
        .iter()
        .flat_map(|l| l.faults.iter().map(|f| format!("- {}, {}: {}\n", l.title, l.peer, f.replace('\n', " "))))
        .collect();
    if !faults.is_empty() {
        parts.push(faults.concat());
    }
    parts.join("\n")
}

fn cells(columns: &[Column], lines: &[&Line]) -> Vec<Vec<String>> {
    let head = ["workload", "server"].into_iter().chain(columns.iter().map(|(name, _)| *name));
    let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    for line in lines {
        // A figure of a run in which something was lost is no figure.
        let peer = if line.faults.is_empty() { line.peer.to_owned() } else { format!("{} (!)", line.peer) };
        let figures = columns.iter().map(|(_, show)| show(&line.median));
        rows.push([line.title.to_owned(), peer].into_iter().chain(figures).collect());
    }
    rows
}

/// Three of them, as a rule.
fn digits(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        1.0.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
}

fn latencies(of: &[Option<f64>; 3]) -> String {
    if of[0].is_none() {
        return "-".to_owned();
    }
    of.map(|v| number(v, if v.is_some_and(|v| v >= 100.0) { 0 } else { 2 })).join("/")
}
