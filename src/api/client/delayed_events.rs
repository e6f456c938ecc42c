//! Events that are sent later: MSC4140, as deployed and as merged.

use axum::{Json, extract::State};
use http::StatusCode;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedTransactionId,
    api::{
        client::delayed_events::{get_all_delayed_events, get_delayed_event},
        error::ErrorKind,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::room_events::content;
use crate::{
    api::{
        error::ApiError,
        extract::Client,
        json::{ClientJson, MaybeClientJson},
        standing,
    },
    rooms::{
        Rooms,
        delayed::{Action, DelayedError, DelayedEvent, DelayedEvents, Ending, NewDelayed},
    },
    users::session::Sessions,
};

/// The parameter of the ordinary endpoints that schedules an event.
const DELAY: &str = "org.matrix.msc4140.delay";

/// The delay that a query asks for, in ms.
///
/// # Errors
/// `M_INVALID_PARAM` for one that is no number: sent at once, a last will would be a sudden death.
pub(super) fn delay_in(query: Option<&str>) -> Result<Option<u64>, ApiError> {
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let delay = pairs.find(|(name, _)| name == DELAY).map(|(_, value)| value);
    let bad = |_| ApiError::invalid_param("the delay is a number of ms above 0");
    delay.map(|delay| delay.parse().map_err(bad)).transpose()
}

/// What scheduling is answered with.
#[derive(Serialize)]
pub(crate) struct Scheduled {
    pub(super) delay_id: String,
}

/// An error of the endpoints that send at once otherwise: older clients look for the longest delay
/// beside an unknown error.
pub(super) fn deployed(error: DelayedError) -> ApiError {
    match &error {
        DelayedError::TooLong { max_ms } => ApiError::detailed(
            StatusCode::BAD_REQUEST,
            json!({
                "errcode": "M_UNKNOWN",
                "error": error.to_string(),
                "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED",
                "org.matrix.msc4140.max_delay": max_ms,
                "max_delay": max_ms,
            }),
        ),
        _ => error.into(),
    }
}

/// The body of a request to schedule an event.
#[derive(Deserialize)]
pub(crate) struct Schedule {
    content: Box<RawValue>,
    state_key: Option<String>,
    #[serde(alias = "delay")]
    delay_ms: u64,
}

/// `PUT /_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
pub(crate) async fn schedule(
    State(delayed): State<DelayedEvents>,
    State(sessions): State<Sessions>,
    ClientJson { session, arguments, value }: ClientJson<Schedule>,
) -> Result<Json<Scheduled>, ApiError> {
    standing::check_suspended(&sessions, &session).await?;
    let [room_id, event_type, transaction] = <[String; 3]>::try_from(arguments)
        .map_err(|_| ApiError::invalid_param("the path has three parts"))?;
    let room_id = OwnedRoomId::try_from(room_id).map_err(ApiError::invalid_param)?;
    let new = NewDelayed {
        event_type,
        state_key: value.state_key,
        content: content(&value.content)?,
        delay_ms: value.delay_ms,
        transaction: Some(OwnedTransactionId::from(transaction)),
    };
    let delay_id = delayed.schedule(&session, &room_id, new).await?;
    Ok(Json(Scheduled { delay_id }))
}

/// The body of the older request.
#[derive(Deserialize)]
pub(crate) struct Act {
    action: String,
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`
pub(crate) async fn act(
    State(delayed): State<DelayedEvents>,
    request: MaybeClientJson<Act>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let action = action_of(&request.value.action)
        .ok_or_else(|| ApiError::invalid_param("the action is restart, send or cancel"))?;
    act_on(&delayed, &request, action).await
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}`
pub(crate) async fn act_by_path(
    State(delayed): State<DelayedEvents>,
    request: MaybeClientJson<serde::de::IgnoredAny>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let action = request.arguments.get(1).and_then(|action| action_of(action));
    let unknown = || ApiError::new(ErrorKind::Unrecognized, "There is no such action");
    act_on(&delayed, &request, action.ok_or_else(unknown)?).await
}

fn action_of(name: &str) -> Option<Action> {
    Some(match name {
        "restart" => Action::Restart,
        "send" => Action::Send,
        "cancel" => Action::Cancel,
        _ => return None,
    })
}

/// Whoever knows the ID may do it: it is the secret. With a token, it counts as done by its user.
async fn act_on<T>(
    delayed: &DelayedEvents,
    request: &MaybeClientJson<T>,
    action: Action,
) -> Result<Json<serde_json::Value>, ApiError> {
    let id = request.arguments.first().map_or("", String::as_str);
    let by = match &request.session {
        Some(session) => Ok(session.user),
        None => Err(request.caller.address),
    };
    delayed.act(by, id, action).await?;
    Ok(Json(json!({})))
}

/// A delayed event as it is told of, under the names of both forms.
#[derive(Serialize)]
pub(crate) struct Told {
    delay_id: String,
    room_id: OwnedRoomId,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<String>,
    content: Box<RawValue>,
    delay: u64,
    delay_ms: u64,
    running_since: u64,
    delayed_since_ts: u64,
    #[serde(flatten)]
    ended: Option<Ended>,
}

#[derive(Serialize)]
struct Ended {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<OwnedEventId>,
    finalised_ts: u64,
    finalised: Outcome,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(rename = "finalised_ts")]
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<OwnedEventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<serde_json::Value>,
}

async fn tell(rooms: &Rooms, delay_id: String, event: DelayedEvent) -> Result<Told, ApiError> {
    let ended = event.ended.as_ref().map(|(ending, at_ms)| {
        let (event_id, error) = match ending {
            Ending::Sent(event_id) => (Some(event_id.clone()), None),
            Ending::Refused { forbidden, error } => {
                let errcode = if *forbidden { "M_FORBIDDEN" } else { "M_UNKNOWN" };
                (None, Some(json!({ "errcode": errcode, "error": error })))
            }
            Ending::Cancelled | Ending::Overtaken => (None, None),
        };
        let finalised = Outcome { at_ms: *at_ms, event_id: event_id.clone(), error };
        Ended { event_id, finalised_ts: *at_ms, finalised }
    });
    Ok(Told {
        delay_id,
        room_id: rooms.room_id(event.room()).await?,
        event_type: event.event_type,
        state_key: event.state_key,
        content: event.content,
        delay: event.delay_ms,
        delay_ms: event.delay_ms,
        running_since: event.running_since_ms,
        delayed_since_ts: event.running_since_ms,
        ended,
    })
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`
pub(crate) async fn get(
    State(delayed): State<DelayedEvents>,
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_delayed_event::unstable::Request>,
) -> Result<Json<Told>, ApiError> {
    let event = delayed.get(session.user, &request.delay_id).await?;
    Ok(Json(tell(&rooms, request.delay_id, event).await?))
}

/// The delayed events of a user.
#[derive(Serialize)]
pub(crate) struct List {
    delayed_events: Vec<Told>,
    finalised: Vec<Told>,
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events`
pub(crate) async fn list(
    State(delayed): State<DelayedEvents>,
    State(rooms): State<Rooms>,
    Client { session, .. }: Client<get_all_delayed_events::unstable::Request>,
) -> Result<Json<List>, ApiError> {
    let told = async |waiting| {
        let mut told = Vec::new();
        for (id, event) in delayed.list(session.user, waiting).await? {
            told.push(tell(&rooms, id, event).await?);
        }
        Ok::<_, ApiError>(told)
    };
    Ok(Json(List { delayed_events: told(true).await?, finalised: told(false).await? }))
}
