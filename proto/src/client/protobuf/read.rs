//! Commands out of a frame.

use prost::Message;
use prost::encoding::decode_varint;

use super::wire;
use crate::client::{Command, Connect, History, Malformed, Request, Subscribe};

/// The commands of one frame, in order, up to the first that breaks the protocol.
pub fn decode(frame: &[u8]) -> impl Iterator<Item = Result<Command, Malformed>> {
    let mut rest = Some(frame);
    let mut first = true;
    std::iter::from_fn(move || {
        let mut left = rest.take()?;
        if left.is_empty() && !std::mem::take(&mut first) {
            return None;
        }
        first = false;
        Some(next(&mut left).inspect(|_| rest = Some(left)))
    })
}

/// Takes the message at the beginning of `frame`.
fn next(frame: &mut &[u8]) -> Result<Command, Malformed> {
    if frame.is_empty() {
        return Err(Malformed::Empty);
    }
    let length = decode_varint(frame)?;
    let message = usize::try_from(length).ok().and_then(|length| frame.split_off(..length));
    let message = message.ok_or_else(|| Malformed::Protobuf(format!("a message of {length} bytes is cut off")))?;
    let command = wire::Command::decode(message)?;
    Command::new(command.id, request(command))
}

/// What is asked: if several are set the first in the protocol's order counts.
fn request(command: wire::Command) -> Option<Request> {
    Some(if let Some(r) = command.connect {
        let subs = r.subs.into_iter().map(|(channel, sub)| (channel, sub.into())).collect();
        Request::Connect(Connect { token: r.token, data: r.data, subs, name: r.name, version: r.version })
    } else if let Some(r) = command.subscribe {
        Request::Subscribe(r.into())
    } else if let Some(r) = command.unsubscribe {
        Request::Unsubscribe { channel: r.channel }
    } else if let Some(r) = command.publish {
        Request::Publish { channel: r.channel, data: r.data }
    } else if let Some(r) = command.presence {
        Request::Presence { channel: r.channel }
    } else if let Some(r) = command.presence_stats {
        Request::PresenceStats { channel: r.channel }
    } else if let Some(r) = command.history {
        let since = r.since.map(|since| (since.offset, since.epoch));
        Request::History(History { channel: r.channel, limit: r.limit, since, reverse: r.reverse })
    } else if command.ping.is_some() {
        Request::Ping
    } else if command.send.is_some() {
        Request::Send
    } else if let Some(r) = command.rpc {
        Request::Rpc { method: r.method, data: r.data }
    } else if let Some(r) = command.refresh {
        Request::Refresh { token: r.token }
    } else {
        let r = command.sub_refresh?;
        Request::SubRefresh { channel: r.channel, token: r.token }
    })
}

impl From<wire::SubscribeRequest> for Subscribe {
    fn from(r: wire::SubscribeRequest) -> Self {
        Self {
            channel: r.channel,
            token: r.token,
            recover: r.recover,
            epoch: r.epoch,
            offset: r.offset,
            positioned: r.positioned,
            recoverable: r.recoverable,
            join_leave: r.join_leave,
            flag: r.flag,
            tags_filter: r.tags_filter.is_some(),
        }
    }
}
