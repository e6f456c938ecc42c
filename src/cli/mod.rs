//! The command line.

mod check;
mod keys;
mod serve;

use std::{
    error::Error,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// A Matrix homeserver.
///
/// Without a configuration file it serves the name `localhost` on 127.0.0.1:8008.
#[derive(Debug, Parser)]
#[command(name = "myelin", version)]
struct Arguments {
    /// The configuration file, in TOML. `myelin check --reference` prints all that may stand in it.
    #[arg(long, value_name = "PATH", env = "MYELIN_CONFIG", global = true)]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server; this is what happens if no command is given.
    Serve,
    /// Check the configuration and print what it resolves to, without secrets.
    Check {
        /// Print every key with its meaning and default instead.
        #[arg(long)]
        reference: bool,
        /// Compute the state of every room again from its events and compare it with what is
        /// stored. The server must not be running.
        #[arg(long, conflicts_with = "reference")]
        rooms: bool,
    },
    /// Print the keys that the server signs with and signed with before. The server must not be
    /// running.
    SigningKeys {
        /// Make a new key first. Other servers go on taking what was signed with the old one.
        #[arg(long)]
        rotate: bool,
    },
}

/// Runs the command that the process was started with.
///
/// A failure is told on stderr, with its causes, and by an exit code that is not 0.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let path = arguments.config.as_deref();
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(path),
        Command::Check { rooms: true, .. } => check::check_rooms(path),
        Command::Check { reference: true, .. } => check::print_reference(),
        Command::Check { .. } => check::run(path),
        Command::SigningKeys { rotate } => keys::run(path, rotate),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("myelin: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// With the environment of the process.
fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    Config::load(path, std::env::vars_os())
}

/// On stdout.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    match io::stdout().write_all(text.as_bytes()) {
        // `myelin check | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own message.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
