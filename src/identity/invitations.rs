//! Invitations that wait at an identity server for the owner of an address.
//!
//! Spec: <https://spec.matrix.org/v1.19/identity-service-api/#invitation-storage>

use http::Method;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomId, UserId};
use serde::{Deserialize, Serialize};

use super::{Access, Address, IdentityError, IdentityServers, bad_answer};

/// The longest token.
const MAX_TOKEN_BYTES: usize = 255;
/// The most keys.
const MAX_KEYS: usize = 8;
/// The longest key, URL and name.
const MAX_TEXT_BYTES: usize = 2_048;

/// An invitation as the identity server tells the invited of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ToStore<'a> {
    /// What kind of address.
    pub(crate) medium: &'a str,
    /// Whom to invite.
    pub(crate) address: &'a str,
    /// Into which room.
    pub(crate) room_id: &'a RoomId,
    /// Who invites.
    pub(crate) sender: &'a UserId,
    /// What is known of room and sender, by the names of the specification.
    #[serde(flatten)]
    pub(crate) known: serde_json::Map<String, serde_json::Value>,
}

/// What the identity server made of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Stored {
    /// By which the invitation is found: the state key of its event.
    pub(crate) token: String,
    /// A name for the invited that does not give the address away.
    display_name: String,
    /// Keys with which it will be signed that an address has become a user's.
    #[serde(default)]
    public_keys: Vec<PublicKey>,
}

#[derive(Debug, Deserialize)]
struct PublicKey {
    public_key: String,
    key_validity_url: String,
}

impl Stored {
    /// The content of the room's `m.room.third_party_invite`.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomthird_party_invite>
    pub(crate) fn content(&self) -> CanonicalJsonObject {
        let object = |entries: Vec<(&str, &str)>| -> CanonicalJsonObject {
            entries.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect()
        };
        let mut content = object(vec![("display_name", &self.display_name)]);
        let keys = self.public_keys.iter().map(|key| {
            CanonicalJsonValue::Object(object(vec![
                ("public_key", &key.public_key),
                ("key_validity_url", &key.key_validity_url),
            ]))
        });
        content.insert("public_keys".to_owned(), keys.collect::<Vec<_>>().into());
        if let Some(first) = self.public_keys.first() {
            // For those who know of one key only.
            content.extend(object(vec![
                ("public_key", &first.public_key),
                ("key_validity_url", &first.key_validity_url),
            ]));
        }
        content
    }

    /// What is wrong with the answer, as everybody in the room is to keep it.
    fn problem(&self) -> Option<&'static str> {
        let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b".=_-".contains(&byte);
        if self.token.is_empty()
            || self.token.len() > MAX_TOKEN_BYTES
            || !self.token.bytes().all(in_token)
        {
            return Some("its token is none");
        }
        if self.public_keys.is_empty() || self.public_keys.len() > MAX_KEYS {
            return Some("it gives no keys, or too many");
        }
        let keys = self.public_keys.iter();
        let texts = keys.flat_map(|key| [&key.public_key, &key.key_validity_url]);
        let mut texts = texts.chain([&self.display_name]);
        texts.any(|text| text.len() > MAX_TEXT_BYTES).then_some("it is too long")
    }
}

impl IdentityServers {
    /// Has the identity server tell the owner of an address of an invitation, and wait for a user
    /// who proves to be them.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(crate) async fn store_invite(
        &self,
        access: &Access,
        invite: &ToStore<'_>,
    ) -> Result<Stored, IdentityError> {
        let server = access.server.as_str();
        let body = serde_json::to_value(invite).map_err(|error| bad_answer(server, error))?;
        let stored: Stored = self.ask(access, Method::POST, "/store-invite", Some(&body)).await?;
        match stored.problem() {
            Some(problem) => Err(bad_answer(server, problem)),
            None => Ok(stored),
        }
    }
}

impl<'a> ToStore<'a> {
    /// An invitation of whoever has `address`.
    pub(crate) fn new(
        address: &'a Address,
        room_id: &'a RoomId,
        sender: &'a UserId,
        known: serde_json::Map<String, serde_json::Value>,
    ) -> Self {
        let Address { medium, address } = address;
        Self { medium, address, room_id, sender, known }
    }
}
