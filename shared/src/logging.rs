//! Log lines on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Config, ConfigError, LogFormat};

/// Starts logging as the settings ask.
///
/// # Errors
/// If the filter is none.
pub fn start(config: &Config) -> Result<(), ConfigError> {
    let bad =
        |error: tracing_subscriber::filter::ParseError| ConfigError { variable: "RUST_LOG", reason: error.to_string() };
    let filter = EnvFilter::builder().parse(&config.log_filter).map_err(bad)?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match config.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
