//! The configuration: defaults, then one TOML file, then the environment.
//!
//! `reference.toml` documents every key and is at the same time the list of keys that exist:
//! whatever is not in it is refused, with the nearest key that is. [`sections`] has the types.

mod environment;
mod proxy;
mod reference;
mod secret;
mod sections;
mod validate;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

pub(crate) use self::{proxy::TrustedProxy, secret::Secret, sections::*};

/// Every key with its meaning and default, as an annotated TOML file.
pub(crate) const REFERENCE: &str = include_str!("reference.toml");

/// Why there is no configuration. The message stands by itself and names the keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file is missing or may not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax {
        /// As it was given.
        path: PathBuf,
        /// Line, column and what is wrong there.
        message: String,
    },
    /// Keys that do not exist, or values that cannot be.
    #[error("{}", problems.join("\n"))]
    Invalid {
        /// One line for each; never empty.
        problems: Vec<String>,
    },
}

impl ConfigError {
    fn one(problem: String) -> Self {
        Self::Invalid { problems: vec![problem] }
    }
}

impl Config {
    /// Reads the file, if one is given, and the environment over it.
    ///
    /// Of `environment` only what begins with `MYELIN_` is looked at.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read or is no TOML; a key is unknown; a value is of the
    /// wrong type or makes no sense.
    pub(crate) fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let reference = reference::table();
        let mut settings = match path {
            Some(path) => read_file(path)?,
            None => without_a_file(),
        };
        let mut problems = reference::unknown_keys(&settings, &reference);
        for (name, text) in environment {
            // No setting has a name that is not text.
            let Ok(name) = name.into_string() else { continue };
            let done = environment::apply(&mut settings, &reference, &name, text);
            if let Err(problem) = done {
                problems.push(problem);
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError::Invalid { problems });
        }

        let settings = over_defaults(settings);
        let config: Self = serde_path_to_error::deserialize(Value::Table(settings))
            .map_err(|error| ConfigError::one(describe(&error)))?;
        let problems = validate::problems(&config);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid { problems }) }
    }

    /// The configuration as TOML, with secrets masked.
    pub(crate) fn to_masked_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

/// Somebody who tries the server out has no file and wants an account; whoever writes a file says
/// so there.
fn without_a_file() -> Table {
    let registration = Table::from_iter([("enabled".to_owned(), Value::Boolean(true))]);
    Table::from_iter([("registration".to_owned(), Value::Table(registration))])
}

/// Settings on top of the defaults, key by key also where serde would take a table as a whole.
/// Lists are taken as they are set.
fn over_defaults(settings: Table) -> Table {
    fn merge(into: &mut Table, from: Table) {
        for (key, value) in from {
            match (into.get_mut(&key), value) {
                (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
                (_, value) => {
                    into.insert(key, value);
                }
            }
        }
    }
    let defaults = Value::try_from(Config::default());
    let mut merged = match defaults.expect("the defaults are plain values, which TOML can hold") {
        Value::Table(defaults) => defaults,
        _ => Table::new(),
    };
    merge(&mut merged, settings);
    merged
}

/// `log.format: unknown variant …`
fn describe(error: &serde_path_to_error::Error<toml::de::Error>) -> String {
    let message = error.inner().message();
    match error.path().to_string().as_str() {
        "." => message.to_owned(),
        path => format!("{path}: {message}"),
    }
}

#[cfg(test)]
mod tests;
