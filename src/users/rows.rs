//! What the tables of this area hold.

use std::net::IpAddr;

use ruma::OwnedDeviceId;
use serde::{Deserialize, Serialize};

use crate::storage::{
    Value,
    intern::UserNumber,
    key::{AsKey, Key},
};

/// Numbers are stored as numbers in JSON records too.
mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::storage::intern::UserNumber;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(user: &UserNumber, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(user.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<UserNumber, D::Error> {
        u64::deserialize(from).map(UserNumber)
    }
}

/// A local account.
#[expect(clippy::struct_excessive_bools, reason = "a record: each says something of its own")]
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Account {
    /// PHC string; none: nobody can log in with a password.
    pub(crate) password_hash: Option<String>,
    /// When the account was made, in ms since the Unix epoch.
    pub(crate) created_ms: u64,
    /// Closed for good. The row stays, so that nobody else gets the name.
    pub(crate) deactivated: bool,
    /// Whether the user asked to be forgotten as far as possible when closing the account.
    pub(crate) erased: bool,
    /// A guest account: no password, few permissions.
    pub(crate) guest: bool,
    /// May use the administration API.
    pub(crate) admin: bool,
    /// Can't be used: an administrator has said so.
    pub(crate) locked: bool,
    /// Can be used to read only: likewise.
    pub(crate) suspended: bool,
}

/// A device that is logged in.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Device {
    /// The name users know it by.
    pub(crate) display_name: Option<String>,
    /// When it was first logged in, in ms since the Unix epoch.
    pub(crate) created_ms: u64,
    /// How often tokens were given to it. A removal requires the number it has seen, so that it
    /// misses no token that was given at the same time.
    pub(crate) tokens_given: u64,
}

/// When and from where a device was last active.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Activity {
    /// In ms since the Unix epoch.
    pub(crate) at_ms: u64,
    /// The address it came from.
    pub(crate) address: Option<IpAddr>,
    /// What it calls itself, cut to a bounded length.
    pub(crate) user_agent: Option<String>,
}

/// An access or refresh token. Its row is found by its hash; the token itself is not kept.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// Whose it is.
    #[serde(with = "number")]
    pub(crate) user: UserNumber,
    /// Which device it is for.
    pub(crate) device_id: OwnedDeviceId,
    /// What it opens.
    pub(crate) kind: TokenKind,
}

/// What a token opens.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum TokenKind {
    /// Requests.
    Access {
        /// In ms since the Unix epoch; afterwards only a refresh helps. None: never.
        expires_ms: Option<u64>,
        /// Hashes of the tokens that this one replaces: deleted when it is first used.
        #[serde(default)]
        replaces: Vec<[u8; 32]>,
        /// Whether it belongs to a guest.
        #[serde(default)]
        guest: bool,
    },
    /// One refresh.
    Refresh {
        /// Hash of the access token that was given out with it.
        access: [u8; 32],
        /// Hashes of the tokens that this one replaces: deleted when it is first used.
        #[serde(default)]
        replaces: Vec<[u8; 32]>,
        /// Hashes of the access and refresh tokens it was exchanged for, until one of those is
        /// used; a repeated exchange replaces them.
        #[serde(default)]
        next: Vec<[u8; 32]>,
    },
}

/// A registration token.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RegistrationToken {
    /// How many accounts it is good for; none: any number.
    pub(crate) uses_allowed: Option<u64>,
    /// How many accounts were made with it.
    pub(crate) completed: u64,
    /// In ms since the Unix epoch; none: never.
    pub(crate) expires_ms: Option<u64>,
}

/// What is known for a while only.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShortLived {
    /// In ms since the Unix epoch.
    pub(crate) expires_ms: u64,
    /// What it is.
    pub(crate) what: Fact,
}

/// The kinds of short-lived facts.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Fact {
    /// A session of user-interactive authentication.
    Uia(UiaSession),
    /// A token for `m.login.token`.
    LoginToken {
        /// Whom it logs in.
        #[serde(with = "number")]
        user: UserNumber,
    },
    /// A token by which others ask who somebody is.
    OpenId {
        /// Whom it names.
        #[serde(with = "number")]
        user: UserNumber,
    },
    /// A nonce of registration by shared secret.
    Nonce,
    /// The validation of an e-mail address.
    Validation(Validation),
    /// A transaction ID that a device has sent messages to devices with.
    ToDeviceSent,
}

/// A session of user-interactive authentication.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct UiaSession {
    /// Method and path of the request it is good for.
    pub(crate) endpoint: String,
    /// Hash of the request's body without `auth`; none if the endpoint lets the body change.
    pub(crate) body: Option<[u8; 32]>,
    /// Number of the user that asked; none: nobody was logged in.
    pub(crate) user: Option<u64>,
    /// Stages that are done, by their names.
    pub(crate) completed: Vec<String>,
    /// The registration token that was given.
    pub(crate) registration_token: Option<String>,
    /// The e-mail address that was proved.
    pub(crate) email: Option<String>,
}

/// The validation of an e-mail address.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Validation {
    /// Hash of the client's secret.
    pub(crate) client_secret: [u8; 32],
    /// The address, normalised.
    pub(crate) email: String,
    /// The last attempt for which a mail went out.
    pub(crate) send_attempt: u64,
    /// Hash of the token in the mail.
    pub(crate) token: [u8; 32],
    /// Where to send the user afterwards.
    pub(crate) next_link: Option<String>,
    /// When the link was followed, in ms since the Unix epoch.
    pub(crate) validated_ms: Option<u64>,
}

/// A third-party identifier of a user.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Threepid {
    /// When it was proved, in ms since the Unix epoch.
    pub(crate) validated_ms: u64,
    /// When it was added, in ms since the Unix epoch.
    pub(crate) added_ms: u64,
}

/// One type of account data: its stream position and its content, a JSON object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AccountDatum {
    /// The stream position of its last change.
    pub(crate) position: u64,
    /// The content, as JSON.
    pub(crate) content: Vec<u8>,
}

impl AccountDatum {
    /// Whether it was deleted: of a type with an empty content only the change is told (MSC3391).
    pub(crate) fn is_deleted(&self) -> bool {
        let mut rest = self.content.iter().filter(|byte| !byte.is_ascii_whitespace());
        rest.by_ref().take(2).eq(b"{}") && rest.next().is_none()
    }
}

impl Value for AccountDatum {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        self.position.encode(out);
        out.extend_from_slice(&self.content);
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let position = u64::decode(&mut bytes)?;
        Some(Self { position, content: bytes.to_vec() })
    }
}
