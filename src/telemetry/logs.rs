//! Logs: text or JSON on stderr, each line of a request with the request's ID.
//!
//! At `info` and above no secrets, message contents or identifiers of rooms and events are logged.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};

/// Changes the level while the server runs.
#[derive(Clone, Debug)]
pub(crate) struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Why logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// No level and no directives.
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// Only possible if this is the second time in one process.
    #[error("logs are already set up")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// Logs were never set up.
    #[error("the log level cannot be changed")]
    Reload(#[from] reload::Error),
}

/// Starts logging, and has panics logged as well.
///
/// # Errors
/// [`LogError::Level`], and [`LogError::Twice`] if the process logs already.
pub(crate) fn start(config: &Log) -> Result<LogLevel, LogError> {
    let (filter, level) = reload::Layer::new(EnvFilter::try_new(&config.level)?);
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = match config.format {
        LogFormat::Text => format.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => format.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(format).try_init()?;
    log_panics();
    Ok(LogLevel(level))
}

impl LogLevel {
    /// From now on logs what `level` asks for.
    ///
    /// # Errors
    /// [`LogError::Level`]; the level stays as it was.
    pub(crate) fn change(&self, level: &str) -> Result<(), LogError> {
        Ok(self.0.reload(EnvFilter::try_new(level)?)?)
    }
}

/// Where a panic was and what it said goes to the log, with the ID of the request it ended, and is
/// counted. By default it would be printed in a form of its own.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, message, "panic");
        metrics::counter!(super::metrics::PANICS).increment(1);
    }));
}
