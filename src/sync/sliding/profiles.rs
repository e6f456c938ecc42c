//! Profiles of users of this server: of those in rooms that are new to the client, and whatever
//! changes.
//!
//! Proposal: MSC4262, <https://github.com/matrix-org/matrix-spec-proposals/pull/4262>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::UserId;

use super::{Sliding, SlidingError, extensions::Window, request, response::Profiles};
use crate::{
    e2ee,
    rooms::record::Membership,
    storage::{
        Json, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::PROFILES,
    },
    users::{ProfileUpdate, changed_profiles, profile_update},
};

/// About how much of whole profiles is sent at once. Clients ask for the others when they show them.
const MAX_BYTES: usize = 1 << 20;

impl Sliding {
    /// What there is to tell of profiles; none if there is nothing.
    pub(super) async fn profiles(
        &self,
        window: &Window<'_>,
        asked: &request::Profiles,
    ) -> Result<Option<Profiles>, SlidingError> {
        let (at, session) = (window.at, window.session);
        let mut found = Profiles::default();
        let mut whole = self.whose_profiles(window, asked).await?;
        let since = window.since.unwrap_or(0);
        let mut changed = BTreeSet::new();
        // Neither of this is told of by messages.
        if window.since.is_some() && window.only.is_none() {
            let span = (since, window.until);
            let lists = self.sync.device_lists(at, session, span, window.rooms).await?;
            let left = lists.left.into_iter().filter(|user| is_here(&session.user_id, user));
            found.users.extend(left.map(|user| (user, None)));
            changed = changed_profiles(at, since, window.until).await?;
        }
        let wants = |field: &str| asked.wants(field);
        let mut updates = BTreeMap::new();
        for user in changed {
            if self.is_seen(window, user).await? {
                updates.insert(user, profile_update(at, user, since, wants).await?);
            }
        }
        let mut bytes = 0;
        // Clients may know of themselves from nowhere else.
        let own = whole.take(&session.user);
        for user in own.into_iter().chain(whole) {
            let Some(Json(profile)) = PROFILES.get(at, &user).await? else { continue };
            let fields = ProfileUpdate::whole(profile, wants).updated;
            bytes += fields.values().map(|value| value.to_string().len()).sum::<usize>();
            if bytes > MAX_BYTES {
                break;
            }
            // What was removed meanwhile is told besides.
            updates.entry(user).or_default().updated = fields;
        }
        for (user, update) in updates.into_iter().filter(|(_, update)| !update.is_empty()) {
            found.users.insert(self.sync.db.users().name(&self.sync.db, user).await?, Some(update));
        }
        Ok((!found.users.is_empty()).then_some(found))
    }

    /// Whose profiles the client is to have and has not: the user's, and those of members whose
    /// events it gets in the rooms for which it asks.
    async fn whose_profiles(
        &self,
        window: &Window<'_>,
        asked: &request::Profiles,
    ) -> Result<BTreeSet<UserNumber>, SlidingError> {
        // It may have got less than it asks for now.
        let is_new = window.since.is_none() || window.before.profiles != *asked;
        let mut found = BTreeSet::new();
        if is_new {
            found.insert(window.session.user);
        }
        for number in self.rooms_of(window, &asked.rooms).await? {
            let Some(sent) = window.known.get(&number) else { continue };
            let is_initial = is_new || window.initial.contains(&number);
            if sent.required_state.wants_all_members() {
                if is_initial {
                    let room = self.sync.rooms.numbered(number).await?;
                    found.extend(room.local_members().iter());
                } else if window.only.is_none() {
                    self.add_who_came(window, number, &mut found).await?;
                }
                continue;
            }
            let before = window.before.rooms.get(&number).filter(|_| !is_initial);
            // Most rooms of most syncs: nothing was sent of them.
            if before.is_some_and(|before| Arc::ptr_eq(before, sent)) {
                continue;
            }
            for member in &sent.members {
                if before.is_some_and(|before| before.members.contains(member)) {
                    continue;
                }
                found.extend(self.user_here(window, member).await?);
            }
        }
        Ok(found)
    }

    /// Adds those who came into a room that the client has.
    async fn add_who_came(
        &self,
        window: &Window<'_>,
        number: RoomNumber,
        found: &mut BTreeSet<UserNumber>,
    ) -> Result<(), SlidingError> {
        let since = window.since.unwrap_or(0);
        if self.sync.rooms.last_position(number).await? <= since {
            return Ok(());
        }
        let room = self.sync.rooms.numbered(number).await?;
        let changes = self.sync.rooms.state_changes(window.at, &room, since, window.until).await?;
        let members = room.local_members();
        for event in changes.events.iter().filter(|event| event.event_type == "m.room.member") {
            let member = event.state_key.as_deref().unwrap_or_default();
            let user = self.user_here(window, member).await?;
            found.extend(user.filter(|user| members.binary_search(user).is_ok()));
        }
        Ok(())
    }

    /// A user of this server by their ID.
    async fn user_here(
        &self,
        window: &Window<'_>,
        user_id: &str,
    ) -> Result<Option<UserNumber>, StorageError> {
        match UserId::parse(user_id) {
            Ok(user_id) if is_here(&window.session.user_id, &user_id) => {
                self.sync.db.users().find(&self.sync.db, &*user_id).await
            }
            _ => Ok(None),
        }
    }

    /// Whether what changes of somebody's profile is told: to themselves and to those who share a
    /// room with them.
    async fn is_seen(&self, window: &Window<'_>, user: UserNumber) -> Result<bool, StorageError> {
        if user == window.session.user {
            return Ok(true);
        }
        let theirs: BTreeSet<RoomNumber> =
            e2ee::joined_rooms(window.at, user).await?.into_iter().collect();
        let mut rooms = window.rooms.iter();
        Ok(rooms.any(|(room, row)| row.membership == Membership::Join && theirs.contains(room)))
    }
}

/// Whether somebody is of the same server as `me`.
fn is_here(me: &UserId, user: &UserId) -> bool {
    user.server_name() == me.server_name()
}
