//! Where users want to be told of what notifies them.

use axum::{Json, extract::State};
use ruma::api::{client::push::get_pushers, error::ErrorKind};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::{
    api::{error::ApiError, extract::Client, json::ClientJson},
    push::{
        Pushers,
        pushers::{NewPusher, check_ids},
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
        if let (Some(tag), Some(shown)) = (pusher.profile_tag, shown.as_object_mut()) {
            shown.insert("profile_tag".to_owned(), tag.into());
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
) -> Result<Json<Value>, ApiError> {
    let missing = |name: &str| ApiError::new(ErrorKind::MissingParam, format!("missing: {name}"));
    let app_id = body.app_id.ok_or_else(|| missing("app_id"))?;
    let pushkey = body.pushkey.ok_or_else(|| missing("pushkey"))?;
    let kind = match body.kind {
        Wanted::Missing => return Err(missing("kind")),
        Wanted::Null => {
            check_ids(&app_id, &pushkey)?;
            pushers.remove(&(session.user, app_id, pushkey)).await?;
            return Ok(Json(json!({})));
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
    pushers.set(&session, new).await?;
    Ok(Json(json!({})))
}
