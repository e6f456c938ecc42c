//! Rooms of other networks that application services put into the room directory.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#published-room-directories>

use super::registry::{Appservices, Service};
use crate::storage::{Batch, Range, StorageError, intern::RoomNumber, schema::APPSERVICE_ROOMS};

/// How many rooms of other networks are listed.
const MAX_LISTED: usize = 100_000;

/// What clients call a network of a service.
pub(super) fn instance_id(service: &Service, network: &str) -> String {
    format!("{}|{network}", service.id())
}

impl Appservices {
    /// Lists a room in a network of `service`, or takes it out.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn set_listed(
        &self,
        service: &Service,
        network: &str,
        room: RoomNumber,
        listed: bool,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        let key = (service.id(), network, room);
        if listed {
            APPSERVICE_ROOMS.put(&mut batch, &key, &());
        } else {
            APPSERVICE_ROOMS.delete(&mut batch, &key);
        }
        self.db().commit(batch).await
    }

    /// The rooms of one network, by what clients call it; of all networks, if they name none.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn listed(
        &self,
        instance: Option<&str>,
    ) -> Result<Vec<RoomNumber>, StorageError> {
        let mut rooms = Vec::new();
        let Some(registry) = self.registry() else { return Ok(rooms) };
        for service in registry.services() {
            let id = service.id();
            let range = match instance {
                None => Range::prefix(&(id,)),
                Some(instance) => {
                    let network = instance.strip_prefix(id).and_then(|rest| rest.strip_prefix('|'));
                    let Some(network) = network else { continue };
                    Range::prefix(&(id, network))
                }
            };
            let rows = APPSERVICE_ROOMS.scan(self.db(), &range, MAX_LISTED).await?;
            rooms.extend(rows.into_iter().map(|((_, _, room), ())| room));
        }
        Ok(rooms)
    }
}
