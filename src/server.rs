//! Puts the areas together. Nothing else knows them all.

use std::sync::Arc;

use axum::{Router, extract::FromRef};
use futures::future::BoxFuture;

use crate::{
    api::router,
    clock::{Clock, Random},
    config::Config,
    rooms::{Profile, Rooms, keys::ServerKey},
    shutdown::Stopping,
    storage::{Db, StorageError},
    users::{AccountData, AccountError, Accounts, Filters, Profiles, activity, session::Sessions},
};

/// A homeserver, ready to answer requests.
pub(crate) struct Server {
    areas: Areas,
}

/// What handlers may ask for with `State`.
#[derive(Clone)]
pub(crate) struct Areas {
    config: Arc<Config>,
    db: Db,
    clock: Clock,
    sessions: Sessions,
    accounts: Accounts,
    profiles: Profiles,
    account_data: AccountData,
    filters: Filters,
    rooms: Rooms,
}

macro_rules! areas {
    ($($field:ident: $area:ty),* $(,)?) => {$(
        impl FromRef<Areas> for $area {
            fn from_ref(areas: &Areas) -> Self {
                areas.$field.clone()
            }
        }
    )*};
}

areas! {
    config: Arc<Config>,
    db: Db,
    clock: Clock,
    sessions: Sessions,
    accounts: Accounts,
    profiles: Profiles,
    account_data: AccountData,
    filters: Filters,
    rooms: Rooms,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Accounts can't be served as configured, or not be read.
    #[error("cannot serve accounts")]
    Accounts(#[from] AccountError),
    /// The signing key can't be read or made.
    #[error("cannot read or make the signing key")]
    SigningKey(#[source] StorageError),
}

impl Server {
    /// Puts the areas together over `db`, and goes on with what was interrupted.
    ///
    /// # Errors
    /// [`StartError`] if a setting can't be followed or what must be read at start can't be.
    pub(crate) async fn start(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        stopping: Stopping,
    ) -> Result<Self, StartError> {
        let sessions = Sessions::new(db.clone(), clock.clone(), random.clone());
        let accounts =
            Accounts::new(config, db.clone(), clock.clone(), random.clone(), sessions.clone())?;
        accounts.resume_closing().await.map_err(AccountError::from)?;
        tokio::spawn(activity::keep_writing(sessions.clone(), stopping));
        let key = ServerKey::load(&db, &random, &config.server_name)
            .await
            .map_err(StartError::SigningKey)?;
        let profiles = Profiles::new(db.clone());
        let profile_of = {
            let profiles = profiles.clone();
            Box::new(move |user| -> BoxFuture<'static, Result<Profile, StorageError>> {
                let profiles = profiles.clone();
                Box::pin(async move {
                    let found = profiles.get(user).await?;
                    Ok(Profile { displayname: found.displayname, avatar_url: found.avatar_url })
                })
            })
        };
        let rooms = Rooms::new(db.clone(), clock.clone(), random, key, profile_of);
        tokio::spawn(rooms.clone().run_profile_updates());
        Ok(Self {
            areas: Areas {
                config: Arc::new(config.clone()),
                clock,
                sessions,
                accounts,
                profiles,
                account_data: AccountData::new(db.clone()),
                filters: Filters::new(db.clone()),
                rooms,
                db,
            },
        })
    }

    /// A registration token for whoever starts the server for the first time: made once, if
    /// registering takes a token and none is configured.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn first_registration_token(&self) -> Result<Option<String>, StorageError> {
        self.areas.accounts.first_registration_token().await
    }

    /// Every endpoint.
    pub(crate) fn router(&self) -> Router {
        router::routes(self.areas.clone())
    }
}
