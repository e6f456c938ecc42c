//! Pushers as clients want them, and whether they may have them.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>

use serde_json::{Map, Value};
use url::Url;

use super::{
    pushers::{Activation, Kind, Pusher, PusherError, PusherKey, Pushers},
    webpush::Receiver,
};
use crate::users::session::Session;

/// The path of every push gateway.
///
/// Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";
/// Spec: "If the `kind` is `email`, this is `m.email`."
const MAIL_APP_ID: &str = "m.email";
/// The longest pushkey.
const MAX_PUSHKEY_BYTES: usize = 512;
/// The longest app ID, in characters of the spec's grammar, which are bytes.
const MAX_APP_ID_BYTES: usize = 64;
/// The longest name, tag or language.
const MAX_TEXT_BYTES: usize = 1_024;
/// The largest `data`, as JSON.
const MAX_DATA_BYTES: usize = 8_192;
/// How long a device has to activate its pusher, in ms.
const ACTIVATION_MS: u64 = 5 * 60 * 1_000;

/// A pusher as a client wants it.
#[derive(Debug)]
pub(crate) struct NewPusher {
    /// Of which app.
    pub(crate) app_id: String,
    /// How the app is reached.
    pub(crate) pushkey: String,
    /// `http`, `email` or `webpush`.
    pub(crate) kind: String,
    /// The same of [`Pusher`]; what is not given is missing.
    pub(crate) app_display_name: Option<String>,
    pub(crate) device_display_name: Option<String>,
    pub(crate) profile_tag: Option<String>,
    pub(crate) lang: Option<String>,
    pub(crate) data: Option<Map<String, Value>>,
    /// None: as it was, on if it is new.
    pub(crate) enabled: Option<bool>,
    /// Other users may keep theirs of the same app ID and pushkey.
    pub(crate) append: bool,
}

impl Pushers {
    /// What a client wants, if it may.
    pub(super) fn checked(
        &self,
        session: &Session,
        new: NewPusher,
    ) -> Result<(PusherKey, Pusher), PusherError> {
        check_ids(&new.app_id, &new.pushkey)?;
        let needed = |value: Option<String>, name| value.ok_or(PusherError::Missing(name));
        let mut pusher = Pusher {
            kind: match new.kind.as_str() {
                "http" => Kind::Http,
                "email" if self.by_mail => Kind::Email,
                "webpush" | "org.matrix.msc4174.webpush" => Kind::Webpush,
                _ => return Err(PusherError::UnknownKind),
            },
            app_display_name: needed(new.app_display_name, "app_display_name")?,
            device_display_name: needed(new.device_display_name, "device_display_name")?,
            profile_tag: new.profile_tag,
            lang: needed(new.lang, "lang")?,
            data: match new.data {
                // There is nothing in it that a mail needs.
                None if new.kind == "email" => Map::new(),
                data => data.ok_or(PusherError::Missing("data"))?,
            },
            enabled: new.enabled.unwrap_or(true),
            device_id: session.device_id.clone(),
            set_at: self.clock.now_ms() / 1_000,
            since: self.db.visible_position(),
            activation: None,
        };
        let texts = [
            Some(&pusher.app_display_name),
            Some(&pusher.device_display_name),
            pusher.profile_tag.as_ref(),
            Some(&pusher.lang),
        ];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(PusherError::Invalid("a name, tag or language is too long"));
        }
        if Value::Object(pusher.data.clone()).to_string().len() > MAX_DATA_BYTES {
            return Err(PusherError::Invalid("data is too large"));
        }
        let pushkey = new.pushkey;
        match pusher.kind {
            Kind::Http => self.check_gateway(&pusher)?,
            // Whose address it is shows when it is written down.
            Kind::Email if new.app_id == MAIL_APP_ID => {}
            Kind::Email => return Err(PusherError::Invalid("the app_id of mail is m.email")),
            Kind::Webpush => {
                self.check_service(&pushkey, &pusher)?;
                pusher.data.remove("activated");
                pusher.activation = Some(Activation {
                    done: false,
                    token: self.random.token::<24>(),
                    expires_ms: self.clock.now_ms() + ACTIVATION_MS,
                });
            }
        }
        Ok(((session.user, new.app_id, pushkey), pusher))
    }

    /// Spec: "MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`."
    fn check_gateway(&self, pusher: &Pusher) -> Result<(), PusherError> {
        let url = self.checked_url(pusher)?;
        if url.path() != GATEWAY_PATH || url.query().is_some() || url.fragment().is_some() {
            return Err(PusherError::Invalid("data.url must end with /_matrix/push/v1/notify"));
        }
        Ok(())
    }

    /// MSC4174: a push resource of RFC 8030, and the keys of RFC 8291.
    fn check_service(&self, pushkey: &str, pusher: &Pusher) -> Result<(), PusherError> {
        self.checked_url(pusher)?;
        let auth = pusher.data.get("auth").ok_or(PusherError::Missing("data.auth"))?;
        let keys = auth.as_str().and_then(|auth| Receiver::parse(pushkey, auth));
        keys.map(|_| ()).ok_or(PusherError::Invalid("pushkey and data.auth are no keys"))
    }

    /// Where the pusher leads. Without TLS only where private addresses may be called: the gateway
    /// is a machine further.
    fn checked_url(&self, pusher: &Pusher) -> Result<Url, PusherError> {
        let url = pusher.url().ok_or(PusherError::Missing("data.url"))?;
        let url = Url::parse(url).map_err(|_| PusherError::Invalid("data.url is no URL"))?;
        let plain = url.scheme() == "http" && self.outgoing.allows_private();
        if url.scheme() != "https" && !plain {
            return Err(PusherError::Invalid("data.url must begin with https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PusherError::Invalid("data.url must hold no password"));
        }
        self.outgoing.check(&url)?;
        Ok(url)
    }
}

/// Whether a pusher may have these.
pub(crate) fn check_ids(app_id: &str, pushkey: &str) -> Result<(), PusherError> {
    let fits = |text: &str, longest| !text.is_empty() && text.len() <= longest;
    if !fits(app_id, MAX_APP_ID_BYTES) {
        return Err(PusherError::Invalid("an app_id has 1 to 64 characters"));
    }
    if !fits(pushkey, MAX_PUSHKEY_BYTES) {
        return Err(PusherError::Invalid("a pushkey has 1 to 512 bytes"));
    }
    Ok(())
}
