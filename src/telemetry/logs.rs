//! Logs: text or JSON on stderr, each line of a request with the request's ID.
//!
//! At `info` and above no secrets, message contents or identifiers of rooms and events are logged.

use std::io::IsTerminal as _;

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt::MakeWriter, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};

/// A library that at `info` tells of every event it checks, with its ID.
const VERBOSE_AT_INFO: &str = "ruma_state_res=warn";
/// Libraries that below `info` tell of every frame and packet, headers with access tokens included.
const TALKATIVE: &str = "h2=info,hickory_proto=info,hickory_resolver=info,hyper=info,\
                         hyper_util=info,mio=info,reqwest=info,rustls=info,tower=info";

/// Changes the level while the server runs.
#[derive(Clone, Debug)]
pub(crate) struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// What is wrong with a level.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadLevel(String);

/// Why logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// No level and no directives.
    #[error("log.level: {0}")]
    Level(#[from] BadLevel),
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
    let (subscriber, level) = build(config, std::io::stderr, std::io::stderr().is_terminal())?;
    subscriber.try_init()?;
    log_panics();
    Ok(level)
}

fn build<W>(
    config: &Log,
    writer: W,
    colours: bool,
) -> Result<(impl Subscriber + Send + Sync, LogLevel), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, level) = reload::Layer::new(filter(&config.level)?);
    let format = tracing_subscriber::fmt::layer().with_writer(writer);
    let format = match config.format {
        LogFormat::Text => format.with_ansi(colours).boxed(),
        LogFormat::Json => format.json().flatten_event(true).with_span_list(false).boxed(),
    };
    Ok((tracing_subscriber::registry().with(filter).with(format), LogLevel(level)))
}

/// A bare level is meant for the server, not for the libraries below it; whoever wants to hear them
/// names them.
///
/// # Errors
/// [`BadLevel`] also for a lone word that is no level, such as `inof`: the library would take it for
/// the name of a module, and log nothing but that.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, BadLevel> {
    let is_word = |directive: &&str| !directive.contains(['=', '[']);
    for word in level.split(',').map(str::trim).filter(is_word) {
        if word.parse::<LevelFilter>().is_err() {
            return Err(BadLevel(format!("`{word}` is no level")));
        }
    }
    match level.parse::<LevelFilter>() {
        Ok(bare) if bare > LevelFilter::INFO => {
            EnvFilter::try_new(format!("{level},{TALKATIVE},{VERBOSE_AT_INFO}"))
        }
        Ok(LevelFilter::INFO) => EnvFilter::try_new(format!("{level},{VERBOSE_AT_INFO}")),
        _ => EnvFilter::try_new(level),
    }
    .map_err(|error| BadLevel(error.to_string()))
}

impl LogLevel {
    /// From now on logs what `level` asks for.
    ///
    /// # Errors
    /// [`LogError::Level`]; the level stays as it was.
    pub(crate) fn change(&self, level: &str) -> Result<(), LogError> {
        Ok(self.0.reload(filter(level)?)?)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::{debug, info, info_span, subscriber::with_default};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, say: impl FnOnce(&LogLevel)) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let config = Log { format, level: level.to_owned() };
        let (subscriber, level) = build(&config, move || writer.clone(), false).unwrap();
        with_default(subscriber, || say(&level));
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_of_a_request_have_its_id() {
        let say = |_: &LogLevel| info_span!("request", id = "abc-1").in_scope(|| info!("hello"));
        let lines = logged(LogFormat::Json, "info", say);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["message"], "hello");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["span"]["id"], "abc-1");
        let lines = logged(LogFormat::Text, "info", say);
        assert!(lines[0].contains("abc-1") && lines[0].contains("hello"), "{lines:?}");
    }

    #[test]
    fn the_level_can_be_changed() {
        let lines = logged(LogFormat::Text, "info", |level| {
            debug!("one");
            level.change("debug").unwrap();
            debug!("two");
            assert!(matches!(level.change("loud=="), Err(LogError::Level(_))));
            debug!("three");
            level.change("warn").unwrap();
            info!("four");
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with("two") && lines[1].ends_with("three"));
    }

    #[test]
    fn a_bare_level_is_not_for_libraries() {
        let say = |_: &LogLevel| {
            debug!("ours");
            debug!(target: "h2::codec", "theirs");
        };
        assert_eq!(logged(LogFormat::Text, "debug", say).len(), 1);
        assert_eq!(logged(LogFormat::Text, "debug,h2=debug", say).len(), 2);
    }
}
