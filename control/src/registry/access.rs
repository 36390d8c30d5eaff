//! What etcd wants to see of whoever comes: a user with a password, certificates.

use std::path::PathBuf;

use etcd_client::ConnectOptions;

use crate::daemon::Invalid;
use crate::tls::TlsFiles;

/// The environment variable with the password, where no file has it. No flag has it: everybody on the machine sees flags.
const PASSWORD: &str = "ROOMRING_ETCD_PASSWORD";

/// The user and the files with which etcd is reached; none for an etcd that anybody may use. Files are read anew for each
/// new connection, so they may be replaced while the process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdAccess {
    /// The user's name.
    pub user: Option<String>,
    /// The user's password; [`PASSWORD`] if absent.
    pub password_file: Option<PathBuf>,
    /// Certificates.
    pub tls: TlsFiles,
}

impl EtcdAccess {
    /// Whether the servers at `urls` can be asked this way, as far as is seen from here.
    ///
    /// # Errors
    /// The first setting that can't be used, by its name in the configuration.
    pub fn check(&self, urls: &[String]) -> Result<(), Invalid> {
        self.apply(ConnectOptions::new())?;
        let tls = self.tls.ca_file.is_some();
        match urls.iter().find(|url| url.starts_with("https://") != tls) {
            Some(url) if tls => Err(Invalid::new("etcd", format!("is {url}, with certificates it must be https://"))),
            Some(url) => Err(Invalid::new("etcd_ca_file", format!("is missing, {url} needs it"))),
            None => Ok(()),
        }
    }

    /// Puts it into the options of a connection.
    ///
    /// # Errors
    /// The first setting that can't be used, by its name in the configuration.
    pub fn apply(&self, mut options: ConnectOptions) -> Result<ConnectOptions, Invalid> {
        match (&self.user, self.password()?) {
            (Some(user), Some(password)) => {
                // etcd's tokens end after minutes without use.
                options = options.with_user(user, password).with_auto_token_refresh(true);
            }
            (Some(_), None) => {
                return Err(Invalid::new(
                    "etcd_password_file",
                    format!("is missing, as is {PASSWORD}: a user has either"),
                ));
            }
            (None, Some(_)) => return Err(Invalid::new("etcd_user", "is missing, but there is a password")),
            (None, None) => {}
        }
        Ok(match self.tls.read("etcd")? {
            Some(pem) => options.with_tls(pem.client()),
            None => options,
        })
    }

    fn password(&self) -> Result<Option<String>, Invalid> {
        let text = match &self.password_file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| Invalid::new("etcd_password_file", format!("{}: {e}", path.display())))?,
            None => match std::env::var(PASSWORD) {
                Ok(text) => text,
                Err(_) => return Ok(None),
            },
        };
        // Editors and `echo` end files with a newline.
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (ca, key) = (file("ca", &made.cert.pem()), file("key", &made.signing_key.serialize_pem()));
        let user = Some("ann".to_owned());
        let (http, https) = (["http://a:1".to_owned()], ["https://a:1".to_owned()]);
        let none = EtcdAccess::default;
        let tls = |ca: &Option<PathBuf>, certificate: &Option<PathBuf>, key: &Option<PathBuf>| {
            let (ca_file, certificate_file, key_file) = (ca.clone(), certificate.clone(), key.clone());
            EtcdAccess { tls: TlsFiles { ca_file, certificate_file, key_file }, ..EtcdAccess::default() }
        };
        let rows = [
            (none(), &http, ""),
            (EtcdAccess { user: user.clone(), password_file: file("secret", "s\n"), ..none() }, &http, ""),
            (tls(&ca, &None, &None), &https, ""),
            (tls(&ca, &ca, &key), &https, ""),
            (none(), &https, "`etcd_ca_file`: is missing, https://a:1 needs it"),
            (tls(&ca, &None, &None), &http, "`etcd`: is http://a:1, with certificates"),
            (EtcdAccess { user, ..none() }, &http, "`etcd_password_file`: is missing, as is ROOMRING_ETCD_PASSWORD"),
            (EtcdAccess { password_file: file("secret", "s"), ..none() }, &http, "`etcd_user`: is missing"),
            (
                EtcdAccess { password_file: Some("/nowhere".into()), ..none() },
                &http,
                "`etcd_password_file`: /nowhere: No such file",
            ),
            (tls(&None, &None, &key), &https, "`etcd_ca_file`: is missing"),
            (tls(&ca, &ca, &None), &https, "`etcd_key_file`: is missing"),
            (tls(&ca, &None, &key), &https, "`etcd_certificate_file`: is missing"),
            (tls(&ca, &ca, &file("bad", "no key")), &https, "`etcd_certificate_file`: "),
        ];
        for (access, urls, expected) in rows {
            let told = access.check(urls.as_slice()).err().map(|e| e.to_string()).unwrap_or_default();
            let fits = if expected.is_empty() { told.is_empty() } else { told.contains(expected) };
            assert!(fits, "{access:?}: {told:?}, not {expected:?}");
        }
    }
}
