//! Logging: one line an event, as text or JSON, at a level that can be changed while the process runs. Floor 1.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Settings of logging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Directives such as `info` or `info,mesh_proxy=debug`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Changes the level of a running process.
#[derive(Clone, Debug, Default)]
pub struct LogLevel {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

/// A directive that cannot be read, or logging that is not set up.
#[derive(Debug, thiserror::Error)]
#[error("`{directives}` is not a log level: {reason}")]
pub struct LevelError {
    directives: String,
    reason: String,
}

impl LogLevel {
    /// Takes effect at once.
    ///
    /// # Errors
    /// [`LevelError`]; the level stays as it was.
    pub fn set(&self, directives: &str) -> Result<(), LevelError> {
        let wrong = |reason: String| LevelError { directives: directives.chars().take(200).collect(), reason };
        let filter = EnvFilter::builder().parse(directives).map_err(|error| wrong(error.to_string()))?;
        let handle = self.handle.as_ref().ok_or_else(|| wrong("logging was set up by somebody else".into()))?;
        handle.reload(filter).map_err(|error| wrong(error.to_string()))
    }

    /// The directives in force.
    #[must_use]
    pub fn get(&self) -> String {
        let current = self.handle.as_ref().and_then(|handle| handle.with_current(ToString::to_string).ok());
        current.unwrap_or_default()
    }
}

/// Sets up logging to standard error. Where the process has logging already (tests), that stays.
///
/// # Errors
/// [`LevelError`] where the level cannot be read.
pub fn init(config: &LogConfig) -> Result<LogLevel, LevelError> {
    let filter = EnvFilter::builder()
        .parse(&config.level)
        .map_err(|error| LevelError { directives: config.level.clone(), reason: error.to_string() })?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let set = match config.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    Ok(LogLevel { handle: set.is_ok().then_some(handle) })
}
