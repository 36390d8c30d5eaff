//! TLS for clients: the certificate, looked at again every now and then, and WebSockets within TLS.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use roomring_control::daemon::Invalid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::session::stream::{Heard, Line, Told};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A certificate and its key, in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain, in PEM, the router's own first.
    pub certificate: PathBuf,
    /// The key, in PEM.
    pub key: PathBuf,
}

/// TLS with the certificate that the files have now.
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    files: Files,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({:?})", self.files)
    }
}

struct Current(RwLock<(Arc<CertifiedKey>, Contents)>);

/// A key is nobody's business.
impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Current")
    }
}

/// What the files had.
type Contents = (Vec<u8>, Vec<u8>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// If they can't be used.
    pub fn new(files: Files) -> Result<Self, Invalid> {
        let contents = read(&files)?;
        let certified = certified(&files, &contents)?;
        let current = Arc::new(Current(RwLock::new((certified, contents))));
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| Invalid::new("tls_certificate_file", e.to_string()))?;
        let mut config = config.with_no_client_auth().with_cert_resolver(current.clone());
        // WebSockets are made of HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current, files })
    }

    /// The handshake.
    ///
    /// # Errors
    /// If it fails.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Looks at the files every now and then: connections that begin later have what is in them then. Never returns.
    pub async fn follow(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            match self.look() {
                Ok(true) => tracing::info!(file = %self.files.certificate.display(), "another certificate from now on"),
                Ok(false) => {}
                // Half-written, perhaps: what was read before stays.
                Err(error) => tracing::warn!(%error, "the certificate stays as it is"),
            }
        }
    }

    fn look(&self) -> Result<bool, Invalid> {
        let contents = read(&self.files)?;
        let mut current = self.current.0.write().unwrap_or_else(PoisonError::into_inner);
        if current.1 == contents {
            return Ok(false);
        }
        *current = (certified(&self.files, &contents)?, contents);
        Ok(true)
    }
}

fn read(files: &Files) -> Result<Contents, Invalid> {
    let read = |field: &str, path: &PathBuf| {
        std::fs::read(path).map_err(|e| Invalid::new(field, format!("{}: {e}", path.display())))
    };
    Ok((read("tls_certificate_file", &files.certificate)?, read("tls_key_file", &files.key)?))
}

fn certified(files: &Files, (certificate, key): &Contents) -> Result<Arc<CertifiedKey>, Invalid> {
    let bad_certificate =
        |e: String| Invalid::new("tls_certificate_file", format!("{}: {e}", files.certificate.display()));
    let bad_key = |e: String| Invalid::new("tls_key_file", format!("{}: {e}", files.key.display()));
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|e| bad_certificate(e.to_string()))?;
    if chain.is_empty() {
        return Err(bad_certificate("has no certificate in PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad_key("has no private key in PEM".to_owned()))?;
    let certified = CertifiedKey::from_der(chain, key, &crypto::ring::default_provider());
    certified.map(Arc::new).map_err(|e| bad_key(format!("does not go with the certificate: {e}")))
}

/// A WebSocket on any stream, past its handshake.
pub(super) struct Socket<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket<S> {
    /// `read` is what was read beyond the handshake; `most` bounds the client's messages, in bytes.
    pub(super) async fn new(stream: S, read: Bytes, most: usize) -> Self {
        let config = WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most));
        Self(WebSocketStream::from_partially_read(stream, read.to_vec(), Role::Server, Some(config)).await)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Line for Socket<S> {
    async fn hear(&mut self) -> Option<Heard> {
        Some(match self.0.next().await? {
            Ok(Message::Text(text)) => Heard::Message { data: Bytes::from(text), text: true },
            Ok(Message::Binary(data)) => Heard::Message { data, text: false },
            Ok(Message::Pong(_)) => Heard::Pong,
            // Answered by tungstenite; a bare frame is never read.
            Ok(Message::Ping(_) | Message::Frame(_)) => {
                self.0.flush().await.ok()?;
                Heard::Ping
            }
            Ok(Message::Close(_)) => {
                // Its answer still has to go out.
                let _ = self.0.close(None).await;
                return None;
            }
            Err(Error::Capacity(CapacityError::MessageTooLong { max_size, .. })) => {
                Heard::Wrong(1009, Cow::Owned(format!("message over {max_size} bytes")))
            }
            Err(Error::Utf8(_)) => Heard::Wrong(1007, Cow::Borrowed("text is not UTF-8")),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return None,
            Err(Error::Protocol(_) | Error::Capacity(_)) => Heard::Wrong(1002, Cow::Borrowed("protocol error")),
            Err(_) => return None,
        })
    }

    async fn tell(&mut self, all: Vec<Told>) -> bool {
        for told in all {
            let message = match told {
                Told::Message { data, binary: true } => Message::Binary(data),
                // What the session writes is JSON.
                Told::Message { data, binary: false } => match Utf8Bytes::try_from(data) {
                    Ok(text) => Message::Text(text),
                    Err(_) => return false,
                },
                Told::Ping => Message::Ping(Bytes::new()),
                Told::Close(code, reason) => {
                    let reason = Utf8Bytes::from(reason.into_owned());
                    Message::Close(Some(CloseFrame { code: code.into(), reason }))
                }
            };
            if self.0.feed(message).await.is_err() {
                return false;
            }
        }
        self.0.flush().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &std::path::Path) -> Files {
        Files { certificate: dir.join("cert.pem"), key: dir.join("key.pem") }
    }

    fn write(files: &Files) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn files_are_checked_and_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let problem = || Tls::new(files.clone()).unwrap_err().to_string();
        assert!(problem().contains("`tls_certificate_file`: "), "{}", problem());
        write(&files);
        let good = std::fs::read(&files.key).unwrap();
        let tls = Tls::new(files.clone()).unwrap();
        assert_eq!(tls.look(), Ok(false));
        for (bad, says) in [("", "has no private key in PEM"), ("-----BEGIN", "has no private key in PEM")] {
            std::fs::write(&files.key, bad).unwrap();
            assert!(problem().contains(says), "{}", problem());
            assert!(tls.look().is_err());
        }
        std::fs::write(&files.key, good).unwrap();
        assert_eq!(tls.look(), Ok(false), "what was there before");
        let other = std::fs::read(&files.certificate).unwrap();
        write(&files);
        assert_eq!(tls.look(), Ok(true));
        std::fs::write(&files.certificate, other).unwrap();
        assert!(problem().contains("does not go with the certificate"), "{}", problem());
        std::fs::write(&files.certificate, "").unwrap();
        assert!(problem().contains("has no certificate in PEM"), "{}", problem());
    }
}
