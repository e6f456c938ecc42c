//! `myelin signing-keys`: what this server's events are signed with.

use std::{error::Error, path::Path};

use super::print;
use crate::{
    clock::{Clock, Random},
    rooms::keys::ServerKey,
    storage::{Db, Settings},
};

/// Prints the keys on stdout, the one in use first; makes a new one before if `rotate` is set.
pub(super) fn run(path: Option<&Path>, rotate: bool) -> Result<(), Box<dyn Error>> {
    let config = super::load(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let settings = Settings::new(config.server_name.clone(), config.memory.budget_bytes);
        let db = Db::open(&config.data_dir, &settings).await?;
        let random = Random::system();
        let key = if rotate {
            let now_ms = Clock::System.now_ms();
            ServerKey::rotate(&db, &random, &config.server_name, now_ms).await?
        } else {
            ServerKey::load(&db, &random, &config.server_name).await?
        };
        db.close().await;
        print(&format!("{} {}\n", key.key_id(), key.public_key()))?;
        for old in key.retired().iter().rev() {
            print(&format!("{} until {} ms since 1970\n", old.key_id, old.expired_ms))?;
        }
        Ok(())
    })
}
