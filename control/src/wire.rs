//! How our own processes speak gRPC with each other: in the clear, or within TLS where both sides show a certificate.

use std::fmt;

use tonic::transport::{ClientTlsConfig, Endpoint, Server, ServerTlsConfig};

use crate::daemon::Invalid;
use crate::tls::TlsFiles;

/// The name that the certificate of every process has: processes come and go at addresses that no certificate could list.
pub const NAME: &str = "roomring";

/// How to call, and how to be called. Cheap to clone.
#[derive(Clone, Default)]
pub struct Wire {
    tls: Option<(ClientTlsConfig, ServerTlsConfig)>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("tls", &self.tls.is_some()).finish()
    }
}

impl Wire {
    /// As the files say; in the clear if there are none.
    ///
    /// # Errors
    /// The first file that is missing or can't be used, as a setting `peer_...`.
    pub fn new(files: &TlsFiles) -> Result<Self, Invalid> {
        let Some(pem) = files.read("peer")? else { return Ok(Self::default()) };
        let Some(identity) = pem.identity.clone() else {
            return Err(Invalid::new(
                "peer_certificate_file",
                "is missing, processes show each other their certificates",
            ));
        };
        let client = pem.client().domain_name(NAME);
        let server = ServerTlsConfig::new().identity(identity).client_ca_root(pem.ca);
        Ok(Self { tls: Some((client, server)) })
    }

    /// The process at `addr`, host:port.
    ///
    /// # Errors
    /// If that is no address.
    pub fn endpoint(&self, addr: &str) -> Result<Endpoint, tonic::transport::Error> {
        match &self.tls {
            Some((client, _)) => Endpoint::from_shared(format!("https://{addr}"))?.tls_config(client.clone()),
            None => Endpoint::from_shared(format!("http://{addr}")),
        }
    }

    /// A server that lets in whom it should.
    ///
    /// # Errors
    /// If the certificates can't be used, which they could when they were read.
    pub fn server(&self) -> Result<Server, tonic::transport::Error> {
        match &self.tls {
            Some((_, server)) => Server::builder().tls_config(server.clone()),
            None => Ok(Server::builder()),
        }
    }
}
