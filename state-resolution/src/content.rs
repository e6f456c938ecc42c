//! What the algorithms look at in an event's content, decoded once.

use serde_json::{Map, Value};

use crate::{
    grammar::is_user_id,
    ids::{KeyIx, UserIx},
    power_levels::PowerLevels,
    rules::{AbsentJoinRule, RoomVersionRules},
    tables::{TYPE_MEMBER, TYPE_THIRD_PARTY_INVITE, Tables},
};

/// Event types with rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Member,
    JoinRules,
    PowerLevels,
    ThirdPartyInvite,
    Aliases,
    Redaction,
    Other,
}

impl Kind {
    pub(crate) fn of(event_type: &str) -> Self {
        match event_type {
            "m.room.create" => Self::Create,
            "m.room.member" => Self::Member,
            "m.room.join_rules" => Self::JoinRules,
            "m.room.power_levels" => Self::PowerLevels,
            "m.room.third_party_invite" => Self::ThirdPartyInvite,
            "m.room.aliases" => Self::Aliases,
            "m.room.redaction" => Self::Redaction,
            _ => Self::Other,
        }
    }
}

/// A user's relation to the room.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroommember>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// In the room.
    Join,
    /// Invited into it.
    Invite,
    /// Not in it; also that of users without a membership event.
    Leave,
    /// Banned from it.
    Ban,
    /// Asking to be let in.
    Knock,
    /// Some other word.
    Unknown,
    /// The event has no membership, or one that is no string.
    Malformed,
}

impl Membership {
    fn of(content: &Map<String, Value>) -> Self {
        match content.get("membership").and_then(Value::as_str) {
            Some("join") => Self::Join,
            Some("invite") => Self::Invite,
            Some("leave") => Self::Leave,
            Some("ban") => Self::Ban,
            Some("knock") => Self::Knock,
            Some(_) => Self::Unknown,
            None => Self::Malformed,
        }
    }
}

/// Who may come in.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomjoin_rules>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinRule {
    Public,
    Invite,
    Knock,
    Restricted,
    KnockRestricted,
    /// Some other word: nobody joins or knocks by it.
    Unknown,
    /// No word at all.
    Malformed,
}

impl JoinRule {
    fn of(content: &Map<String, Value>) -> Self {
        match content.get("join_rule").and_then(Value::as_str) {
            Some("public") => Self::Public,
            Some("invite") => Self::Invite,
            Some("knock") => Self::Knock,
            Some("restricted") => Self::Restricted,
            Some("knock_restricted") => Self::KnockRestricted,
            Some(_) => Self::Unknown,
            None => Self::Malformed,
        }
    }

    pub(crate) fn absent(rule: AbsentJoinRule) -> Self {
        match rule {
            AbsentJoinRule::Invite => Self::Invite,
            AbsentJoinRule::Closed => Self::Unknown,
        }
    }
}

/// `join_authorised_via_users_server` of a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Authoriser {
    #[default]
    Absent,
    User(UserIx),
    /// Present, but no user ID.
    Malformed,
}

/// `third_party_invite` of a membership.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ThirdParty {
    /// Without an object `signed`.
    Unsigned,
    /// With `signed`, but without the strings `mxid` and `token`.
    Incomplete,
    Signed {
        mxid: Box<str>,
        /// The key of the `m.room.third_party_invite` event that the token names.
        token: KeyIx,
        signed: Map<String, Value>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    pub(crate) authoriser: Authoriser,
    pub(crate) third_party: Option<Box<ThirdParty>>,
}

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to one rule")]
pub(crate) struct Create {
    /// Who has 100 in a room without power levels and may join first; `None` if malformed.
    pub(crate) creator: Option<UserIx>,
    /// All privileged creators, sorted; empty in versions without.
    pub(crate) creators: Box<[UserIx]>,
    pub(crate) has_creator_property: bool,
    pub(crate) additional_creators_valid: bool,
    pub(crate) version_recognised: bool,
    pub(crate) federates: bool,
}

/// Content beyond what fits into the event table's own columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Plain,
    Create(Create),
    Member(Member),
    PowerLevels(PowerLevels),
    /// The public keys of `m.room.third_party_invite`.
    PublicKeys(Box<[Box<str>]>),
}

/// The columns and the rest.
pub(crate) struct Decoded {
    pub(crate) membership: Membership,
    pub(crate) join_rule: JoinRule,
    pub(crate) content: Content,
}

pub(crate) fn decode(
    kind: Kind,
    sender: UserIx,
    content: &Map<String, Value>,
    rules: &RoomVersionRules,
    tables: &mut Tables,
) -> Decoded {
    let mut decoded = Decoded {
        membership: Membership::Malformed,
        join_rule: JoinRule::Malformed,
        content: Content::Plain,
    };
    match kind {
        Kind::Create => decoded.content = Content::Create(create(sender, content, rules, tables)),
        Kind::Member => {
            decoded.membership = Membership::of(content);
            let member = member(content, tables);
            if member.authoriser != Authoriser::Absent || member.third_party.is_some() {
                decoded.content = Content::Member(member);
            }
        }
        Kind::JoinRules => decoded.join_rule = JoinRule::of(content),
        Kind::PowerLevels => {
            decoded.content = Content::PowerLevels(PowerLevels::decode(content, rules, tables));
        }
        Kind::ThirdPartyInvite => decoded.content = Content::PublicKeys(public_keys(content)),
        Kind::Aliases | Kind::Redaction | Kind::Other => {}
    }
    decoded
}

fn create(
    sender: UserIx,
    content: &Map<String, Value>,
    rules: &RoomVersionRules,
    tables: &mut Tables,
) -> Create {
    let creator = if rules.auth.creator_is_sender {
        Some(sender)
    } else {
        content.get("creator").and_then(Value::as_str).map(|id| tables.intern_user(id))
    };
    let mut creators = Vec::new();
    let mut additional_creators_valid = true;
    if rules.auth.privileged_creators {
        creators.push(sender);
        if let Some(additional) = content.get("additional_creators") {
            let ids = additional.as_array().map_or(&[][..], Vec::as_slice);
            additional_creators_valid =
                additional.is_array() && ids.iter().all(|id| id.as_str().is_some_and(is_user_id));
            if additional_creators_valid {
                creators
                    .extend(ids.iter().filter_map(Value::as_str).map(|id| tables.intern_user(id)));
            }
        }
        creators.sort_unstable();
        creators.dedup();
    }
    let version_recognised = content.get("room_version").is_none_or(|version| {
        version.as_str().is_some_and(|version| {
            version == rules.version || RoomVersionRules::for_version(version).is_some()
        })
    });
    Create {
        creator,
        creators: creators.into(),
        has_creator_property: content.contains_key("creator"),
        additional_creators_valid,
        version_recognised,
        federates: content.get("m.federate") != Some(&Value::Bool(false)),
    }
}

fn member(content: &Map<String, Value>, tables: &mut Tables) -> Member {
    let authoriser = match content.get("join_authorised_via_users_server") {
        None => Authoriser::Absent,
        Some(value) => match value.as_str().filter(|id| is_user_id(id)) {
            Some(id) => {
                // Named as a key too: selection and checks look up this user's membership.
                tables.intern_key(TYPE_MEMBER, id);
                Authoriser::User(tables.intern_user(id))
            }
            None => Authoriser::Malformed,
        },
    };
    let third_party = content.get("third_party_invite").map(|invite| {
        let Some(signed) = invite.get("signed").and_then(Value::as_object) else {
            return Box::new(ThirdParty::Unsigned);
        };
        let text = |name| signed.get(name).and_then(Value::as_str);
        Box::new(match (text("mxid"), text("token")) {
            (Some(mxid), Some(token)) => ThirdParty::Signed {
                mxid: mxid.into(),
                token: tables.intern_key(TYPE_THIRD_PARTY_INVITE, token),
                signed: signed.clone(),
            },
            _ => ThirdParty::Incomplete,
        })
    });
    Member { authoriser, third_party }
}

/// "1. A single public key in the `public_key` property. 2. A list of public keys in the
/// `public_keys` property." Entries of another shape are passed over.
fn public_keys(content: &Map<String, Value>) -> Box<[Box<str>]> {
    let listed = content.get("public_keys").and_then(Value::as_array).into_iter().flatten();
    content
        .get("public_key")
        .into_iter()
        .chain(listed.filter_map(|entry| entry.get("public_key")))
        .filter_map(|key| key.as_str().map(Into::into))
        .collect()
}
