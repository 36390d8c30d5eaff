//! Certificates for a cluster that shows them to itself and to its etcd.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::write;

/// Signs certificates, and keeps everything in a directory: `ca.pem`, and for each name `NAME.pem` and `NAME-key.pem`.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, which nobody else trusts.
    pub fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        std::fs::create_dir_all(dir).expect("a directory");
        write(&dir.join("ca.pem"), &issuer.pem());
        Self { dir: dir.to_owned(), issuer }
    }

    /// A certificate of `name` for hosts of these names or addresses.
    pub fn issue(&self, name: &str, hosts: &[&str]) {
        let key = KeyPair::generate().expect("a key");
        let hosts: Vec<String> = hosts.iter().map(|&h| h.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        write(&self.file(&format!("{name}.pem")), &certificate.pem());
        write(&self.file(&format!("{name}-key.pem")), &key.serialize_pem());
    }

    /// Where a file of it is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Flags that name its certificate and that of `name`: `--PREFIX-ca-file` and so on.
    pub fn flags(&self, prefix: &str, name: &str) -> Vec<String> {
        let files =
            [("ca", "ca.pem".to_owned()), ("certificate", format!("{name}.pem")), ("key", format!("{name}-key.pem"))];
        let flag =
            |(what, file): (&str, String)| [format!("--{prefix}-{what}-file"), self.file(&file).display().to_string()];
        files.into_iter().flat_map(flag).collect()
    }
}
