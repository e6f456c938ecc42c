//! Who may read what: decided for each event from the state at that event.
//!
//! Each event carries the history visibility it was sent in. The memberships of this server's users
//! are kept by the stream position from which on they held; of what was sent before this server
//! was in the room, they were no members.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-5>

use serde::Deserialize;

use super::{
    Rooms,
    error::RoomError,
    record::{EventRecord, Membership, UserRoom},
    room::{Room, stored_states},
};
use crate::{
    storage::{
        Range, Read,
        intern::UserNumber,
        schema::{MEMBERSHIPS, USER_ROOMS},
    },
    users::Ignored,
};

/// How many changes of one user's membership are looked at: the latest. Before them nothing is
/// shown.
const MAX_CHANGES: usize = 1_000;

/// Who may read the history of a room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HistoryVisibility {
    /// `world_readable`
    WorldReadable,
    /// `shared`
    Shared,
    /// `invited`
    Invited,
    /// `joined`
    Joined,
}

impl HistoryVisibility {
    /// What a word means: `shared` unless it is one of the others.
    pub(super) fn named(word: &str) -> Self {
        match word {
            "world_readable" => Self::WorldReadable,
            "invited" => Self::Invited,
            "joined" => Self::Joined,
            _ => Self::Shared,
        }
    }

    /// The one that is written as these two bits.
    pub(super) fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::WorldReadable,
            1 => Self::Shared,
            2 => Self::Invited,
            _ => Self::Joined,
        }
    }

    /// What the content of the state event says; `shared` if there is no such event, or it says
    /// something else.
    fn in_content(content: &str) -> Self {
        #[derive(Deserialize)]
        struct Content {
            history_visibility: String,
        }
        let content: Result<Content, _> = serde_json::from_str(content);
        Self::named(content.as_ref().map_or("", |content| &content.history_visibility))
    }
}

/// What one user may read of one room.
#[derive(Clone, Debug)]
pub(crate) struct Visibility {
    user_id: String,
    /// The user's memberships, each with the stream position from which on it held, oldest first.
    memberships: Vec<(u64, Membership)>,
    /// The history visibility of now.
    now: HistoryVisibility,
    /// The user left and forgot the room.
    forgotten: bool,
    /// Whose events the user does not want.
    ignored: Ignored,
    /// Messages that were sent before this have expired, in ms since the Unix epoch.
    shown_from_ms: u64,
}

/// How much of a room's state a user may read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StateAccess {
    /// As it is now.
    Now,
    /// As it was at this stream position, when the user left.
    At(u64),
}

impl Visibility {
    /// Reads what `user` may see in `room`.
    pub(crate) async fn load(
        rooms: &Rooms,
        at: &impl Read,
        room: &Room,
        user: UserNumber,
    ) -> Result<Self, RoomError> {
        let user_room = USER_ROOMS.get(at, &(user, room.number)).await?;
        let ignored = Ignored::load(at, user).await?;
        Self::of(rooms, at, room, user, user_room.as_ref(), ignored).await
    }

    /// The same where it is known already what the user is to the room, and whom they ignore.
    pub(crate) async fn of(
        rooms: &Rooms,
        at: &impl Read,
        room: &Room,
        user: UserNumber,
        user_room: Option<&UserRoom>,
        ignored: Ignored,
    ) -> Result<Self, RoomError> {
        let user_id = rooms.db().users().name(rooms.db(), user).await?;
        let memberships = if user_room.is_none() {
            Vec::new()
        } else {
            let range = Range::prefix(&(room.number, user));
            let mut rows = MEMBERSHIPS.scan_back(at, &range, MAX_CHANGES).await?;
            rows.reverse();
            rows.into_iter().map(|((_, _, position), membership)| (position, membership)).collect()
        };
        let [now, retention] =
            stored_states(at, room.number, ["m.room.history_visibility", "m.room.retention"])
                .await?;
        Ok(Self {
            user_id: user_id.to_string(),
            memberships,
            now: now.map_or(HistoryVisibility::Shared, |event| {
                HistoryVisibility::in_content(event.content())
            }),
            forgotten: user_room.is_some_and(|row| row.forgotten),
            ignored,
            shown_from_ms: rooms.shown_from_ms(retention.as_deref()),
        })
    }

    /// The user's membership once everything up to `position` had happened.
    pub(crate) fn membership_at(&self, position: u64) -> Option<Membership> {
        at(&self.memberships, position)
    }

    /// The current membership.
    pub(crate) fn membership(&self) -> Option<Membership> {
        self.memberships.last().map(|(_, membership)| *membership)
    }

    /// Whether everybody may read the room as it is now.
    pub(crate) fn is_world_readable(&self) -> bool {
        self.now == HistoryVisibility::WorldReadable
    }

    /// How much of the state the user may read; none of it if they never were in the room.
    pub(crate) fn state_access(&self) -> Option<StateAccess> {
        if self.membership() == Some(Membership::Join) || self.is_world_readable() {
            return Some(StateAccess::Now);
        }
        if self.forgotten {
            return None;
        }
        // The first change after the last time the user was in.
        let last_in = self.memberships.iter().rposition(|(_, is)| *is == Membership::Join)?;
        self.memberships.get(last_in + 1).map(|(position, _)| StateAccess::At(*position))
    }

    /// Whether there can be anything in the room that the user may read.
    pub(crate) fn may_read(&self) -> bool {
        let invited_may_read = matches!(self.membership(), Some(Membership::Invite))
            && self.now == HistoryVisibility::Invited;
        self.state_access().is_some() || invited_may_read
    }

    /// Whether the user may see this event.
    ///
    /// The user's own membership changes and those of the history visibility are judged by what
    /// was before them too.
    pub(crate) fn allows(&self, event: &EventRecord) -> bool {
        !self.ignores(event) && self.allows_whoever_sent(event)
    }

    /// Whether the user does not want this event because of who sent it. State is always shown.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>
    pub(crate) fn ignores(&self, event: &EventRecord) -> bool {
        !event.is_state() && self.ignored.contains(&event.sender_id)
    }

    /// Whose events the user does not want.
    pub(crate) fn ignored(&self) -> &Ignored {
        &self.ignored
    }

    /// The same as [`Self::allows`], also for events of users who are ignored.
    pub(crate) fn allows_whoever_sent(&self, event: &EventRecord) -> bool {
        // What is not part of the room is nobody's to read, whoever knows its ID.
        if event.rejected || event.soft_failed {
            return false;
        }
        let position = event.as_of();
        let before = position.saturating_sub(1);
        let own_membership = event.is_state_of("m.room.member", &self.user_id);
        let expired = !event.is_state() && event.origin_server_ts < self.shown_from_ms;
        if expired || self.forgotten && !self.is_world_readable() {
            return false;
        }
        // The event that changes the visibility is sent in the old one and leads to the new one.
        let new = event
            .is_state_of("m.room.history_visibility", "")
            .then(|| HistoryVisibility::in_content(event.content()));
        let membership = self.membership_at(position);
        self.allows_at(position, event.visibility, membership)
            || new.is_some_and(|new| self.allows_at(position, new, membership))
            || own_membership
                && self.allows_at(position, event.visibility, self.membership_at(before))
    }

    fn allows_at(
        &self,
        position: u64,
        history: HistoryVisibility,
        membership: Option<Membership>,
    ) -> bool {
        // 1. If the history_visibility was set to world_readable, allow.
        history == HistoryVisibility::WorldReadable
            // 2. If the user's membership was join, allow.
            || membership == Some(Membership::Join)
            // 3. If history_visibility was set to shared, and the user joined the room at any point
            //    after the event was sent, allow.
            || history == HistoryVisibility::Shared && self.joined_after(position)
            // 4. If the user's membership was invite, and the history_visibility was set to
            //    invited, allow. 5. Otherwise, deny.
            || history == HistoryVisibility::Invited && membership == Some(Membership::Invite)
    }

    fn joined_after(&self, position: u64) -> bool {
        self.memberships.iter().rev().any(|(at, is)| *is == Membership::Join && *at > position)
    }
}

/// The value that held at `position`.
fn at<T: Copy>(changes: &[(u64, T)], position: u64) -> Option<T> {
    let after = changes.partition_point(|(from, _)| *from <= position);
    changes.get(after.checked_sub(1)?).map(|(_, value)| *value)
}
