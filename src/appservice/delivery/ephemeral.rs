//! Who types and who is there, as application services are told. Neither is kept on disk: what was
//! going on while a service was away is over.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#pushing-ephemeral-data>

use std::sync::Arc;

use serde_json::{json, value::RawValue};

use super::{Deliveries, DeliveryError};
use crate::{
    appservice::registry::{Registry, Service},
    users::presence::presence_event,
};

/// Up to which stream position a service was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen(u64);

impl From<u64> for Seen {
    fn from(position: u64) -> Self {
        Self(position)
    }
}

impl Deliveries {
    /// What changed of typing and presence since then and up to `until`.
    pub(super) async fn ephemeral_since(
        &self,
        registry: &Arc<Registry>,
        service: &Service,
        Seen(since): Seen,
        until: u64,
    ) -> Result<(Vec<Box<RawValue>>, Seen), DeliveryError> {
        let mut events = Vec::new();
        if !service.registration.receives_ephemeral || since >= until {
            return Ok((events, Seen(until)));
        }
        for room in self.typing.changed_rooms(since, until) {
            let Some(room) = self.rooms.room_if_here(room).await? else { continue };
            if !registry.of_room(self.db(), &room).await?.contains(service) {
                continue;
            }
            let users = self.db().users().names(self.db(), &self.typing.now(room.number)).await?;
            let content = json!({ "user_ids": users });
            let event = json!({ "type": "m.typing", "room_id": room.id, "content": content });
            events.push(serde_json::value::to_raw_value(&event)?);
        }
        for user in self.presence.changed(Some(since), until) {
            let Some((status, ago)) = self.presence.status(user) else { continue };
            let name = self.db().users().name(self.db(), user).await?;
            if service.speaks_for(&name) || self.shares_a_room(registry, service, user).await? {
                events.push(presence_event(&name, &status, ago));
            }
        }
        Ok((events, Seen(until)))
    }
}
