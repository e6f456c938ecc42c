//! Where users want to be told of what notifies them.

use axum::{
    Json,
    extract::{Query, State},
    response::Response,
};
use http::StatusCode;
use ruma::api::{client::push::get_pushers, error::ErrorKind};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::page::page;
use crate::{
    api::{error::ApiError, extract::Client, json::ClientJson},
    push::{
        PusherError, Pushers,
        new_pusher::{NewPusher, check_ids},
    },
};

/// `GET /_matrix/client/v3/pushers`
///
/// With what MSC3881 adds, which ruma's type does not have.
pub(crate) async fn get_pushers(
    State(pushers): State<Pushers>,
    Client { session, .. }: Client<get_pushers::v3::Request>,
) -> Result<Json<Value>, ApiError> {
    let own = pushers.of_user(session.user).await?;
    let shown = own.into_iter().map(|((_, app_id, pushkey), pusher)| {
        let mut shown = json!({
            "app_id": app_id,
            "pushkey": pushkey,
            "kind": pusher.kind,
            "app_display_name": pusher.app_display_name,
            "device_display_name": pusher.device_display_name,
            "lang": pusher.lang,
            "data": pusher.data,
            "org.matrix.msc3881.enabled": pusher.enabled,
            "org.matrix.msc3881.device_id": pusher.device_id,
        });
        if let Some(tag) = pusher.profile_tag
            && let Some(shown) = shown.as_object_mut()
        {
            shown.insert("profile_tag".to_owned(), tag.into());
        }
        if let Some(activation) = pusher.activation
            && let Some(data) = shown.get_mut("data").and_then(Value::as_object_mut)
        {
            data.insert("activated".to_owned(), activation.done.into());
        }
        shown
    });
    Ok(Json(json!({ "pushers": shown.collect::<Vec<Value>>() })))
}

/// The body of `/pushers/set`, in which what must be there may be missing: the answer says what.
#[derive(Deserialize)]
pub(crate) struct SetPusher {
    app_id: Option<String>,
    pushkey: Option<String>,
    #[serde(default)]
    kind: Wanted,
    app_display_name: Option<String>,
    device_display_name: Option<String>,
    profile_tag: Option<String>,
    lang: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    append: bool,
    #[serde(rename = "org.matrix.msc3881.enabled", alias = "enabled")]
    enabled: Option<bool>,
}

/// What is to become of the pusher.
#[derive(Default)]
enum Wanted {
    /// Nothing was said.
    #[default]
    Missing,
    /// It is to go.
    Null,
    /// It is to be of this kind.
    Kind(String),
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(from)?.map_or(Self::Null, Self::Kind))
    }
}

/// `POST /_matrix/client/v3/pushers/set`
pub(crate) async fn set_pusher(
    State(pushers): State<Pushers>,
    ClientJson { session, value: body, .. }: ClientJson<SetPusher>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let missing = |name: &str| ApiError::new(ErrorKind::MissingParam, format!("missing: {name}"));
    let app_id = body.app_id.ok_or_else(|| missing("app_id"))?;
    let pushkey = body.pushkey.ok_or_else(|| missing("pushkey"))?;
    let kind = match body.kind {
        Wanted::Missing => return Err(missing("kind")),
        Wanted::Null => {
            check_ids(&app_id, &pushkey)?;
            pushers.remove(&(session.user, app_id, pushkey)).await?;
            return Ok((StatusCode::OK, Json(json!({}))));
        }
        Wanted::Kind(kind) => kind,
    };
    let new = NewPusher {
        app_id,
        pushkey,
        kind,
        app_display_name: body.app_display_name,
        device_display_name: body.device_display_name,
        profile_tag: body.profile_tag,
        lang: body.lang,
        data: body.data,
        enabled: body.enabled,
        append: body.append,
    };
    // MSC4174, 201: "The pusher is set but needs to be activated".
    let to_be_activated = pushers.set(&session, new).await?;
    let status = if to_be_activated { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({}))))
}

/// The body of `/pushers/ack`.
#[derive(Deserialize)]
pub(crate) struct Ack {
    app_id: String,
    ack_token: String,
}

/// `POST /_matrix/client/unstable/org.matrix.msc4174/pushers/ack`
pub(crate) async fn ack_pusher(
    State(pushers): State<Pushers>,
    ClientJson { session, value: Ack { app_id, ack_token }, .. }: ClientJson<Ack>,
) -> Result<Json<Value>, ApiError> {
    pushers.activate(session.user, &app_id, &ack_token).await?;
    Ok(Json(json!({})))
}

/// What a link in a mail carries.
#[derive(Deserialize)]
pub(crate) struct Unsubscribe {
    #[serde(default)]
    token: String,
}

/// `GET` of the link that stops mail: a page with a button.
///
/// Programs that look for viruses follow every link of a mail, so following it must not be enough.
pub(crate) async fn get_unsubscribe_page(Query(link): Query<Unsubscribe>) -> Response {
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if link.token.is_empty() || link.token.len() > 64 || !link.token.bytes().all(base64url) {
        return page(StatusCode::BAD_REQUEST, "<p>This link is broken.</p>");
    }
    let form = format!(
        "<p>Get no more mail about unread messages?</p>\
         <form method=\"post\" action=\"?token={}\"><button>No more mail</button></form>",
        link.token
    );
    page(StatusCode::OK, &form)
}

/// `POST` of the button on that page, or of a mail program.
///
/// Spec: <https://www.rfc-editor.org/rfc/rfc8058#section-3.2>
pub(crate) async fn unsubscribe(
    State(pushers): State<Pushers>,
    Query(link): Query<Unsubscribe>,
) -> Result<Response, ApiError> {
    match pushers.unsubscribe(&link.token).await {
        Ok(()) => {
            let done = "<p>You get no more mail about unread messages at this address.</p>";
            Ok(page(StatusCode::OK, done))
        }
        Err(PusherError::Invalid(_)) => {
            Ok(page(StatusCode::BAD_REQUEST, "<p>This link is broken.</p>"))
        }
        Err(error) => Err(error.into()),
    }
}
