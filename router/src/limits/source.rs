//! Where a client is, if a proxy stands in between: `X-Forwarded-For`, and the PROXY protocol.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hyper::header::HeaderMap;
use ipnet::IpNet;
use ppp::{HeaderResult, PartialResult};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The header in which proxies say whom they speak for, the nearest last.
const FORWARDED: &str = "x-forwarded-for";

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest line of version 1.
const LINE: usize = 107;

/// Longest header of version 2, which says its length itself.
const BINARY: usize = 16 + 1_024;

/// The proxies that are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Networks such as `10.0.0.0/8`.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// This one is believed.
    pub fn trust(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }

    /// Where the client is that sent these headers through `peer`: the last address in them that is no trusted proxy's.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines: Vec<&str> = headers.get_all(FORWARDED).iter().filter_map(|line| line.to_str().ok()).collect();
        for said in lines.iter().flat_map(|line| line.split(',')).rev() {
            if !self.trust(client) {
                break;
            }
            let said = said.trim();
            let address = said.parse().ok().or_else(|| said.parse::<SocketAddr>().ok().map(|address| address.ip()));
            match address {
                Some(address) => client = address.to_canonical(),
                // Whoever wrote this is the last that can be named.
                None => break,
            }
        }
        client
    }
}

/// What came in front of a connection is no PROXY header.
#[derive(Debug, thiserror::Error)]
pub enum BadHeader {
    /// It is something else.
    #[error("it does not begin with a PROXY header")]
    Other,
    /// It broke off.
    #[error("{0}")]
    Read(#[from] io::Error),
}

/// Reads a PROXY header, version 1 or 2, and nothing more; gives the address of the client, if it names one.
///
/// # Errors
/// If there is none.
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, BadHeader> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        header.extend_from_slice(&rest);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        if header.len() + length > BINARY {
            return Err(BadHeader::Other);
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        header.extend_from_slice(&rest);
    } else {
        // By the byte: what follows the line belongs to the client.
        while header.starts_with(b"PROXY ") && !header.ends_with(b"\r\n") && header.len() < LINE {
            header.push(stream.read_u8().await?);
        }
    }
    let header = HeaderResult::parse(&header);
    if header.is_incomplete() {
        return Err(BadHeader::Other);
    }
    match header {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            ppp::v1::Addresses::Tcp4(tcp) => Some(tcp.source_address.into()),
            ppp::v1::Addresses::Tcp6(tcp) => Some(tcp.source_address.into()),
            ppp::v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            ppp::v2::Addresses::IPv4(ip) => Some(ip.source_address.into()),
            ppp::v2::Addresses::IPv6(ip) => Some(ip.source_address.into()),
            _ => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(BadHeader::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let client = |peer: &str, said: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in said {
                headers.append(FORWARDED, line.parse().unwrap());
            }
            proxies.client(peer.parse().unwrap(), &headers).to_string()
        };
        for (peer, said, is) in [
            ("192.0.2.1", &[][..], "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.9"], "192.0.2.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            // What the client wrote itself stands before what the proxy wrote.
            ("10.0.0.1", &["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.2.3.4, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, said), is, "{peer} {said:?}");
        }
    }

    async fn read(bytes: &[u8]) -> (Result<Option<String>, String>, Vec<u8>) {
        let mut stream = bytes;
        let read = read_header(&mut stream).await;
        (read.map(|ip| ip.map(|ip| ip.to_string())).map_err(|e| e.to_string()), stream.to_vec())
    }

    #[tokio::test]
    async fn proxy_headers_are_read_and_nothing_more() {
        let v1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\nGET /";
        assert_eq!(read(v1).await, (Ok(Some("203.0.113.9".into())), b"GET /".to_vec()));
        assert_eq!(read(b"PROXY UNKNOWN\r\nGET /").await, (Ok(None), b"GET /".to_vec()));
        let mut v2 = SIGNATURE.to_vec();
        v2.extend([0x21, 0x11, 0, 12, 203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0, 80]);
        v2.extend(b"GET /");
        assert_eq!(read(&v2).await, (Ok(Some("203.0.113.9".into())), b"GET /".to_vec()));
        let mut local = SIGNATURE.to_vec();
        local.extend([0x20, 0, 0, 0]);
        assert_eq!(read(&local).await, (Ok(None), vec![]));
        let mut long = SIGNATURE.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        for bad in [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], b"PROXY TCP4 x y 1 2\r\n", &long, b"PROXY TCP4", b""] {
            assert!(read(bad).await.0.is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 500]].concat();
        assert!(read(&endless).await.0.is_err());
    }
}
