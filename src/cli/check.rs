//! `myelin check`: is this configuration all right, and what does it mean? With `--rooms`: does what
//! is stored about rooms follow from their events?

use std::{error::Error, fs::File, path::Path};

use super::print;
use crate::{
    appservice::registration::{BadRegistrations, read_all},
    clock::{Clock, Random},
    config::{Config, REFERENCE},
    http::load_tls,
    rooms::{Profile, Rooms, keys::ServerKey},
    storage::{Db, Settings},
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

/// What is stored about a room is not what follows from its events.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the rooms are not as they should be")]
struct Unsound(usize);

/// Computes the states of all rooms again and tells on stdout what differs.
pub(super) fn check_rooms(path: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let config = super::load(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let settings = Settings::new(config.server_name.clone(), config.memory.budget_bytes);
        let db = Db::open(&config.data_dir, &settings).await?;
        let random = Random::system();
        let key = ServerKey::load(&db, &random, &config.server_name).await?;
        // Nobody's profile is looked up: nothing is written.
        let profiles = Box::new(|_| Box::pin(async { Ok(Profile::default()) }) as _);
        let rooms = Rooms::new(db.clone(), Clock::System, random, key, profiles, (&config).into());
        let mut unsound = 0;
        let all = rooms.all_rooms().await?;
        for id in &all {
            let problems = match rooms.room(id).await {
                Ok(room) => rooms.check_room(&room).await.map(|findings| findings.problems),
                Err(error) => Err(error),
            };
            let problems = problems.unwrap_or_else(|error| vec![super::with_causes(&error)]);
            unsound += usize::from(!problems.is_empty());
            for problem in problems {
                print(&format!("{id}: {problem}\n"))?;
            }
        }
        db.close().await;
        print(&format!("{} rooms checked\n", all.len()))?;
        if unsound > 0 { Err(Unsound(unsound).into()) } else { Ok(()) }
    })
}

/// Prints the annotated list of keys.
pub(super) fn print_reference() -> Result<(), Box<dyn Error>> {
    print(REFERENCE)
}

/// Files that are only opened when the server starts.
fn problems_of_files(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, listener) in config.listener.iter().enumerate() {
        if let Some(Err(error)) = listener.tls.as_ref().map(load_tls) {
            problems.push(format!("listener[{index}].tls: {}", super::with_causes(&error)));
        }
    }
    for (index, file) in config.outgoing.ca_certificates.iter().enumerate() {
        if let Err(error) = File::open(file) {
            let file = file.display();
            problems
                .push(format!("outgoing.ca_certificates[{index}]: cannot read {file}: {error}"));
        }
    }
    if let Err(BadRegistrations(found)) =
        read_all(&config.appservice.registrations, &config.server_name)
    {
        problems.extend(found);
    }
    problems
}
