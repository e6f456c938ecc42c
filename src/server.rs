//! Puts the areas together. Nothing else knows them all.

use axum::{Router, extract::FromRef};

use crate::{
    api::router,
    clock::{Clock, Random},
    config::Config,
    rooms::{Profile, Rooms, keys::ServerKey},
    shutdown::Stopping,
    storage::{Db, StorageError},
    users::{Profiles, session::Sessions},
};

/// A homeserver, ready to answer requests.
pub(crate) struct Server {
    areas: Areas,
}

/// What handlers may ask for with `State`.
#[derive(Clone)]
pub(crate) struct Areas {
    rooms: Rooms,
    sessions: Sessions,
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
    rooms: Rooms,
    sessions: Sessions,
}

impl Server {
    /// Puts the areas together over `db`.
    ///
    /// # Errors
    /// [`StorageError`] if what must be read at start can't be.
    pub(crate) async fn start(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        _stopping: Stopping,
    ) -> Result<Self, StorageError> {
        let key = ServerKey::load(&db, &random, &config.server_name).await?;
        let profiles = Profiles::new(db.clone());
        let rooms = Rooms::new(
            db.clone(),
            clock,
            random,
            key,
            Box::new(move |user| {
                let profiles = profiles.clone();
                Box::pin(async move {
                    let profile = profiles.get(user).await?;
                    Ok(Profile { displayname: profile.displayname, avatar_url: profile.avatar_url })
                })
            }),
        );
        tokio::spawn(rooms.clone().run_profile_updates());
        Ok(Self { areas: Areas { rooms, sessions: Sessions::new(db) } })
    }

    /// Every endpoint.
    pub(crate) fn router(&self) -> Router {
        router::routes(self.areas.clone())
    }
}
