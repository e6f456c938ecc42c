//! The list of public rooms, and summaries of single rooms.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#published-room-directory>

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use ruma::{OwnedServerName, RoomId, RoomOrAliasId, ServerName};
use serde::Serialize;

use super::{
    RoomError,
    elsewhere::{Elsewhere, servers_of},
    overview::{Overview, Overviews},
};
use crate::{
    storage::{
        Range, Read, Snapshot,
        intern::{RoomNumber, UserNumber},
        schema::PUBLIC_ROOMS,
    },
    users::session::Session,
};

/// Rooms of a page if the request does not say.
const DEFAULT_LIMIT: usize = 100;
/// The most rooms of a page.
const MAX_LIMIT: usize = 500;
/// How many rows one step takes.
const STEP: usize = 1_000;

/// Which public rooms.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListRequest {
    /// How many at most.
    pub(crate) limit: Option<usize>,
    /// The token of a page.
    pub(crate) since: Option<String>,
    /// Only rooms with this in name, topic or alias, whatever the case.
    pub(crate) term: Option<String>,
    /// Only rooms of one of these types; none stands for rooms without a type.
    pub(crate) types: Option<Vec<Option<String>>>,
    /// Out of which rooms.
    pub(crate) listing: Listing,
}

/// Which rooms a list is made of.
#[derive(Clone, Debug, Default)]
pub(crate) enum Listing {
    /// Those that the directory of this server lists.
    #[default]
    Public,
    /// Those, and these of other networks.
    With(Vec<RoomNumber>),
    /// These of another network alone.
    Only(Vec<RoomNumber>),
}

/// A page of public rooms.
#[derive(Debug, Default, Serialize)]
pub(crate) struct List {
    chunk: Vec<Arc<Overview>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    total_room_count_estimate: usize,
}

/// A room's place in the list: the largest first.
type Place = (Reverse<usize>, RoomNumber);

/// Where a page begins. As text: `n` for after or `p` for before, the members and the number of a
/// room, such as `n_12_7`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Token {
    After(Place),
    Before(Place),
}

impl Token {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('_');
        let (way, members, room) = (parts.next()?, parts.next()?, parts.next()?);
        let place = (Reverse(members.parse().ok()?), RoomNumber(room.parse().ok()?));
        match (way, parts.next()) {
            ("n", None) => Some(Self::After(place)),
            ("p", None) => Some(Self::Before(place)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (way, (Reverse(members), room)) = match self {
            Self::After(place) => ('n', place),
            Self::Before(place) => ('p', place),
        };
        write!(out, "{way}_{members}_{}", room.0)
    }
}

/// A room's summary, with what the user is to it.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(flatten)]
    overview: Overview,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
}

impl Overviews {
    /// A page of the rooms that the directory of this server lists, the largest first.
    ///
    /// # Errors
    /// [`RoomError::InvalidParam`] for a token that is none.
    pub(crate) async fn public_rooms(&self, request: &ListRequest) -> Result<List, RoomError> {
        let token = match request.since.as_deref().filter(|since| !since.is_empty()) {
            None => None,
            Some(since) => Some(Token::parse(since).ok_or_else(|| RoomError::InvalidParam {
                why: "this is no token of the room directory".to_owned(),
            })?),
        };
        let at = self.rooms().db().snapshot();
        let mut found: Vec<(Place, Arc<Overview>)> = Vec::new();
        let listed = listed(&at, &request.listing).await?;
        let total = listed.len();
        for room in listed {
            let overview = self.of(&at, room).await?;
            if request.wants(&overview) {
                found.push(((Reverse(overview.num_joined_members), room), overview));
            }
        }
        found.sort_by_key(|(place, _)| *place);
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let (start, end) = match token {
            None => (0, limit),
            Some(Token::After(last)) => {
                let start = found.partition_point(|(place, _)| *place <= last);
                (start, start + limit)
            }
            Some(Token::Before(first)) => {
                let end = found.partition_point(|(place, _)| *place < first);
                (end.saturating_sub(limit), end)
            }
        };
        let end = end.min(found.len());
        let page = found.get(start..end).unwrap_or_default();
        let first = page.first().filter(|_| start > 0);
        let last = page.last().filter(|_| end < found.len());
        Ok(List {
            prev_batch: first.map(|(place, _)| Token::Before(*place).to_string()),
            next_batch: last.map(|(place, _)| Token::After(*place).to_string()),
            chunk: page.iter().map(|(_, overview)| Arc::clone(overview)).collect(),
            total_room_count_estimate: total,
        })
    }

    /// A room's summary, for those who may know of it.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], also if the user may not know of the room.
    pub(crate) async fn summary(
        &self,
        session: Option<&Session>,
        id: &RoomOrAliasId,
        via: &[impl AsRef<ServerName>],
    ) -> Result<Summary, RoomError> {
        let unknown = || RoomError::UnknownRoom { room: id.to_owned() };
        let room_id = self.rooms().find(id, via).await?;
        let at = self.rooms().db().snapshot();
        let number = self.number(&room_id).await?.ok_or_else(unknown)?;
        let overview = self.of(&at, number).await?;
        let user = session.map(|session| session.user);
        if !self.may_see(&at, &overview, Some(number), user).await? {
            return Err(unknown());
        }
        self.summed_up(&at, &overview, Some(number), user).await
    }

    /// The summary of a room that is not here, for a user who may know of it.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], also if no other server tells of it.
    pub(crate) async fn summary_elsewhere(
        &self,
        session: &Session,
        room_id: &RoomId,
        via: &[OwnedServerName],
        elsewhere: &dyn Elsewhere,
    ) -> Result<Summary, RoomError> {
        let unknown = || RoomError::UnknownRoom { room: room_id.to_owned().into() };
        let via = servers_of(room_id, via.iter().cloned());
        let told = elsewhere.room(room_id, &via, false).await.ok_or_else(unknown)?;
        let db = self.rooms().db();
        let at = db.snapshot();
        let number = db.rooms().find(db, room_id).await?;
        if !self.may_see(&at, &told.overview, number, Some(session.user)).await? {
            return Err(unknown());
        }
        self.summed_up(&at, &told.overview, number, Some(session.user)).await
    }

    async fn summed_up(
        &self,
        at: &Snapshot,
        overview: &Overview,
        number: Option<RoomNumber>,
        user: Option<UserNumber>,
    ) -> Result<Summary, RoomError> {
        let membership = match (user, number) {
            (Some(user), Some(number)) => self.membership(at, user, number).await?,
            _ => None,
        };
        Ok(Summary {
            overview: overview.clone(),
            membership: user.map(|_| membership.map_or("leave", |is| is.as_str())),
        })
    }
}

async fn listed(at: &impl Read, listing: &Listing) -> Result<BTreeSet<RoomNumber>, RoomError> {
    let mut rooms = BTreeSet::new();
    match listing {
        Listing::Public => {}
        Listing::With(others) => rooms.extend(others),
        Listing::Only(others) => return Ok(others.iter().copied().collect()),
    }
    let mut range = Range::all();
    loop {
        let rows = PUBLIC_ROOMS.scan(at, &range, STEP).await?;
        rooms.extend(rows.iter().map(|(room, ())| *room));
        let Some((last, ())) = rows.last().filter(|_| rows.len() == STEP) else { break };
        range = range.after(last);
    }
    Ok(rooms)
}

impl ListRequest {
    fn wants(&self, overview: &Overview) -> bool {
        let of_type = self.types.as_ref().is_none_or(|types| types.contains(&overview.room_type));
        let term = self.term.as_deref().map(str::to_lowercase).filter(|term| !term.is_empty());
        of_type
            && term.is_none_or(|term| {
                [&overview.name, &overview.topic, &overview.canonical_alias]
                    .into_iter()
                    .flatten()
                    .any(|text| text.to_lowercase().contains(&term))
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_round_trip(members: usize, room: u64, before: bool) {
            let place = (Reverse(members), RoomNumber(room));
            let token = if before { Token::Before(place) } else { Token::After(place) };
            prop_assert_eq!(Token::parse(&token.to_string()), Some(token));
        }

        #[test]
        fn rubbish_is_no_token(rubbish: String) {
            let _ = Token::parse(&rubbish);
        }
    }
}
