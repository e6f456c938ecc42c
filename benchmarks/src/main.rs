//! A load generator for Matrix homeservers.
//!
//! ```sh
//! myelin-bench run --url http://127.0.0.1:8008 --pid "$(pidof myelin)"
//! myelin-bench compare --myelin target/release/myelin --synapse ~/synapse/bin/python
//! myelin-bench growth --myelin target/release/myelin --plots docs/performance
//! myelin-bench room --myelin target/release/myelin
//! myelin-bench federation --myelin target/release/myelin
//! myelin-bench floor --directory .
//! ```
//!
//! `run` loads a server that is there: it must let users register without proof,
//! and limit no rates. `compare` starts the servers itself, with empty data, one
//! after the other, and prints one table of both. `growth` watches how the cost of
//! an operation follows the size of what it works on, and draws it. `room` builds one
//! large room and says what it costs, on the disk too. `federation` is another server to it, driven by
//! hand. `floor` says what this machine takes for the
//! parts of an operation that no server can leave out.
//!
//! All else goes through the client API. CPU time and memory are those of the
//! server's process; its children, if it has any, are not counted.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints rounded figures"
)]
#![allow(clippy::indexing_slicing, reason = "JSON is made by index, which adds what is missing")]
#![allow(clippy::disallowed_methods, reason = "latencies are real time")]

mod federation;
mod floor;
mod growth;
mod homeserver;
mod http;
mod measure;
mod plot;
mod report;
mod room;
mod scenarios;
mod usage;
mod world;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::homeserver::{Homeserver, Start};
use crate::http::CallError;
use crate::report::Report;
use crate::scenarios::Scenario;
use crate::world::{Scale, World};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Loads a server that runs already.
    Run {
        /// Where its client API is.
        #[arg(long)]
        url: String,
        /// ID of its process, if it runs on this machine: for CPU time and memory.
        #[arg(long)]
        pid: Option<u32>,
        #[command(flatten)]
        what: What,
    },
    /// Starts servers with empty data, and puts their figures side by side.
    Compare {
        #[command(flatten)]
        servers: Servers,
        #[command(flatten)]
        what: What,
    },
    /// Watches how costs grow with rooms, members and history.
    Growth {
        #[command(flatten)]
        servers: Servers,
        /// Up to how many times the smallest size.
        #[arg(long, default_value_t = 100)]
        times: usize,
        /// Directory for the plots.
        #[arg(long)]
        plots: PathBuf,
    },
    /// Builds one large room, and says what it costs in time and on the disk.
    Room {
        /// Binary of myelin.
        #[arg(long)]
        myelin: PathBuf,
        /// How many members it has.
        #[arg(long, default_value_t = 10_000)]
        members: usize,
        /// How many messages are sent there.
        #[arg(long, default_value_t = 100_000)]
        messages: usize,
        /// Also writes the figures to this file, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Sends it events as another server does, has it join and catch up, and has servers be gone.
    Federation {
        /// Binary of myelin.
        #[arg(long)]
        myelin: PathBuf,
        /// Events or members of each part.
        #[arg(long, default_value_t = 10_000)]
        events: usize,
    },
    /// Measures what the machine itself takes: the disk's flush, hashing, connections.
    Floor {
        /// A directory on the disk that is measured.
        #[arg(long, default_value = ".")]
        directory: PathBuf,
    },
}

#[derive(clap::Args)]
struct Servers {
    /// Binary of myelin.
    #[arg(long)]
    myelin: Option<PathBuf>,
    /// A Python interpreter that finds Synapse.
    #[arg(long)]
    synapse: Option<PathBuf>,
}

#[derive(clap::Args)]
struct What {
    /// Which scenarios; all of them if none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// How much of each.
    #[arg(long, value_enum, default_value_t = Scale::Full)]
    scale: Scale,
    /// Also writes the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Servers {
    fn all(&self) -> Vec<Start> {
        let myelin = self.myelin.clone().map(Start::Myelin);
        myelin.into_iter().chain(self.synapse.clone().map(Start::Synapse)).collect()
    }
}

#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("a request that prepares the measurements failed: {0}")]
    Preparation(#[from] CallError),
    #[error("{0}")]
    Start(String),
    #[error("cannot write the results: {0}")]
    Write(#[from] std::io::Error),
    #[error("cannot draw: {0}")]
    Draw(String),
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run(Arguments::parse().command).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), BenchError> {
    match command {
        Command::Run { url, pid, what } => {
            let server = Homeserver::at(&url, pid);
            finish(&what, &[load(&server, &what).await?])
        }
        Command::Compare { servers, what } => {
            let mut reports = Vec::new();
            for start in servers.all() {
                let server = start.empty()?;
                reports.push(load(&server, &what).await?);
            }
            finish(&what, &reports)
        }
        Command::Room { myelin, members, messages, json } => {
            let report = room::run(&myelin, members, messages).await?;
            print(&[report], json.as_deref())
        }
        Command::Federation { myelin, events } => {
            federation::print(&myelin, events).await;
            Ok(())
        }
        Command::Floor { directory } => Ok(floor::print(&directory)?),
        Command::Growth { servers, times, plots } => {
            std::fs::create_dir_all(&plots)?;
            growth::all(&servers.all(), times, &plots).await
        }
    }
}

/// All that `what` names, with one server.
async fn load(server: &Homeserver, what: &What) -> Result<Report, BenchError> {
    let mut report = Report::new(&server.name);
    report.idle_mib = server.usage.resident_mib();
    let world = World::new(server, what.scale).await?;
    let scenarios = match what.scenarios.as_slice() {
        [] => Scenario::all(),
        chosen => chosen,
    };
    for scenario in scenarios {
        report.rows.extend(scenario.run(&world).await?);
    }
    report.after_mib = server.usage.resident_mib();
    Ok(report)
}

fn finish(what: &What, reports: &[Report]) -> Result<(), BenchError> {
    print(reports, what.json.as_deref())
}

fn print(reports: &[Report], json: Option<&Path>) -> Result<(), BenchError> {
    for report in reports {
        println!("{report}");
    }
    if reports.len() > 1 {
        println!("{}", report::side_by_side(reports));
    }
    if let Some(file) = json {
        let json = serde_json::to_string_pretty(reports).map_err(std::io::Error::other)?;
        std::fs::write(file, json)?;
    }
    Ok(())
}
