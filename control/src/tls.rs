//! Certificates in files, as etcd's clients and our own processes use them.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::daemon::Invalid;

/// What a certificate in PEM begins with.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Where the certificates of one side of a connection are, all PEM. Settings have these names after a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that the other side's must be signed by.
    pub ca_file: Option<PathBuf>,
    /// The certificate that the other side is shown, with its chain.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// What is in them.
#[derive(Clone)]
pub(crate) struct Pem {
    pub(crate) ca: Certificate,
    /// Certificate and key.
    pub(crate) identity: Option<Identity>,
}

impl Pem {
    /// For whoever calls.
    pub(crate) fn client(&self) -> ClientTlsConfig {
        let tls = ClientTlsConfig::new().ca_certificate(self.ca.clone());
        match &self.identity {
            Some(identity) => tls.identity(identity.clone()),
            None => tls,
        }
    }
}

impl TlsFiles {
    /// Reads them; `None` if there are none.
    ///
    /// # Errors
    /// The first that is missing or can't be used, by its name after `prefix`.
    pub(crate) fn read(&self, prefix: &str) -> Result<Option<Pem>, Invalid> {
        let invalid = |name: &str, problem: String| Invalid::new(&format!("{prefix}_{name}"), problem);
        let missing = |name: &str, why: &str| invalid(name, format!("is missing, {why}"));
        let read = |name: &str, path: &Path| {
            std::fs::read(path).map_err(|e| invalid(name, format!("{}: {e}", path.display())))
        };
        let usable = |pem: Pem, name: &str, path: &Path| match why_not(&pem) {
            None => Ok(pem),
            Some(why) => Err(invalid(name, format!("{}: {why}", path.display()))),
        };
        let Some(ca) = &self.ca_file else {
            let needless = self.certificate_file.is_some() || self.key_file.is_some();
            return if needless { Err(missing("ca_file", "but there is a certificate or a key")) } else { Ok(None) };
        };
        let text = read("ca_file", ca)?;
        // Whoever trusts nobody is not told so before the first handshake.
        if !text.windows(BEGIN.len()).any(|part| part == BEGIN) {
            return Err(invalid("ca_file", format!("{}: has no certificate", ca.display())));
        }
        let pem = usable(Pem { ca: Certificate::from_pem(text), identity: None }, "ca_file", ca)?;
        match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => {
                let identity = Identity::from_pem(read("certificate_file", certificate)?, read("key_file", key)?);
                usable(Pem { identity: Some(identity), ..pem }, "certificate_file", certificate).map(Some)
            }
            (Some(_), None) => Err(missing("key_file", "a certificate needs its key")),
            (None, Some(_)) => Err(missing("certificate_file", "but there is a key")),
            (None, None) => Ok(Some(pem)),
        }
    }
}

/// Certificates are first looked at where an endpoint takes them.
fn why_not(pem: &Pem) -> Option<String> {
    let error = Endpoint::from_static("https://localhost").tls_config(pem.client()).err()?;
    let cause = std::error::Error::source(&error);
    Some(cause.map_or_else(|| error.to_string(), ToString::to_string))
}
