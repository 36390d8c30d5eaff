//! `roomctl tail ROOM`.

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use roomring_control::clock::unix_ms;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::cli::{Outcome, TailArgs};
use crate::output::{self, Format};
use crate::snapshot::Snapshot;

/// How long a router may take to let us in.
const DEADLINE: Duration = Duration::from_secs(5);

/// Before another router is tried after a connection ended.
const AGAIN: Duration = Duration::from_millis(500);

/// Reads the room as its members do, over a router's plain endpoint: so it is seen among them.
pub(crate) async fn run(args: TailArgs) -> anyhow::Result<Outcome> {
    let mut came_in = false;
    loop {
        let snapshot = Snapshot::read(&args.common.target).await?;
        snapshot.formed(&args.common.target)?;
        if snapshot.routers.is_empty() {
            bail!("no router is registered; start a roomring-router, messages are read through one");
        }
        let mut failures = Vec::new();
        for router in snapshot.routers.values() {
            match follow(&args, &router.http_addr).await {
                Ok(End::Reader) => return Ok(Outcome::Fine),
                Ok(End::Router(why)) => {
                    came_in = true;
                    eprintln!("roomctl: {} ended the connection ({why}); trying again", router.http_addr);
                    failures.clear();
                    break;
                }
                Err(e) => failures.push(format!("{}: {e:#}", router.http_addr)),
            }
        }
        if !failures.is_empty() && !came_in {
            bail!("no router lets us in ({}); see `roomctl status`", failures.join("; "));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

enum End {
    /// Whoever read standard output went away, or Ctrl-C.
    Reader,
    Router(String),
}

async fn follow(args: &TailArgs, http: &str) -> anyhow::Result<End> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let url = format!("ws://{http}/rooms/{}?user={}", encode(args.room.as_str()), encode(&args.user));
    let connecting = tokio::time::timeout(DEADLINE, connect_async(&url)).await;
    let (mut socket, _) = connecting.with_context(|| format!("no answer within {}s", DEADLINE.as_secs()))??;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = tokio::signal::ctrl_c() => {
                // Leaves in order; a router that does not hear it finds out.
                let _ = socket.close(None).await;
                return Ok(End::Reader);
            }
        };
        match message {
            Some(Ok(Message::Text(line))) => {
                let line = match args.common.output {
                    Format::Json => format!("{line}\n"),
                    Format::Table => readable(&line),
                };
                if !output::print_some(&line)? {
                    return Ok(End::Reader);
                }
            }
            Some(Ok(Message::Close(why))) => {
                return Ok(End::Router(why.map_or("no reason".to_owned(), |w| format!("{} {}", w.code, w.reason))));
            }
            Some(Ok(_)) => {}
            Some(Err(e)) => return Ok(End::Router(e.to_string())),
            None => return Ok(End::Router("gone".to_owned())),
        }
    }
}

/// A line for people. What is not understood is shown as it came.
fn readable(line: &str) -> String {
    let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { return format!("{line}\n") };
    let text = |field: &str| match &event[field] {
        serde_json::Value::String(s) => s.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    let clean = |s: String| -> String { s.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect() };
    let (user, data, seq) = (clean(text("user")), clean(text("data")), text("seq"));
    let now = output::utc(unix_ms());
    // Hours to seconds.
    let time = now.get(11..19).unwrap_or_default();
    match event["type"].as_str() {
        Some("message") => format!("{time} #{seq} {user}: {data}\n"),
        Some("join") => format!("{time} {user} came\n"),
        Some("leave") => format!("{time} {user} left\n"),
        Some("deleted") => format!("{time} #{seq} is deleted\n"),
        Some("delete") => format!("{time} #{} was deleted\n", text("of")),
        Some("clear") => format!("{time} everything up to #{} was deleted\n", text("of")),
        Some("gap") => format!("{time} messages were lost before #{seq}\n"),
        Some("error") => format!("{time} error: {data}\n"),
        _ => format!("{time} {}\n", clean(line.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn lines_are_for_people_and_carry_no_control_characters() {
        let shown = |line: &str| readable(line).split_off(9);
        assert_eq!(shown(r#"{"type":"message","seq":7,"user":"ann","data":"hi\u001b[2J"}"#), "#7 ann: hi\u{fffd}[2J\n");
        assert_eq!(shown(r#"{"type":"message","seq":8,"user":"ann","data":{"a":1}}"#), "#8 ann: {\"a\":1}\n");
        assert_eq!(shown(r#"{"type":"join","user":"bob"}"#), "bob came\n");
        assert_eq!(shown(r#"{"type":"gap","seq":9}"#), "messages were lost before #9\n");
        assert_eq!(shown(r#"{"type":"deleted","seq":7}"#), "#7 is deleted\n");
        assert_eq!(shown(r#"{"type":"delete","seq":9,"of":7}"#), "#7 was deleted\n");
        assert_eq!(shown(r#"{"type":"clear","seq":9,"of":8}"#), "everything up to #8 was deleted\n");
        assert_eq!(shown(r#"{"type":"later"}"#), "{\"type\":\"later\"}\n");
        assert_eq!(readable("no json"), "no json\n");
    }
}
