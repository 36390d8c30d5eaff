//! Commands of clients, in either encoding.

use roomring_proto::client::{Format, Request, json};
use serde::de::IgnoredAny;

/// Commands of a client.
pub fn client(data: &[u8]) {
    let (which, frame) = super::choice(data);
    let format = if which & 1 == 0 { Format::Json } else { Format::Protobuf };
    for command in format.decode(frame) {
        let Ok(command) = command else { return };
        let data = match &command.request {
            Request::Publish { data, .. } | Request::Rpc { data, .. } => data,
            Request::Connect(connect) => &connect.data,
            _ => continue,
        };
        // What goes out again as it came must not be able to break out of what it is put into.
        if format == Format::Json && !data.is_empty() {
            assert_eq!(json::embeddable(data).as_ref(), Ok(data), "{command:?}");
            let value: serde_json::Result<IgnoredAny> = serde_json::from_slice(data);
            assert!(value.is_ok() && !data.contains(&b'\n'), "{command:?}");
        }
    }
}
