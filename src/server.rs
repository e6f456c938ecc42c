//! Puts the areas together. Nothing else knows them all.

use axum::{Router, extract::FromRef};

use crate::{
    api::router,
    clock::{Clock, Random},
    config::Config,
    shutdown::Stopping,
    storage::{Db, StorageError},
    users::session::Sessions,
};

/// A homeserver, ready to answer requests.
pub(crate) struct Server {
    areas: Areas,
}

/// What handlers may ask for with `State`.
#[derive(Clone)]
pub(crate) struct Areas {
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
    sessions: Sessions,
}

impl Server {
    /// Puts the areas together over `db`.
    ///
    /// # Errors
    /// [`StorageError`] if what must be read at start can't be.
    pub(crate) async fn start(
        _config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        _stopping: Stopping,
    ) -> Result<Self, StorageError> {
        Ok(Self { areas: Areas { sessions: Sessions::new(db, clock, random) } })
    }

    /// Every endpoint.
    pub(crate) fn router(&self) -> Router {
        router::routes(self.areas.clone())
    }
}
