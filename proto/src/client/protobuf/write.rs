//! Replies and pushes.

use bytes::Bytes;
use prost::Message;

use super::wire;
use crate::client::{Answer, Connected, Push, Reply, Subscribed, tags};
use crate::close::{CloseCode, ErrorCode};
use crate::v1;

/// The server's ping: an empty reply.
pub const PING: Bytes = Bytes::from_static(&[0]);

/// A reply.
pub fn encode(reply: &Reply) -> Bytes {
    let mut out = Vec::new();
    write_reply(reply, &mut out);
    out.into()
}

/// As [`encode`], at the end of `out`.
pub fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    let mut wire = wire::Reply { id: reply.id, ..Default::default() };
    match &reply.result {
        Err(error) => wire.error = Some((*error).into()),
        Ok(Answer::Connect(c)) => wire.connect = Some(c.into()),
        Ok(Answer::Subscribe(s)) => wire.subscribe = Some(s.into()),
        Ok(Answer::Unsubscribe) => wire.unsubscribe = Some(wire::Empty {}),
        Ok(Answer::Publish) => wire.publish = Some(wire::Empty {}),
        Ok(Answer::Presence(clients)) => {
            let presence = clients.iter().map(|(id, info)| (id.clone(), info.into())).collect();
            wire.presence = Some(wire::PresenceResult { presence });
        }
        &Ok(Answer::PresenceStats { num_clients, num_users }) => {
            wire.presence_stats = Some(wire::PresenceStatsResult { num_clients, num_users });
        }
        Ok(Answer::History { publications, epoch, offset }) => {
            let publications = publications.iter().map(Into::into).collect();
            wire.history = Some(wire::HistoryResult { publications, epoch: epoch.to_string(), offset: offset.0 });
        }
        Ok(Answer::Ping) => wire.ping = Some(wire::Empty {}),
        Ok(Answer::Rpc(data)) => wire.rpc = Some(wire::RpcResult { data: data.clone() }),
        Ok(Answer::Refresh { ttl }) => {
            let (expires, ttl) = expiry(*ttl);
            wire.refresh = Some(wire::RefreshResult { expires, ttl, ..Default::default() });
        }
        Ok(Answer::SubRefresh { ttl }) => {
            let (expires, ttl) = expiry(*ttl);
            wire.sub_refresh = Some(wire::SubRefreshResult { expires, ttl });
        }
    }
    write(&wire, out);
}

/// A push that ends a connection which is no WebSocket.
pub fn disconnect(code: u16, reason: &str) -> Bytes {
    let disconnect = wire::Disconnect { code: code.into(), reason: reason.to_owned(), reconnect: false };
    let push = wire::Push { disconnect: Some(disconnect), ..Default::default() };
    wire::Reply { push: Some(push), ..Default::default() }.encode_length_delimited_to_vec().into()
}

/// A push for `channel`.
pub fn push(channel: &str, push: &Push<'_>) -> Bytes {
    let mut out = Vec::new();
    write_push(channel, push, &mut out);
    out.into()
}

/// As [`push`], at the end of `out`. Copies the payload once, into what every member of the channel shares.
pub fn write_push(channel: &str, push: &Push<'_>, out: &mut Vec<u8>) {
    let mut wire = wire::Push { channel: channel.to_owned(), ..Default::default() };
    match *push {
        Push::Publication(publication) => wire.publication = Some(publication.into()),
        Push::Join(info) => wire.join = Some(wire::Presence { info: Some(info.into()) }),
        Push::Leave(info) => wire.leave = Some(wire::Presence { info: Some(info.into()) }),
        Push::Unsubscribe(CloseCode { code, reason }) => {
            wire.unsubscribe = Some(wire::Unsubscribe { code: code.into(), reason: reason.to_owned() });
        }
        Push::Subscribe { epoch, offset, recoverable } => {
            let (epoch, positioned) = (epoch.to_string(), true);
            wire.subscribe = Some(wire::Subscribe { recoverable, epoch, offset: offset.0, positioned });
        }
    }
    write(&wire::Reply { push: Some(wire), ..Default::default() }, out);
}

fn write(reply: &wire::Reply, out: &mut Vec<u8>) {
    reply.encode_length_delimited(out).expect("a vector takes everything");
}

/// `expires` and `ttl`.
fn expiry(ttl: Option<u32>) -> (bool, u32) {
    (ttl.is_some(), ttl.unwrap_or(0))
}

impl From<ErrorCode> for wire::Error {
    fn from(e: ErrorCode) -> Self {
        Self { code: e.code, message: e.message.to_owned(), temporary: e.temporary }
    }
}

impl From<&Connected> for wire::ConnectResult {
    fn from(c: &Connected) -> Self {
        let (expires, ttl) = expiry(c.ttl);
        Self {
            client: c.client.clone(),
            version: c.version.clone(),
            expires,
            ttl,
            data: Bytes::new(),
            subs: c.subs.iter().map(|(channel, sub)| (channel.clone(), sub.into())).collect(),
            ping: c.ping,
            pong: c.pong,
            session: c.session.clone(),
            node: c.node.clone(),
        }
    }
}

impl From<&Subscribed> for wire::SubscribeResult {
    fn from(s: &Subscribed) -> Self {
        let (expires, ttl) = expiry(s.ttl);
        Self {
            expires,
            ttl,
            recoverable: s.recoverable,
            epoch: s.epoch.to_string(),
            publications: s.publications.iter().map(Into::into).collect(),
            recovered: s.recovered,
            offset: s.offset.0,
            positioned: true,
            data: Bytes::new(),
            was_recovering: s.was_recovering,
        }
    }
}

impl From<&v1::Publication> for wire::Publication {
    fn from(p: &v1::Publication) -> Self {
        let tags = tags(p).map(|(name, value)| (name.to_owned(), value.into_owned()));
        Self { data: p.data.clone(), info: p.author().as_ref().map(Into::into), offset: p.seq, tags: tags.collect() }
    }
}

impl From<&v1::ClientInfo> for wire::ClientInfo {
    fn from(c: &v1::ClientInfo) -> Self {
        Self {
            user: c.user.clone(),
            client: c.client.clone(),
            conn_info: c.conn_info.clone(),
            chan_info: c.chan_info.clone(),
        }
    }
}
