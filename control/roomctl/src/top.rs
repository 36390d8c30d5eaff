//! `roomctl top`.

use std::io::IsTerminal;
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyModifiers};
use futures_util::StreamExt;
use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use roomring_control::placement::Placement;
use roomring_control::rebalance::Policy;

use crate::cli::{Outcome, TopArgs, Usage};
use crate::events::{self, EventRow};
use crate::health::{self, NodeState, SlotCounts};
use crate::nodes;
use crate::output;
use crate::snapshot::Snapshot;
use crate::status::wishes;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Lines of a snapshot: as much as a usual terminal shows.
const LINES: u16 = 24;

/// Width of the bar of a node's load.
const BAR: usize = 20;

/// What one screen shows.
struct Screen {
    cluster: String,
    trouble: Option<String>,
    version: u64,
    slots: SlotCounts,
    wishes: String,
    nodes: Vec<nodes::Row>,
    moves: Vec<String>,
    events: Vec<EventRow>,
}

pub(crate) async fn run(args: TopArgs) -> anyhow::Result<Outcome> {
    if args.once {
        let screen = look(&args).await?;
        let width = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
        let width = width.or_else(|| crossterm::terminal::size().ok().map(|(w, _)| w)).unwrap_or(80);
        output::print_text(&snapshot_text(&screen, width.clamp(40, 400))?)?;
        return Ok(Outcome::Fine);
    }
    if !std::io::stdout().is_terminal() {
        return Err(Usage("top needs a terminal; --once writes one screen".to_owned()).into());
    }
    let mut screen = look(&args).await?;
    let mut terminal = ratatui::try_init()?;
    let ended = show(&args, &mut terminal, &mut screen).await;
    ratatui::restore();
    ended.map(|()| Outcome::Fine)
}

async fn show(args: &TopArgs, terminal: &mut ratatui::DefaultTerminal, screen: &mut Screen) -> anyhow::Result<()> {
    let mut keys = EventStream::new();
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        terminal.draw(|frame| draw(frame, screen))?;
        tokio::select! {
            _ = ticks.tick() => match look(args).await {
                Ok(next) => *screen = next,
                // What was seen last stays, with what is wrong now.
                Err(e) => screen.trouble = Some(format!("{e:#}")),
            },
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) => {
                    let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    if ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(()),
            },
        }
    }
}

async fn look(args: &TopArgs) -> anyhow::Result<Screen> {
    let snapshot = Snapshot::read(&args.target).await?;
    let placement = snapshot.formed(&args.target)?;
    Ok(Screen {
        cluster: args.target.cluster.to_string(),
        trouble: None,
        version: placement.version.0,
        slots: health::slot_counts(&snapshot, placement),
        wishes: wishes(&snapshot.intents).join(", "),
        nodes: nodes::rows(&snapshot).await,
        moves: moves(placement),
        events: events::rows(&snapshot),
    })
}

/// Copies under way, by where from and where to.
fn moves(placement: &Placement) -> Vec<String> {
    let name = |i| placement.members.get(&i).map_or_else(|| i.to_string(), |m| m.node.to_string());
    let mut pairs = std::collections::BTreeMap::<(String, String), Vec<String>>::new();
    for (number, slot) in placement.slots.iter().enumerate() {
        for learner in &slot.learners {
            let pair = (name(slot.primary.incarnation), name(learner.incarnation));
            pairs.entry(pair).or_default().push(format!("s{number}"));
        }
    }
    pairs
        .into_iter()
        .map(|((from, to), slots)| {
            let named = if slots.len() <= 6 { format!(": {}", slots.join(" ")) } else { String::new() };
            format!("{from} -> {to}  {} slot(s){named}", slots.len())
        })
        .collect()
}

fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let rows = u16::try_from(screen.nodes.len()).unwrap_or(u16::MAX).saturating_add(1);
    let moves = u16::try_from(screen.moves.len().clamp(1, 6)).unwrap_or(6) + 2;
    let [head, nodes, in_flight, recent, foot] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(rows),
        Constraint::Length(moves),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, screen);
    draw_nodes(frame, nodes, screen);
    let list = match screen.moves.as_slice() {
        [] => vec![Line::from("none".dim())],
        moves => moves.iter().map(|m| Line::from(m.as_str())).collect(),
    };
    let title = Line::from("MOVES IN FLIGHT".bold());
    frame.render_widget(Paragraph::new([vec![Line::default(), title], list].concat()), in_flight);
    draw_events(frame, recent, screen);
    let foot_line = match &screen.trouble {
        Some(trouble) => Line::from(trouble.as_str().red()),
        None => Line::from("q quits".dim()),
    };
    frame.render_widget(foot_line, foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let s = screen.slots;
    let good = |n: usize, text: String, bad: Color| if n == 0 { Span::raw(text) } else { text.fg(bad) };
    let total: f64 = screen.nodes.iter().filter_map(|n| n.load).sum();
    let rooms: u64 = screen.nodes.iter().filter_map(|n| n.rooms).sum();
    let members: u64 = screen.nodes.iter().filter_map(|n| n.members).sum();
    let lines = vec![
        Line::from(vec![
            Span::from(screen.cluster.as_str()).bold(),
            format!("  placement {}  {rooms} rooms  {members} members  {total:.0} messages/s", screen.version).into(),
        ]),
        Line::from(vec![
            format!("slots: {} ok, ", s.ok).into(),
            good(s.moving, format!("{} moving, ", s.moving), Color::Yellow),
            good(s.under_replicated, format!("{} under-replicated, ", s.under_replicated), Color::Yellow),
            good(s.offline, format!("{} offline", s.offline), Color::Red),
        ]),
        Line::from(screen.wishes.as_str()),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let header = ["NODE", "STATE", "SLOTS", "ROOMS", "MEMBERS", "MSG/S", "SHARE", ""].into_iter().enumerate();
    let header = header.map(|(i, text)| if (2..7).contains(&i) { right(text.to_owned()) } else { Cell::from(text) });
    // As wide as the names: what belongs together stays together on a wide screen.
    let name = screen.nodes.iter().map(|n| n.id.len()).max().unwrap_or(0).clamp(8, 40);
    let widths = [
        Constraint::Max(u16::try_from(name).unwrap_or(40)),
        Constraint::Length(11),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(u16::try_from(BAR).unwrap_or(20)),
    ];
    let table = Table::new(screen.nodes.iter().map(node_row), widths).header(Row::new(header).bold());
    frame.render_widget(table, area);
}

fn node_row(n: &nodes::Row) -> Row<'_> {
    let number = |n: Option<u64>| right(n.map_or("-".to_owned(), |n| n.to_string()));
    let (state, colour) = match n.state {
        _ if n.in_trouble() => ("unreachable", Color::Red),
        NodeState::Member => ("member", Color::Green),
        NodeState::Draining => ("draining", Color::Yellow),
        NodeState::Joining => ("joining", Color::Yellow),
        NodeState::Lost => ("lost", Color::Red),
        NodeState::Left => ("left", Color::Reset),
        NodeState::Evicted => ("evicted", Color::Yellow),
    };
    let ratio = n.of_share.unwrap_or(0.0);
    // Two shares fill it.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Clamped.
    let filled = ((ratio / 2.0).clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let bar_colour = if ratio > Policy::default().over { Color::Yellow } else { Color::Green };
    let bar = Line::from(vec!["█".repeat(filled).fg(bar_colour), "░".repeat(BAR - filled).dim()]);
    Row::new([
        Cell::from(n.id.as_str()),
        Cell::from(state).style(Style::new().fg(colour)),
        right(n.primaries.to_string()),
        number(n.rooms),
        number(n.members),
        right(n.load.map_or("-".to_owned(), |l| format!("{l:.0}"))),
        right(n.of_share.map_or("-".to_owned(), |r| format!("{r:.2} x"))),
        Cell::from(bar),
    ])
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let shown = usize::from(area.height.saturating_sub(2));
    let line = |(e, count): (&EventRow, usize)| {
        let text = format!("{:>10}  {}: {}", output::ago(e.time_ms), e.by, events::in_words(e, count));
        if e.kind == "decision" { Line::from(text.fg(Color::Yellow)) } else { Line::from(text) }
    };
    let mut lines = vec![Line::default(), Line::from("LATELY".bold())];
    lines.extend(events::grouped(&screen.events).into_iter().rev().take(shown).map(line));
    frame.render_widget(Paragraph::new(lines), area);
}

/// One screen as text.
fn snapshot_text(screen: &Screen, width: u16) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, LINES))?;
    terminal.draw(|frame| draw(frame, screen))?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..LINES {
        let line: String = (0..width).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect();
        text += line.trim_end();
        text.push('\n');
    }
    let end = text.trim_end().trim_end_matches("q quits").trim_end().len();
    text.truncate(end);
    text.push('\n');
    Ok(text)
}
