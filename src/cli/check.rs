//! `myelin check`: is this configuration all right, and what does it mean?

use std::{
    error::Error,
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use crate::{
    config::{Config, REFERENCE},
    http::load_tls,
};

/// Something the configuration refers to is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
struct Unusable(Vec<String>);

/// Prints the configuration on stdout if a server would start with it.
pub(super) fn run(path: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let config = super::load(path)?;
    let problems = problems_of_files(&config);
    if !problems.is_empty() {
        return Err(Unusable(problems).into());
    }
    print(&config.to_masked_toml()?)
}

/// Prints the annotated list of keys.
pub(super) fn print_reference() -> Result<(), Box<dyn Error>> {
    print(REFERENCE)
}

fn print(text: &str) -> Result<(), Box<dyn Error>> {
    match io::stdout().write_all(text.as_bytes()) {
        // `myelin check | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Files that are only opened when the server starts.
fn problems_of_files(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, listener) in config.listener.iter().enumerate() {
        if let Some(Err(error)) = listener.tls.as_ref().map(load_tls) {
            problems.push(format!("listener[{index}].tls: {}", super::with_causes(&error)));
        }
    }
    let lists = [
        ("outgoing.ca_certificates", &config.outgoing.ca_certificates),
        ("appservice.registrations", &config.appservice.registrations),
    ];
    for (key, files) in lists {
        for (index, file) in files.iter().enumerate() {
            if let Err(error) = File::open(file) {
                problems.push(format!("{key}[{index}]: cannot read {}: {error}", file.display()));
            }
        }
    }
    problems
}
