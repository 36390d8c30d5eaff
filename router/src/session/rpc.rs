//! The RPC method `room.publish`: a publish that says where its publication ended up, and that can be repeated.

use bytes::Bytes;
use roomring_proto::close::ErrorCode;
use roomring_proto::{RoomId, limits};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::hub::api::Published;

/// Name of the method.
pub(super) const PUBLISH: &str = "room.publish";

/// Arguments of `room.publish`, checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PublishCall {
    pub(super) room: RoomId,
    /// Empty if none was given.
    pub(super) id: String,
    pub(super) data: Bytes,
}

impl PublishCall {
    /// Reads `{"channel": ..., "id": ..., "data": ...}`.
    pub(super) fn parse(arguments: &[u8]) -> Result<Self, ErrorCode> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            channel: String,
            #[serde(default)]
            id: Option<String>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
        }
        let wire: Wire<'_> = serde_json::from_slice(arguments).map_err(|_| ErrorCode::BAD_REQUEST)?;
        let id = wire.id.unwrap_or_default();
        let (Some(data), true) = (wire.data, id.len() <= limits::PUBLISH_ID_BYTES) else {
            return Err(ErrorCode::BAD_REQUEST);
        };
        let room = RoomId::new(&wire.channel).map_err(|_| ErrorCode::BAD_REQUEST)?;
        Ok(Self { room, id, data: Bytes::copy_from_slice(data.get().as_bytes()) })
    }
}

/// The answer of `room.publish`.
pub(super) fn published(published: &Published) -> Bytes {
    #[derive(Serialize)]
    struct Wire {
        offset: u64,
        epoch: String,
        duplicate: bool,
    }
    let wire = Wire {
        offset: published.position.seq.0,
        epoch: published.position.epoch.to_string(),
        duplicate: published.duplicate,
    };
    serde_json::to_vec(&wire).expect("numbers and text can be written as JSON").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let call = PublishCall::parse(br#"{"channel":"a","id":"m1","data":{"x": 1},"later":1}"#).unwrap();
        assert_eq!((call.room.as_str(), call.id.as_str(), &call.data[..]), ("a", "m1", &br#"{"x": 1}"#[..]));
        assert_eq!(PublishCall::parse(br#"{"channel":"a","data":1}"#).unwrap().id, "");
        let long = format!(r#"{{"channel":"a","data":1,"id":"{}"}}"#, "x".repeat(65));
        for bad in
            ["", "[]", "{}", r#"{"channel":"a"}"#, r#"{"channel":"","data":1}"#, r#"{"channel":7,"data":1}"#, &long]
        {
            assert_eq!(PublishCall::parse(bad.as_bytes()), Err(ErrorCode::BAD_REQUEST), "{bad}");
        }
    }
}
