//! Plots: bars to compare servers, lines to see growth. Plain SVG, readable in a browser on light and dark pages.

use std::fmt::Write;

use clap::ValueEnum;

use crate::peers::Peer;

const WIDTH: f64 = 860.0;
const NAMES: f64 = 130.0;
const BAR: f64 = 15.0;
const GAP: f64 = 14.0;
const TOP: f64 = 64.0;
const COLOURS: [&str; 8] = ["#8c8c8c", "#d1495b", "#4c78a8", "#72a0c1", "#54a24b", "#b279a2", "#f58518", "#c9b458"];

/// Bars of one workload.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// The workload.
    pub(crate) name: String,
    /// Servers and their figures.
    pub(crate) bars: Vec<(String, f64)>,
}

/// One line of a plot.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// What it shows.
    pub(crate) name: String,
    /// (how much there is, what it costs).
    pub(crate) points: Vec<(f64, f64)>,
}

/// Horizontal bars, `digits` after the point. `mark` draws a line at a value.
pub(crate) fn bars(title: &str, note: &str, groups: &[Group], digits: usize, mark: Option<f64>) -> String {
    let most = groups.iter().flat_map(|g| &g.bars).map(|(_, v)| *v).fold(mark.unwrap_or_default(), f64::max);
    let scale = (WIDTH - NAMES - 90.0) / most.max(f64::MIN_POSITIVE);
    let (mut body, mut y) = (String::new(), TOP);
    for group in groups {
        y += GAP + BAR;
        text(&mut body, 12.0, y - 5.0, "start", "bold", &group.name);
        for (name, value) in &group.bars {
            // The same in every plot, whoever takes part.
            let place = Peer::value_variants().iter().position(|peer| peer.name() == name).unwrap_or_default();
            let colour = COLOURS[place % COLOURS.len()];
            let length = value * scale;
            let _ = writeln!(
                body,
                r#"<rect x="{NAMES}" y="{y:.1}" width="{length:.1}" height="{}" fill="{colour}"/>"#,
                BAR - 3.0
            );
            text(&mut body, NAMES - 6.0, y + BAR - 5.0, "end", "normal", name);
            text(&mut body, NAMES + length + 5.0, y + BAR - 5.0, "start", "normal", &format!("{value:.digits$}"));
            y += BAR;
        }
    }
    if let Some(mark) = mark {
        let x = NAMES + mark * scale;
        let _ = writeln!(
            body,
            r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{y:.1}" stroke="#888" stroke-dasharray="4 3"/>"##
        );
    }
    page(title, note, y + 16.0, &body)
}

/// Lines over a logarithmic x axis; the y axis begins at zero.
pub(crate) fn lines(title: &str, note: &str, x_name: &str, series: &[Series]) -> String {
    const HEIGHT: f64 = 300.0;
    const LEFT: f64 = 60.0;
    const RIGHT: f64 = 190.0;
    let points = || series.iter().flat_map(|s| &s.points);
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(x.ln()), high.max(x.ln())));
    let most = points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let x_at = |x: f64| LEFT + (x.ln() - low) / (high - low).max(f64::MIN_POSITIVE) * (WIDTH - LEFT - RIGHT);
    let y_at = |y: f64| TOP + HEIGHT - y / most * HEIGHT;
    let mut body = String::new();
    for n in 0..=4 {
        let value = most * f64::from(n) / 4.0;
        let y = y_at(value);
        let end = WIDTH - RIGHT;
        let _ = writeln!(body, r##"<line x1="{LEFT}" y1="{y:.1}" x2="{end}" y2="{y:.1}" stroke="#ddd"/>"##);
        text(&mut body, LEFT - 6.0, y + 4.0, "end", "normal", &format!("{value:.2}"));
    }
    let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for x in ticks {
        text(&mut body, x_at(x), TOP + HEIGHT + 18.0, "middle", "normal", &format!("{x}"));
    }
    text(&mut body, (LEFT + WIDTH - RIGHT) / 2.0, TOP + HEIGHT + 38.0, "middle", "normal", x_name);
    for (n, one) in series.iter().enumerate() {
        let colour = COLOURS[(n + 1) % COLOURS.len()];
        let path: Vec<String> = one.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_at(*x), y_at(*y))).collect();
        let path = path.join(" ");
        let _ = writeln!(body, r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
        for (x, y) in &one.points {
            let _ = writeln!(body, r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#, x_at(*x), y_at(*y));
        }
        let y = TOP + 20.0 * n as f64 + 8.0;
        let x = WIDTH - RIGHT + 14.0;
        let _ = writeln!(body, r#"<rect x="{x}" y="{:.1}" width="12" height="4" fill="{colour}"/>"#, y - 5.0);
        text(&mut body, x + 18.0, y, "start", "normal", &one.name);
    }
    page(title, note, TOP + HEIGHT + 54.0, &body)
}

fn page(title: &str, note: &str, height: f64, body: &str) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let _ = writeln!(
        out,
        r##"<text x="12" y="24" font-size="16" font-weight="bold" fill="#222">{}</text>"##,
        escaped(title)
    );
    let _ = writeln!(out, r##"<text x="12" y="44" fill="#666">{}</text>"##, escaped(note));
    out + body + "</svg>\n"
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, weight: &str, what: &str) {
    let what = escaped(what);
    let _ = writeln!(
        out,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}" fill="#222">{what}</text>"##
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let bar = |name: &str, value| (name.to_owned(), value);
        let groups = [Group { name: "a < b".to_owned(), bars: vec![bar("x", 1.0), bar("y", 4.0)] }];
        let svg = bars("Title", "note", &groups, 1, Some(1.0));
        let widths: Vec<f64> = svg
            .lines()
            .filter(|l| l.starts_with("<rect x"))
            .filter_map(|l| l.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] / widths[0] - 4.0).abs() < 0.01, "{widths:?}");
        assert!(svg.contains("a &lt; b"));
    }
}
