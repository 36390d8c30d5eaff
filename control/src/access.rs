//! The flags with which every program reaches etcd and the cluster's processes.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use crate::daemon::Invalid;
use crate::registry::EtcdAccess;
use crate::tls::TlsFiles;
use crate::wire::Wire;

/// How etcd, nodes and routers let us in.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct AccessFlags {
    /// User of etcd; its password is in a file or in ROOMRING_ETCD_PASSWORD [default: none]
    #[arg(long, env = "ROOMRING_ETCD_USER", value_name = "NAME")]
    etcd_user: Option<String>,
    /// File with the password of etcd's user
    #[arg(long, env = "ROOMRING_ETCD_PASSWORD_FILE", value_name = "PATH")]
    etcd_password_file: Option<PathBuf>,
    /// File with the certificates that etcd's own are signed by, in PEM; needed by https URLs
    #[arg(long, env = "ROOMRING_ETCD_CA_FILE", value_name = "PATH")]
    etcd_ca_file: Option<PathBuf>,
    /// File with the certificate that etcd is shown, in PEM
    #[arg(long, env = "ROOMRING_ETCD_CERTIFICATE_FILE", value_name = "PATH")]
    etcd_certificate_file: Option<PathBuf>,
    /// File with that certificate's key, in PEM
    #[arg(long, env = "ROOMRING_ETCD_KEY_FILE", value_name = "PATH")]
    etcd_key_file: Option<PathBuf>,
    /// File with the certificates that those of the cluster's processes are signed by, in PEM: these then speak TLS with each other
    #[arg(long, env = "ROOMRING_PEER_CA_FILE", value_name = "PATH")]
    peer_ca_file: Option<PathBuf>,
    /// File with this process's certificate for the others, in PEM; its name has to be `roomring`
    #[arg(long, env = "ROOMRING_PEER_CERTIFICATE_FILE", value_name = "PATH")]
    peer_certificate_file: Option<PathBuf>,
    /// File with that certificate's key, in PEM
    #[arg(long, env = "ROOMRING_PEER_KEY_FILE", value_name = "PATH")]
    peer_key_file: Option<PathBuf>,
}

impl AccessFlags {
    /// As flags of a node or a router, which have the same names.
    pub fn flags(&self) -> Vec<OsString> {
        let files = [
            ("--etcd-password-file", &self.etcd_password_file),
            ("--etcd-ca-file", &self.etcd_ca_file),
            ("--etcd-certificate-file", &self.etcd_certificate_file),
            ("--etcd-key-file", &self.etcd_key_file),
            ("--peer-ca-file", &self.peer_ca_file),
            ("--peer-certificate-file", &self.peer_certificate_file),
            ("--peer-key-file", &self.peer_key_file),
        ];
        let files = files.into_iter().filter_map(|(flag, file)| Some((flag, file.as_ref()?.into())));
        let user = self.etcd_user.iter().map(|user| ("--etcd-user", user.into()));
        user.chain(files).flat_map(|(flag, value)| [flag.into(), value]).collect()
    }

    /// To etcd.
    pub fn etcd(&self) -> EtcdAccess {
        EtcdAccess {
            user: self.etcd_user.clone(),
            password_file: self.etcd_password_file.clone(),
            tls: TlsFiles {
                ca_file: self.etcd_ca_file.clone(),
                certificate_file: self.etcd_certificate_file.clone(),
                key_file: self.etcd_key_file.clone(),
            },
        }
    }

    /// To nodes and routers.
    ///
    /// # Errors
    /// If a file is missing or can't be used.
    pub fn wire(&self) -> Result<Wire, Invalid> {
        let files = TlsFiles {
            ca_file: self.peer_ca_file.clone(),
            certificate_file: self.peer_certificate_file.clone(),
            key_file: self.peer_key_file.clone(),
        };
        Wire::new(&files)
    }
}
