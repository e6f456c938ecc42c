//! What happened since the last time.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{RawQuery, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use ruma::api::client::sync::sync_events::v3::{Filter, Request};

use crate::{
    api::{error::ApiError, extract::Client},
    sync::{self, StateForm, Sync, SyncFilter, token::SyncToken},
    users::{Filters, presence::Level, session::Session},
};

/// `GET /_matrix/client/v3/sync`
pub(crate) async fn sync_events(
    State(sync): State<Arc<Sync>>,
    State(filters): State<Filters>,
    RawQuery(query): RawQuery,
    Client { session, request, .. }: Client<Request>,
) -> Result<Response, ApiError> {
    let request = sync_request(&filters, &session, request, query.as_deref()).await?;
    let response = sync.v3(&session, &request).await?;
    if !response.is_large() {
        return Ok(Json(response).into_response());
    }
    let pieces = response.into_pieces().map(Ok::<_, Infallible>);
    let body = Body::from_stream(futures::stream::iter(pieces));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// What a client asks for.
pub(super) async fn sync_request(
    filters: &Filters,
    session: &Session,
    request: Request,
    query: Option<&str>,
) -> Result<sync::Request, ApiError> {
    let since = match request.since.as_deref() {
        // Some clients send an empty token at first.
        None | Some("") => None,
        Some(text) => Some(token(text)?),
    };
    let filter = match request.filter {
        None => SyncFilter::default(),
        Some(Filter::FilterDefinition(filter)) => {
            Filters::check(&filter)?;
            filter.into()
        }
        Some(Filter::FilterId(id)) => filters
            .get(session.user, &id)
            .await?
            .ok_or_else(|| ApiError::invalid_param("there is no filter of that ID"))?
            .into(),
        Some(_) => return Err(ApiError::invalid_param("this is no filter")),
    };
    Ok(sync::Request {
        since,
        filter,
        full_state: request.full_state,
        state_form: match request.use_state_after {
            true => StateForm::After,
            false if asks_by_old_name(query) => StateForm::UnstableAfter,
            false => StateForm::Before,
        },
        presence: Level::named(&request.set_presence).unwrap_or_default(),
        timeout: request.timeout.unwrap_or_default(),
        unconfirmed: false,
    })
}

/// A token that this server gave out, by its form.
pub(super) fn token(text: &str) -> Result<SyncToken, ApiError> {
    text.parse().map_err(ApiError::invalid_param)
}

/// Whether the state after the timeline is asked for by the name it had before it was in the spec.
fn asks_by_old_name(query: Option<&str>) -> bool {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, value)| name == "org.matrix.msc4222.use_state_after" && value == "true")
}
