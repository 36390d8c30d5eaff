//! Tokens, headers and names.

use std::net::IpAddr;

use roomring_proto::{NodeId, RoomId};
use roomring_router::auth::{Tokens, Unix};
use roomring_router::limits::{Origins, Proxies};
use roomring_router::session::User;
use tokio_tungstenite::tungstenite::http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};

/// Tokens, headers and names.
pub fn edge(data: &[u8]) {
    let (first, rest) = super::piece(data);
    headers(first, rest);
    // Fails only for what connects without a token.
    let _ = User::of_connect_data(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(room) = RoomId::new(text) {
        assert_eq!(room.as_str(), text);
        assert!(room.slot(7).0 < 7);
    }
    if let Ok(node) = NodeId::new(text) {
        assert_eq!(node.as_str(), text);
    }
    let tokens = Tokens::new(None, None).with_secret(b"a secret of thirty-two bytes ....").expect("long enough");
    // Nobody guesses the signature.
    assert!(tokens.connection(text, Unix(1)).is_err());
    assert!(tokens.subscription(text, Unix(1)).is_err());
}

fn headers(first: &[u8], second: &[u8]) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (HeaderName::from_static("x-forwarded-for"), first),
        (HeaderName::from_static("x-forwarded-for"), second),
        (ORIGIN, first),
        (HOST, second),
    ] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let peer: IpAddr = [10, 0, 0, 1].into();
    let stranger: IpAddr = [192, 0, 2, 1].into();
    let proxies = Proxies::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    // Only a proxy is believed.
    assert_eq!(proxies.client(stranger, &headers), stranger);
    let client = proxies.client(peer, &headers);
    assert_eq!(client, client.to_canonical());
    let _ = Origins::new(&["https://app.example.com".to_owned()]).admit(&headers);
}
