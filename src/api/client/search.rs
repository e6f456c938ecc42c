//! Finding events by their words.

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use ruma::{
    UInt,
    api::client::{
        filter::RoomEventFilter,
        search::search_events::v3::{
            EventContext, EventContextResult, GroupingKey, Groupings, OrderBy, Request, Response,
            ResultCategories, ResultGroup, ResultGroupMap, ResultGroupMapsByGroupingKey,
            ResultRoomEvents, SearchKeys, SearchResult, UserProfile,
        },
    },
    serde::Raw,
};
use serde::Deserialize;

use crate::{
    api::{error::ApiError, extract::Ruma, guests, json::ClientJson},
    rooms::{Around, Field, Found, Group, Order, Place, Rooms, SearchRequest, Surroundings},
};

/// The longest search term, in bytes.
const MAX_TERM_BYTES: usize = 1_000;

/// The query.
#[derive(Deserialize)]
pub(crate) struct Parameters {
    next_batch: Option<String>,
}

/// The body. Unlike ruma's type it tells whether context is wanted at all.
#[derive(Deserialize)]
pub(crate) struct Body {
    search_categories: Categories,
}

#[derive(Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<SearchKeys>>,
    #[serde(default)]
    filter: RoomEventFilter,
    order_by: Option<OrderBy>,
    event_context: Option<EventContext>,
    include_state: Option<bool>,
    #[serde(default)]
    groupings: Groupings,
}

impl Criteria {
    /// What is looked for, from where on.
    fn request(&self, after: Option<Place>) -> Result<SearchRequest, ApiError> {
        if self.search_term.len() > MAX_TERM_BYTES {
            return Err(ApiError::invalid_param("the search term is too long"));
        }
        let fields = match &self.keys {
            None => vec![Field::Body, Field::Name, Field::Topic],
            Some(keys) => keys.iter().map(field).collect::<Result<_, _>>()?,
        };
        let order = match &self.order_by {
            None | Some(OrderBy::Rank) => Order::Rank,
            Some(OrderBy::Recent) => Order::Recent,
            Some(other) => {
                let why = format!("results can't be ordered by {other}");
                return Err(ApiError::invalid_param(why));
            }
        };
        let events = |limit: UInt| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX);
        let around = self.event_context.as_ref().map(|context| Around {
            before: events(context.before_limit),
            after: events(context.after_limit),
            profiles: context.include_profile,
        });
        Ok(SearchRequest {
            term: self.search_term.clone(),
            fields,
            filter: self.filter.clone().into(),
            order,
            around,
            with_state: self.include_state.unwrap_or(false),
            after,
        })
    }
}

fn field(key: &SearchKeys) -> Result<Field, ApiError> {
    match key {
        SearchKeys::ContentBody => Ok(Field::Body),
        SearchKeys::ContentName => Ok(Field::Name),
        SearchKeys::ContentTopic => Ok(Field::Topic),
        other => Err(ApiError::invalid_param(format!("{other} can't be searched"))),
    }
}

/// `POST /_matrix/client/v3/search`
pub(crate) async fn search_events(
    State(rooms): State<Rooms>,
    Query(Parameters { next_batch }): Query<Parameters>,
    ClientJson { session, value, .. }: ClientJson<Body>,
) -> Result<Ruma<Response>, ApiError> {
    guests::check::<Request>(&session)?;
    let mut categories = ResultCategories::new();
    if let Some(criteria) = value.search_categories.room_events {
        let after = next_batch.filter(|token| !token.is_empty());
        let after = after.as_deref().map(str::parse).transpose()?;
        let found = rooms.search(&session, &criteria.request(after)?).await?;
        categories.room_events = shown(found, &criteria.groupings)?;
    }
    Ok(Ruma(Response::new(categories)))
}

fn shown(found: Found, groupings: &Groupings) -> Result<ResultRoomEvents, ApiError> {
    let mut events = ResultRoomEvents::new();
    events.groups = groups(&found, groupings)?;
    events.count = Some(UInt::try_from(found.count).unwrap_or(UInt::MAX));
    let last = found.hits.last().filter(|_| found.more);
    events.next_batch = last.map(|last| last.place.to_string());
    events.highlights = found.highlights;
    for (room, state) in found.state {
        events.state.insert(room, state.into_iter().map(Raw::from_json).collect());
    }
    for hit in found.hits {
        let mut result = SearchResult::new();
        result.rank = Some(hit.rank);
        result.result = Some(Raw::from_json(hit.event));
        result.context = hit.surroundings.map(context).unwrap_or_default();
        events.results.push(result);
    }
    Ok(events)
}

fn context(around: Surroundings) -> EventContextResult {
    let mut context = EventContextResult::new();
    context.start = Some(around.start.to_string());
    context.end = Some(around.end.to_string());
    context.events_before = around.before.into_iter().map(Raw::from_json).collect();
    context.events_after = around.after.into_iter().map(Raw::from_json).collect();
    for (user, profile) in around.profiles {
        let mut shown = UserProfile::new();
        shown.displayname = profile.displayname;
        shown.avatar_url = profile.avatar_url;
        context.profile_info.insert(user, shown);
    }
    context
}

/// The results on a page by room, by sender, or both.
fn groups(found: &Found, groupings: &Groupings) -> Result<ResultGroupMapsByGroupingKey, ApiError> {
    let mut maps = ResultGroupMapsByGroupingKey::new();
    for grouping in &groupings.group_by {
        let hits = found.hits.iter().zip(0..);
        match &grouping.key {
            Some(GroupingKey::RoomId) => {
                let mut map = BTreeMap::new();
                for (hit, order) in hits {
                    add(map.entry(hit.room_id.clone()), order, hit, hit.room, found.more);
                }
                maps.insert(ResultGroupMap::RoomId(map));
            }
            Some(GroupingKey::Sender) => {
                let mut map = BTreeMap::new();
                for (hit, order) in hits {
                    add(map.entry(hit.sender_id.clone()), order, hit, hit.sender, found.more);
                }
                maps.insert(ResultGroupMap::Sender(map));
            }
            Some(other) => {
                return Err(ApiError::invalid_param(format!("there are no groups by {other}")));
            }
            None => return Err(ApiError::invalid_param("a group has no key")),
        }
    }
    Ok(maps)
}

/// Adds a result to its group. The groups are in the order of their first result.
fn add<K: Ord>(
    group: std::collections::btree_map::Entry<'_, K, ResultGroup>,
    order: u32,
    hit: &crate::rooms::Hit,
    part: Group,
    more: bool,
) {
    let group = group.or_default();
    group.order.get_or_insert(order.into());
    group.results.push(hit.event_id.clone());
    group.next_batch = more.then(|| hit.place.within(part).to_string());
}
