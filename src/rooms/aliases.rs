//! Room aliases of this server, and which rooms its directory lists.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>

use ruma::{OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId, RoomOrAliasId, ServerName};

use super::{
    Rooms,
    error::RoomError,
    event::MAX_FIELD_BYTES,
    record::{AliasRecord, Membership},
    room::Room,
    visibility::Visibility,
};
use crate::{
    storage::{
        Batch, Range, StorageError,
        schema::{ALIASES, PUBLIC_ROOMS, ROOM_ALIASES},
    },
    users::session::Session,
};

/// The most aliases of a room that are listed.
const MAX_LISTED: usize = 1_000;

impl Rooms {
    /// The room that an alias leads to. An application service may make it on the spot.
    ///
    /// # Errors
    /// [`RoomError::UnknownAlias`]; [`RoomError::RemoteRoom`] for another server's alias.
    pub(crate) async fn resolve(&self, alias: &RoomAliasId) -> Result<OwnedRoomId, RoomError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomError::RemoteRoom { room: alias.to_owned().into() });
        }
        let mut found = ALIASES.get(self.db(), alias).await?;
        if found.is_none()
            && let Some(appservices) = self.shared.appservices.get()
            && appservices.alias_exists(alias).await
        {
            found = ALIASES.get(self.db(), alias).await?;
        }
        let record = found.ok_or_else(|| RoomError::UnknownAlias { alias: alias.to_owned() })?;
        self.room_id(record.room).await
    }

    /// The room with this ID or alias.
    ///
    /// # Errors
    /// Those of [`Rooms::resolve`]; [`RoomError::RemoteRoom`] if the room is not here and `via`
    /// names servers that might have it, [`RoomError::UnknownRoom`] otherwise.
    pub(crate) async fn find(
        &self,
        id: &RoomOrAliasId,
        via: &[impl AsRef<ServerName>],
    ) -> Result<OwnedRoomId, RoomError> {
        if let Ok(alias) = <&RoomAliasId>::try_from(id) {
            return self.resolve(alias).await;
        }
        let room_id = <&RoomId>::try_from(id)
            .map_err(|_| RoomError::InvalidParam { why: "this is no room ID".to_owned() })?;
        match self.room(room_id).await {
            Ok(room) => Ok(room.id.clone()),
            Err(RoomError::UnknownRoom { room }) => {
                let elsewhere = via.iter().any(|server| server.as_ref() != self.server_name())
                    || room_id.server_name().is_some_and(|server| server != self.server_name());
                Err(if elsewhere {
                    RoomError::RemoteRoom { room }
                } else {
                    RoomError::UnknownRoom { room }
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Gives an alias to a room.
    ///
    /// # Errors
    /// [`RoomError::AliasTaken`], [`RoomError::NotInRoom`], [`RoomError::InvalidParam`] for
    /// another server's alias.
    pub(crate) async fn create_alias(
        &self,
        session: &Session,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), RoomError> {
        let invalid = |why: &str| Err(RoomError::InvalidParam { why: why.to_owned() });
        if alias.server_name() != self.server_name() {
            return invalid("the alias belongs to another server");
        }
        if alias.as_bytes().len() > MAX_FIELD_BYTES || alias.as_str().contains('\0') {
            return invalid("the alias is too long");
        }
        self.check_alias_owner(session, alias)?;
        let room = self.room(room_id).await?;
        self.require_joined(session, &room).await?;
        let mut batch = Batch::new();
        let record = AliasRecord { room: room.number, creator: session.user };
        ALIASES.require_absent(&mut batch, alias);
        ALIASES.put(&mut batch, alias, &record);
        ROOM_ALIASES.put(&mut batch, &(room.number, alias), &());
        match self.db().commit(batch).await {
            Err(StorageError::Precondition { .. }) => {
                Err(RoomError::AliasTaken { alias: alias.to_owned(), creating: false })
            }
            outcome => {
                room.audience.forget();
                Ok(outcome?)
            }
        }
    }

    /// Whether the session may make or delete an alias by its name: application services those in
    /// their namespaces, others those that are nobody's own.
    ///
    /// # Errors
    /// [`RoomError::Exclusive`].
    ///
    /// Spec: <https://spec.matrix.org/v1.19/application-service-api/#server-admin-style-permissions>
    pub(super) fn check_alias_owner(
        &self,
        session: &Session,
        alias: &RoomAliasId,
    ) -> Result<(), RoomError> {
        let Some(registry) = self.appservices() else { return Ok(()) };
        let refused = match &session.appservice {
            Some(acting) => !acting.service.has_alias(alias),
            None => registry.owner_of_alias(alias).is_some(),
        };
        if refused { Err(RoomError::Exclusive { alias: alias.to_owned() }) } else { Ok(()) }
    }

    /// Takes an alias away: who made it may, an application service that has it in a namespace, and who may change the room's canonical alias.
    ///
    /// # Errors
    /// [`RoomError::UnknownAlias`], [`RoomError::Forbidden`].
    pub(crate) async fn delete_alias(
        &self,
        session: &Session,
        alias: &RoomAliasId,
    ) -> Result<(), RoomError> {
        let unknown = || RoomError::UnknownAlias { alias: alias.to_owned() };
        let record = ALIASES.get(self.db(), alias).await?.ok_or_else(unknown)?;
        let room = self.numbered(record.room).await?;
        self.check_alias_owner(session, alias)?;
        let has_it =
            session.appservice.as_ref().is_some_and(|acting| acting.service.has_alias(alias));
        if record.creator != session.user && !has_it {
            self.require_joined(session, &room).await?;
            self.require_alias_power(session, &room).await?;
        }
        let mut batch = Batch::new();
        ALIASES.require_equals(&mut batch, alias, &record);
        ALIASES.delete(&mut batch, alias);
        ROOM_ALIASES.delete(&mut batch, &(record.room, alias));
        match self.db().commit(batch).await {
            Err(StorageError::Precondition { .. }) => Err(unknown()),
            outcome => {
                room.audience.forget();
                Ok(outcome?)
            }
        }
    }

    /// The aliases of a room: for those in it, and for all if all may read it.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`].
    pub(crate) async fn aliases(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let room = self.readable(room_id).await?;
        let visibility = Visibility::load(self, self.db(), &room, session.user).await?;
        if visibility.membership() != Some(Membership::Join) && !visibility.is_world_readable() {
            return Err(RoomError::NotInRoom { room: room.id.clone() });
        }
        let range = Range::prefix(&(room.number,));
        let rows = ROOM_ALIASES.scan(self.db(), &range, MAX_LISTED).await?;
        Ok(rows.into_iter().map(|((_, alias), ())| alias).collect())
    }

    /// Whether the room directory lists a room.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`].
    pub(crate) async fn is_public(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let room = self.room(room_id).await?;
        Ok(PUBLIC_ROOMS.contains(self.db(), &room.number).await?)
    }

    /// Puts a room into the room directory, or takes it out.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`], [`RoomError::Forbidden`] without the power to change the
    /// canonical alias.
    pub(crate) async fn set_public(
        &self,
        session: &Session,
        room_id: &RoomId,
        public: bool,
    ) -> Result<(), RoomError> {
        let room = self.room(room_id).await?;
        self.require_joined(session, &room).await?;
        self.require_alias_power(session, &room).await?;
        let mut batch = Batch::new();
        if public {
            PUBLIC_ROOMS.put(&mut batch, &room.number, &());
        } else {
            PUBLIC_ROOMS.delete(&mut batch, &room.number);
        }
        Ok(self.db().commit(batch).await?)
    }

    async fn require_joined(&self, session: &Session, room: &Room) -> Result<(), RoomError> {
        if session.guest {
            return Err(RoomError::GuestAccess);
        }
        match self.user_room(session.user, room.number).await? {
            Some(row) if row.membership == Membership::Join => Ok(()),
            _ => Err(RoomError::NotInRoom { room: room.id.clone() }),
        }
    }

    async fn require_alias_power(&self, session: &Session, room: &Room) -> Result<(), RoomError> {
        let powers = self.powers(room).await?;
        if powers.of(&session.user_id) < powers.needed_for_state("m.room.canonical_alias") {
            let why = "you have not the power to change the room's aliases".to_owned();
            return Err(RoomError::Forbidden { why });
        }
        Ok(())
    }
}
