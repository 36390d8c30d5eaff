//! Logs: to stderr, so that stdout stays for the one line that says the process is ready.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::config::Invalid;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging what `filter` lets through (`info`, or `info,roomring_control=debug`).
///
/// # Errors
/// If `filter` can't be read: names the field `log`. If logging was started before, this does nothing.
pub fn start(filter: &str, format: LogFormat) -> Result<(), Invalid> {
    let filter = parse(filter)?;
    // Colours are for people who look on, not for files.
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, Invalid> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|_| Invalid::new("log", "expected a filter such as info or info,hyper=warn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_names_the_field() {
        assert!(parse("info,roomring_control=debug").is_ok());
        assert_eq!(
            parse("info,a=loudly").unwrap_err().to_string(),
            "configuration: `log`: expected a filter such as info or info,hyper=warn"
        );
    }
}
