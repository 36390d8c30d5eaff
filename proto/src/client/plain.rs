//! The plain protocol of `/rooms/{room}`: one JSON object per event, each a WebSocket text frame of its own.

use bytes::Bytes;
use serde::Serialize;

use super::json::{Embedded, to_bytes};
use crate::{Epoch, Seq, v1};
use v1::publication::Mark;

/// A publication in `room`: a message, what is left of one, or the word that others are gone.
pub fn message(room: &str, epoch: Epoch, publication: &v1::Publication) -> Bytes {
    let author = publication.author().unwrap_or_default();
    let line = match publication.mark {
        None => Line { user: Some(&author.user), data: Some(Embedded(&publication.data)), ..Line::of("message", room) },
        Some(Mark::Deleted(_)) => Line::of("deleted", room),
        Some(Mark::Deletes(seq)) => Line { of: Some(seq), ..Line::of("delete", room) },
        Some(Mark::Clears(seq)) => Line { of: Some(seq), ..Line::of("clear", room) },
    };
    to_bytes(&Line { seq: Some(publication.seq), epoch: Some(epoch.to_string()), ..line })
}

/// Somebody came to `room`.
pub fn join(room: &str, epoch: Epoch, info: &v1::ClientInfo) -> Bytes {
    presence("join", room, epoch, info)
}

/// Somebody left `room`.
pub fn leave(room: &str, epoch: Epoch, info: &v1::ClientInfo) -> Bytes {
    presence("leave", room, epoch, info)
}

/// Messages were lost to this client: what follows continues after `seq` of `epoch`.
pub fn gap(room: &str, epoch: Epoch, seq: Seq) -> Bytes {
    to_bytes(&Line { seq: Some(seq.0), epoch: Some(epoch.to_string()), ..Line::of("gap", room) })
}

/// Something that the client asked for was not done; `text` says what and why.
pub fn error(room: &str, text: &str) -> Bytes {
    let data = to_bytes(&text);
    to_bytes(&Line { data: Some(Embedded(&data)), ..Line::of("error", room) })
}

fn presence(kind: &'static str, room: &str, epoch: Epoch, info: &v1::ClientInfo) -> Bytes {
    to_bytes(&Line { epoch: Some(epoch.to_string()), user: Some(&info.user), ..Line::of(kind, room) })
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    room: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    /// seq of what is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Embedded<'a>>,
}

impl<'a> Line<'a> {
    fn of(kind: &'static str, room: &'a str) -> Self {
        Self { kind, room, seq: None, epoch: None, of: None, user: None, data: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generation, Lsn, Uid};

    const EPOCH: Epoch = Epoch { uid: Uid(10), generation: Generation(1), created: Lsn(2) };

    fn text(bytes: Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn every_event_is_one_line() {
        let info = v1::ClientInfo { user: "ann".into(), client: "c1".into(), ..Default::default() };
        let publication =
            v1::Publication { seq: 7, data: Bytes::from_static(b"\"hi\""), info: info.packed(), ..Default::default() };
        assert_eq!(
            text(message("lobby", EPOCH, &publication)),
            r#"{"type":"message","room":"lobby","seq":7,"epoch":"a-1-2","user":"ann","data":"hi"}"#
        );
        for (mark, line) in [
            (Mark::Deleted(v1::Deleted {}), r#"{"type":"deleted","room":"lobby","seq":7,"epoch":"a-1-2"}"#),
            (Mark::Deletes(5), r#"{"type":"delete","room":"lobby","seq":7,"epoch":"a-1-2","of":5}"#),
            (Mark::Clears(6), r#"{"type":"clear","room":"lobby","seq":7,"epoch":"a-1-2","of":6}"#),
        ] {
            let publication = v1::Publication { mark: Some(mark), ..publication.clone() };
            assert_eq!(text(message("lobby", EPOCH, &publication)), line);
        }
        assert_eq!(text(join("lobby", EPOCH, &info)), r#"{"type":"join","room":"lobby","epoch":"a-1-2","user":"ann"}"#);
        assert_eq!(
            text(leave("lobby", EPOCH, &info)),
            r#"{"type":"leave","room":"lobby","epoch":"a-1-2","user":"ann"}"#
        );
        assert_eq!(text(gap("lobby", EPOCH, Seq(0))), r#"{"type":"gap","room":"lobby","seq":0,"epoch":"a-1-2"}"#);
        assert_eq!(text(error("a\"b", "no\n")), r#"{"type":"error","room":"a\"b","data":"no\n"}"#);
    }
}
