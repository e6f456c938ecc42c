//! Finding people: those who share a room with the one who looks, or are in a public room.
//!
//! Names are found by the words in them. A row says that a user had a word in their name when they
//! came into some room; whether they still have it is seen when the name is read.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-directory>

use std::collections::{BTreeSet, HashSet};

use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::{
    RoomError,
    overview::Overviews,
    record::{EventRecord, Membership},
};
use crate::{
    storage::{
        Batch, Json, Range, Read, Snapshot,
        intern::{RoomNumber, UserNumber},
        schema::{NAME_WORDS, PROFILES, PUBLIC_ROOMS, SEEN_PROFILES, USER_ROOMS},
    },
    users::session::Session,
};

/// People of a page.
const MAX_LIMIT: usize = 50;
/// How many words of a name are kept, and of how many bytes.
const MAX_WORDS: usize = 16;
const MAX_WORD_BYTES: usize = 64;
/// How many rows of a word are looked at.
const MAX_ROWS: usize = 2_000;
/// For how many people it is found out whether they may be shown.
const MAX_CANDIDATES: usize = 500;
/// How many rooms of one user are looked at.
const MAX_ROOMS: usize = 5_000;
/// Rooms of a page of shared rooms.
const SHARED_PAGE: usize = 100;

/// The name and picture that a user's member events show.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct SeenProfile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// Somebody who was found, as they are written to the wire.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Person {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// People who were found.
#[derive(Debug, Serialize)]
pub(crate) struct People {
    results: Vec<Person>,
    limited: bool,
}

/// A page of the rooms that two users share.
#[derive(Debug)]
pub(crate) struct SharedRooms {
    /// The rooms.
    pub(crate) joined: Vec<OwnedRoomId>,
    /// How many there are in all.
    pub(crate) count: usize,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
}

/// The words of a text, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    let text = text.to_lowercase();
    let words: Vec<String> = text
        .split(|char: char| !char.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.chars().take(MAX_WORD_BYTES / 4).collect())
        .take(MAX_WORDS)
        .collect();
    words.into_iter()
}

/// Queues the rows by which somebody is found who came into a room, or whose name changed there.
pub(super) fn index(batch: &mut Batch, record: &EventRecord) {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let Some(user) = record.state_key.as_deref().and_then(|key| UserId::parse(key).ok()) else {
        return;
    };
    let joins = serde_json::from_str::<Content>(record.content())
        .is_ok_and(|content| content.membership == "join");
    if record.event_type != "m.room.member" || !joins {
        return;
    }
    // Names that are no texts are none.
    let profile: SeenProfile = serde_json::from_str(record.content()).unwrap_or_default();
    let name = profile.displayname.as_deref().unwrap_or_default();
    let found_by: BTreeSet<String> = words(name).chain(words(user.localpart())).collect();
    for word in found_by {
        NAME_WORDS.put(batch, &(word, user.clone()), &());
    }
    // What is longer than a row holds is not shown either.
    if record.content().len() < 8_192 {
        SEEN_PROFILES.put(batch, &user, &Json(profile));
    }
}

impl Overviews {
    /// Finds people by words that begin like those of `term`.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn search_people(
        &self,
        session: &Session,
        term: &str,
        limit: usize,
    ) -> Result<People, RoomError> {
        let limit = limit.min(MAX_LIMIT);
        let at = self.rooms().db().snapshot();
        let term = term.trim().trim_start_matches('@');
        let wanted: Vec<String> = words(term).collect();
        // The name of a server is in too many IDs to find anybody by it.
        let (local, _) = term.split_once(':').unwrap_or((term, ""));
        let found_by = words(local).max_by_key(String::len);
        let mut results: Vec<(bool, Person)> = Vec::new();
        let mut limited = false;
        if let Some(found_by) = found_by {
            let mine = self.rooms_of(&at, session.user).await?;
            let mut users: BTreeSet<OwnedUserId> = BTreeSet::new();
            let range = Range::text_beginning_with(&found_by);
            for ((_, user), ()) in NAME_WORDS.scan(&at, &range, MAX_ROWS).await? {
                users.insert(user);
            }
            for user in users.into_iter().take(MAX_CANDIDATES) {
                let Some(person) = self.person(&at, &user).await? else { continue };
                if !person.fits(&wanted) || !self.may_find(&at, session, &mine, &user).await? {
                    continue;
                }
                if results.len() == limit {
                    limited = true;
                    break;
                }
                let begins = person.begins_with(term);
                results.push((!begins, person));
            }
        }
        results.sort_by(|a, b| (a.0, &a.1.user_id).cmp(&(b.0, &b.1.user_id)));
        Ok(People { results: results.into_iter().map(|(_, person)| person).collect(), limited })
    }

    /// What is shown of a user: of one's own the profile, of others what their rooms show.
    async fn person(&self, at: &Snapshot, user_id: &UserId) -> Result<Option<Person>, RoomError> {
        let rooms = self.rooms();
        let profile = if user_id.server_name() == rooms.server_name() {
            let Some(user) = rooms.db().users().find(rooms.db(), user_id).await? else {
                return Ok(None);
            };
            PROFILES.get(at, &user).await?.map(|Json(profile)| SeenProfile {
                displayname: profile.displayname,
                avatar_url: profile.avatar_url.map(|url| url.to_string()),
            })
        } else {
            SEEN_PROFILES.get(at, user_id).await?.map(|Json(profile)| profile)
        };
        let profile = profile.unwrap_or_default();
        Ok(Some(Person {
            user_id: user_id.to_owned(),
            display_name: profile.displayname,
            avatar_url: profile.avatar_url,
        }))
    }

    /// Whether `user` may be shown to the one who looks.
    async fn may_find(
        &self,
        at: &Snapshot,
        session: &Session,
        mine: &HashSet<RoomNumber>,
        user_id: &UserId,
    ) -> Result<bool, RoomError> {
        let db = self.rooms().db();
        let Some(user) = db.users().find(db, user_id).await? else { return Ok(false) };
        if user == session.user {
            return Ok(true);
        }
        let theirs = self.rooms_of(at, user).await?;
        if theirs.iter().any(|room| mine.contains(room)) {
            return Ok(true);
        }
        let mut theirs: Vec<RoomNumber> = theirs.into_iter().collect();
        theirs.sort_unstable();
        let listed = PUBLIC_ROOMS.multi_get(at, theirs.iter()).await?;
        for (room, listed) in theirs.into_iter().zip(listed) {
            if listed.is_some() || self.of(at, room).await?.join_rule == "public" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn rooms_of(
        &self,
        at: &impl Read,
        user: UserNumber,
    ) -> Result<HashSet<RoomNumber>, RoomError> {
        let rows = USER_ROOMS.scan(at, &Range::prefix(&(user,)), MAX_ROOMS).await?;
        let joined = rows.into_iter().filter(|(_, row)| row.membership == Membership::Join);
        Ok(joined.map(|((_, room), _)| room).collect())
    }

    /// A page of the rooms that both users are in.
    ///
    /// # Errors
    /// [`RoomError::InvalidParam`] for oneself, or for a token that is none.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms>
    pub(crate) async fn shared_rooms(
        &self,
        session: &Session,
        other: &UserId,
        from: Option<&str>,
    ) -> Result<SharedRooms, RoomError> {
        let bad = |why: &str| RoomError::InvalidParam { why: why.to_owned() };
        if other == session.user_id {
            return Err(bad("one shares all rooms with oneself"));
        }
        let after = match from {
            Some(from) => {
                let number = from.strip_prefix("m1_").and_then(|number| number.parse().ok());
                Some(RoomNumber(number.ok_or_else(|| bad("this is no token of shared rooms"))?))
            }
            None => None,
        };
        let at = self.rooms().db().snapshot();
        let db = self.rooms().db();
        let mut shared = BTreeSet::new();
        if let Some(other) = db.users().find(db, other).await? {
            let mine = self.rooms_of(&at, session.user).await?;
            let theirs = self.rooms_of(&at, other).await?;
            shared = theirs.intersection(&mine).copied().collect();
        }
        let count = shared.len();
        let rest: Vec<RoomNumber> =
            shared.into_iter().filter(|room| after.is_none_or(|after| *room > after)).collect();
        let page = rest.get(..SHARED_PAGE.min(rest.len())).unwrap_or_default();
        let last = page.last().filter(|_| rest.len() > page.len());
        Ok(SharedRooms {
            joined: db.rooms().names(db, page).await?,
            count,
            next: last.map(|room| format!("m1_{}", room.0)),
        })
    }
}

impl Person {
    /// Whether each of the words begins a word of the user's name or ID.
    fn fits(&self, wanted: &[String]) -> bool {
        let name = self.display_name.as_deref().unwrap_or_default();
        let have: Vec<String> = words(name)
            .chain(words(self.user_id.localpart()))
            .chain(words(self.user_id.server_name().as_str()))
            .collect();
        wanted.iter().all(|word| have.iter().any(|has| has.starts_with(word.as_str())))
    }

    fn begins_with(&self, term: &str) -> bool {
        let term = term.to_lowercase();
        let name = self.display_name.as_deref().unwrap_or_default();
        name.to_lowercase().starts_with(&term) || self.user_id.localpart().starts_with(&term)
    }
}
