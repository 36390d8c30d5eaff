//! The plots of a run.

use std::path::Path;

use crate::kept::Kept;
use crate::report::{Figures, Line};
use crate::svg::{self, Group, Series};

/// Writes the plots that there are figures for.
pub(crate) fn write(kept: &[Kept], dir: &Path) -> std::io::Result<()> {
    let Some(machine) = kept.last().map(|k| &k.machine) else { return Ok(()) };
    let lines: Vec<&Line> = kept.iter().flat_map(|k| &k.lines).collect();
    let here = format!("{} cores, {}, Linux {}", machine.cores, machine.cpu, machine.kernel);
    let bars = |file: &str, title: &str, note: &str, rows: &[&str], digits, mark, get: fn(&Figures) -> Option<f64>| {
        let groups: Vec<Group> = rows.iter().filter_map(|row| group(&lines, row, get)).collect();
        match groups.is_empty() {
            true => Ok(()),
            false => {
                std::fs::write(dir.join(file), svg::bars(title, &format!("{note}. {here}"), &groups, digits, mark))
            }
        }
    };
    bars(
        "cpu.svg",
        "CPU per delivery, as a multiple of one raw write",
        "All server processes",
        &["1x1000", "100x100", "1000x10", "9900x2", "one-by-one", "steady"],
        2,
        Some(1.0),
        |f| f.times_floor,
    )?;
    bars(
        "cpu-1k.svg",
        "CPU per delivery of 1 KiB, as a multiple of one raw write",
        "All server processes, saturated",
        &["1x1000-1k", "100x100-1k", "1000x10-1k"],
        2,
        Some(1.0),
        |f| f.times_floor,
    )?;
    bars(
        "rate.svg",
        "Deliveries a second at saturation, in thousands",
        "Server and load share the cores",
        &["1x1000", "100x100", "1000x10", "9900x2"],
        0,
        None,
        |f| f.rate.map(|r| r / 1e3),
    )?;
    bars(
        "latency.svg",
        "p99 in ms at half of the server's own saturation",
        "From publish to delivery",
        &["1x1000", "100x100", "1000x10", "9900x2"],
        1,
        None,
        |f| f.half[1],
    )?;
    bars(
        "memory.svg",
        "Resident KiB per idle joined connection, rooms of 10",
        "Processes that hold clients' sockets",
        &["connections", "idle-19900", "idle-100000"],
        1,
        None,
        |f| f.edge_kib,
    )?;
    bars(
        "connect.svg",
        "CPU ms of a new connection with its first join",
        "All server processes",
        &["connections"],
        3,
        None,
        |f| f.connect_ms,
    )?;
    for (prefix, x_name) in
        [("members", "members of one room"), ("rooms", "rooms of 10"), ("routers", "routers"), ("nodes", "nodes")]
    {
        let series: Vec<Series> =
            [("x floor", (|f| f.times_floor) as fn(&Figures) -> Option<f64>), ("CPU s per million", |f| f.cpu)]
                .into_iter()
                .map(|(name, get)| Series { name: name.to_owned(), points: points(&lines, prefix, get) })
                .filter(|s| s.points.len() > 1)
                .collect();
        if !series.is_empty() {
            let title = format!("Cost of a delivery against {x_name}");
            let plot = svg::lines(&title, &format!("Saturated, 128 B. {here}"), x_name, &series);
            std::fs::write(dir.join(format!("growth-{prefix}.svg")), plot)?;
        }
    }
    Ok(())
}

fn group(lines: &[&Line], row: &str, get: fn(&Figures) -> Option<f64>) -> Option<Group> {
    let of_row: Vec<&&Line> = lines.iter().filter(|l| l.row == row && l.faults.is_empty()).collect();
    let bars: Vec<(String, f64)> = of_row.iter().filter_map(|l| Some((l.peer.clone(), get(&l.median)?))).collect();
    let name = of_row.first()?.title.clone();
    (!bars.is_empty()).then_some(Group { name, bars })
}

/// The rows called `PREFIX-NUMBER`.
fn points(lines: &[&Line], prefix: &str, get: fn(&Figures) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |line: &&Line| {
        let x = line.row.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()?;
        Some((x, get(&line.median)?))
    };
    lines.iter().filter(|l| l.faults.is_empty()).filter_map(point).collect()
}
