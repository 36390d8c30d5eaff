//! Configuration in layers: flags win over `ROOMRING_*` variables, these over a TOML file, that over the defaults.
//!
//! A program declares its flags (every one optional) and its settings (the finished values), with the same field names.
//! The flag `--config FILE` (`ROOMRING_CONFIG`) is added by [`load`].
//!
//! ```
//! use roomring_control::daemon::{Invalid, Span, config};
//! use serde::{Deserialize, Serialize};
//!
//! /// A daemon.
//! #[derive(clap::Parser, Serialize)]
//! #[command(name = "exampled", version)]
//! struct Flags {
//!     /// Its name
//!     #[arg(long, env = "ROOMRING_ID")]
//!     id: Option<String>,
//!     /// How long it waits [default: 60s]
//!     #[arg(long, env = "ROOMRING_WAIT")]
//!     wait: Option<Span>,
//! }
//!
//! #[derive(Debug, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     id: String,
//!     #[serde(default = "default_wait")]
//!     wait: Span,
//! }
//!
//! fn default_wait() -> Span {
//!     Span::secs(60)
//! }
//!
//! impl config::Settings for Settings {
//!     fn check(&self) -> Result<(), Invalid> {
//!         if self.wait.0.is_zero() { Err(Invalid::new("wait", "must be over 0s")) } else { Ok(()) }
//!     }
//! }
//!
//! // A program calls `daemon::load::<Flags, Settings>()`.
//! let settings: Settings = config::parse::<Flags, _>(["exampled", "--id=a"]).unwrap();
//! assert_eq!(settings.wait, Span::secs(60));
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, CommandFactory, FromArgMatches};
use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Exit code for a flag, variable or file that can't be used.
pub const USAGE_EXIT_CODE: i32 = 2;

/// Largest configuration file, in bytes: a whole one has a few thousand; a wrong path may name anything.
const FILE_BYTES: u64 = 1 << 20;

/// Finished settings. Derive `Deserialize` with `deny_unknown_fields`, and give every field that is not required a default.
pub trait Settings: DeserializeOwned {
    /// Checks what the types of the fields don't.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    fn check(&self) -> Result<(), Invalid>;
}

/// A setting that can't be used. Displays as one line that names the source and the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {}{problem}", field.as_ref().map(|f| format!("`{f}`: ")).unwrap_or_default())]
pub struct Invalid {
    source_name: String,
    field: Option<String>,
    problem: String,
}

impl Invalid {
    /// The value of `field` breaks a rule, wherever it came from.
    pub fn new(field: &str, problem: impl Into<String>) -> Self {
        Self { source_name: "configuration".to_owned(), field: Some(field.to_owned()), problem: problem.into() }
    }

    fn file(path: &Path, field: Option<String>, problem: impl Into<String>) -> Self {
        Self { source_name: format!("config {}", path.display()), field, problem: problem.into() }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Help or version was asked for: here it is.
    #[error("{0}")]
    Shown(String),
    /// A flag or variable that can't be read.
    #[error("{0}")]
    Flag(String),
    /// A file or setting that can't be used.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// The settings of this process from its arguments, its environment and its file. If there are none it writes help to
/// stdout and exits with 0, or one line to stderr and exits with [`USAGE_EXIT_CODE`].
pub fn load<F, S>() -> S
where
    F: CommandFactory + FromArgMatches + Serialize,
    S: Settings,
{
    match parse::<F, S>(std::env::args_os()) {
        Ok(settings) => settings,
        Err(Stop::Shown(text)) => {
            print!("{text}");
            std::process::exit(0)
        }
        Err(e) => {
            eprintln!("{}: {e}", F::command().get_name());
            std::process::exit(USAGE_EXIT_CODE)
        }
    }
}

/// Like [`load`], of the given arguments (the first is the program's name), without an exit.
///
/// # Errors
/// Why there are no settings.
pub fn parse<F, S>(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<S, Stop>
where
    F: CommandFactory + FromArgMatches + Serialize,
    S: Settings,
{
    let file = Arg::new("config")
        .long("config")
        .env("ROOMRING_CONFIG")
        .value_name("FILE")
        .help("TOML file with more settings; flags and variables win over it")
        .value_parser(clap::value_parser!(PathBuf));
    let matches = F::command().arg(file).try_get_matches_from(args).map_err(from_clap)?;
    let flags = F::from_arg_matches(&matches).map_err(from_clap)?;

    let path = matches.get_one::<PathBuf>("config");
    let mut layers = Figment::new();
    if let Some(path) = path {
        layers = layers.merge(Toml::string(&read(path)?));
    }
    layers = layers.merge(Serialized::defaults(given(&flags)));

    let settings: S = layers.extract().map_err(|e| from_figment(e, path.map(PathBuf::as_path)))?;
    settings.check()?;
    Ok(settings)
}

fn read(path: &Path) -> Result<String, Invalid> {
    let problem = |e: std::io::Error| Invalid::file(path, None, format!("can't be read: {e}"));
    let bytes = std::fs::metadata(path).map_err(problem)?.len();
    if bytes > FILE_BYTES {
        return Err(Invalid::file(path, None, format!("has {bytes} bytes, the limit is {FILE_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(problem)
}

/// The flags that were given: absent ones must not hide the file's.
fn given(flags: &impl Serialize) -> Dict {
    let mut dict = Value::serialize(flags).ok().and_then(Value::into_dict).unwrap_or_default();
    dict.retain(|_, v| !matches!(v, Value::Empty(..)));
    dict
}

/// Clap writes paragraphs; the first says what is wrong.
fn from_clap(e: clap::Error) -> Stop {
    let text = e.to_string();
    if !e.use_stderr() {
        return Stop::Shown(text);
    }
    let lines = text.lines().map(str::trim).take_while(|l| !l.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    Stop::Flag(line.strip_prefix("error: ").unwrap_or(&line).to_owned())
}

/// Flags were checked one by one already, so what fails here comes from the file, or is missing everywhere.
fn from_figment(e: figment::Error, path: Option<&Path>) -> Invalid {
    let path_in_file = (!e.path.is_empty()).then(|| e.path.join("."));
    let (field, problem) = match e.kind {
        Kind::MissingField(field) => {
            let flag = field.replace('_', "-");
            let problem = format!("missing: give --{flag}, ROOMRING_{} or `{field}` in a file", field.to_uppercase());
            return Invalid::new(&field, problem);
        }
        Kind::UnknownField(field, _) => (Some(field), "no such setting".to_owned()),
        Kind::Message(text) => (path_in_file, one_line(&text)),
        kind => (path_in_file, one_line(&kind.to_string())),
    };
    match path {
        Some(path) => Invalid::file(path, field, problem),
        None => Invalid { source_name: "configuration".to_owned(), field, problem },
    }
}

/// TOML errors draw the line in question with `|` margins; the words suffice.
fn one_line(text: &str) -> String {
    let words = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.contains('|'));
    words.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{ByteSize, Span};
    use serde::Deserialize;
    use std::io::Write;

    #[derive(clap::Parser, Serialize)]
    #[command(name = "testd", version)]
    struct Flags {
        #[arg(long)]
        id: Option<String>,
        #[arg(long, env = "ROOMRING_TEST_ONLY_SLOTS")]
        slots: Option<u32>,
        #[arg(long)]
        fence_after: Option<Span>,
        #[arg(long)]
        room_bytes: Option<ByteSize>,
        #[arg(long, value_delimiter = ',')]
        etcd: Option<Vec<String>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Testd {
        id: String,
        #[serde(default = "slots")]
        slots: u32,
        #[serde(default = "minute")]
        fence_after: Span,
        room_bytes: Option<ByteSize>,
        #[serde(default)]
        etcd: Vec<String>,
    }

    fn slots() -> u32 {
        1024
    }

    fn minute() -> Span {
        Span::secs(60)
    }

    impl Settings for Testd {
        fn check(&self) -> Result<(), Invalid> {
            if self.slots == 0 { Err(Invalid::new("slots", "must be 1 to 16384")) } else { Ok(()) }
        }
    }

    fn with_file(text: &str, flags: &[&str]) -> Result<Testd, String> {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let args = ["testd", "--config", &path].into_iter().chain(flags.iter().copied());
        parse::<Flags, Testd>(args).map_err(|e| e.to_string().replace(&path, "FILE"))
    }

    #[test]
    fn flags_win_over_the_file_and_it_over_defaults() {
        let file = "id = 'a'\nslots = 64\nfence_after = '2s'\nroom_bytes = 4096\netcd = ['http://a']";
        let t = with_file(file, &["--slots", "128", "--etcd", "http://b,http://c"]).unwrap();
        assert_eq!((t.id.as_str(), t.slots, t.fence_after), ("a", 128, Span::secs(2)));
        assert_eq!(t.room_bytes, Some(ByteSize(4096)));
        assert_eq!(t.etcd, ["http://b", "http://c"]);
        let t = with_file("", &["--id=b"]).unwrap();
        assert_eq!((t.slots, t.fence_after, t.room_bytes), (1024, Span::secs(60), None));
    }

    #[test]
    fn every_error_is_one_line_that_names_the_field() {
        for (file, flags, says) in [
            ("id = 'a'\nfence_after = 60", &[][..], "config FILE: `fence_after`: expected a duration such as 60s"),
            ("id = 'a'\nfence_after = true", &[], "config FILE: `fence_after`: expected a duration such as 60s"),
            ("id = 'a'\nslots = 'many'", &[], "config FILE: `slots`: "),
            ("id = 'a'\nslots = -1", &[], "config FILE: `slots`: "),
            ("id = 'a'\nslotz = 1", &[], "config FILE: `slotz`: no such setting"),
            ("id = 'a'\nslots = = 1", &[], "config FILE: TOML parse error at line 2, column 9"),
            ("", &[], "configuration: `id`: missing: give --id, ROOMRING_ID or `id` in a file"),
            ("id = 'a'", &["--slots", "0"], "configuration: `slots`: must be 1 to 16384"),
            ("id = 'a'", &["--slots", "x"], "invalid value 'x' for '--slots <SLOTS>': "),
            ("", &["--fence-after", "60"], "invalid value '60' for '--fence-after <FENCE_AFTER>': expected a duration"),
            ("", &["--nope"], "unexpected argument '--nope' found"),
            ("", &["--id"], "a value is required for '--id <ID>' but none was supplied"),
        ] {
            let error = with_file(file, flags).unwrap_err();
            assert!(error.starts_with(says), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = parse::<Flags, Testd>(["testd", "--config", "/does/not/exist.toml"]).unwrap_err().to_string();
        assert!(error.starts_with("config /does/not/exist.toml: can't be read: "), "{error}");
    }

    #[test]
    fn help_is_no_error() {
        assert!(
            matches!(parse::<Flags, Testd>(["testd", "--help"]), Err(Stop::Shown(text)) if text.contains("--config"))
        );
    }
}
