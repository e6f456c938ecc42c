//! The rules by name, and the verdict that one of them failed.

use crate::{ids::EventIx, power_levels::NamedLevel};

/// An authorisation rule that rejects. The documentation quotes the sentence it carries out.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#authorisation-rules>, and the same section of
/// the other room versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// "If type is `m.room.create`: If it has any `prev_events`, reject."
    #[error("a create event has no parents")]
    CreateHasParents,
    /// "If the domain of the `room_id` does not match the domain of the `sender`, reject."
    /// (up to version 11)
    #[error("a create event's sender is on the server in the room ID")]
    CreateRoomIdDomain,
    /// "If the event has a `room_id`, reject." (since version 12)
    #[error("a create event has no room ID")]
    CreateHasRoomId,
    /// "If `content.room_version` is present and is not a recognised version, reject."
    #[error("a create event names a recognised room version")]
    CreateUnknownVersion,
    /// "If `content` has no `creator` property, reject." (up to version 10)
    #[error("a create event names the creator")]
    CreateWithoutCreator,
    /// "If `additional_creators` is present in `content` and is not an array of strings where
    /// each string passes the same user ID validation applied to `sender`, reject." (since 12)
    #[error("additional creators are user IDs")]
    CreateAdditionalCreators,
    /// "If the event's `room_id` is not an event ID for an accepted (not rejected)
    /// `m.room.create` event, with the sigil `!` instead of `$`, reject." (since version 12)
    #[error("the room's create event was accepted")]
    CreateNotAccepted,
    /// "If there are duplicate entries for a given `type` and `state_key` pair, reject."
    #[error("two auth events have the same state key")]
    AuthEventDuplicate,
    /// "If there are entries whose `type` and `state_key` don't match those specified by the auth
    /// events selection algorithm described in the server specification, reject."
    #[error("an auth event is not among those to be selected")]
    AuthEventUnexpected,
    /// "If there are entries which were themselves rejected under the checks performed on receipt
    /// of a PDU, reject."
    #[error("an auth event was rejected")]
    AuthEventRejected,
    /// "If there is no `m.room.create` event among the entries, reject." (up to version 11)
    #[error("the auth events lack the create event")]
    AuthEventsLackCreate,
    /// There is no `m.room.create` event in the state, so nothing else can be decided.
    #[error("the state lacks the create event")]
    StateLacksCreate,
    /// An event in the state that the rules depend on has content without meaning. It should have
    /// been rejected itself.
    #[error("an event in the state is malformed")]
    StateMalformed,
    /// "If the `content` of the `m.room.create` event in the room state has the property
    /// `m.federate` set to `false`, and the `sender` domain of the event does not match the
    /// `sender` domain of the create event, reject."
    #[error("the room is not federated")]
    NotFederated,
    /// "If type is `m.room.aliases`: If event has no `state_key`, reject." (up to version 5)
    #[error("aliases have a state key")]
    AliasesStateKey,
    /// "If sender's domain doesn't match `state_key`, reject." (up to version 5)
    #[error("aliases are those of the sender's server")]
    AliasesDomain,
    /// "If type is `m.room.member`: If there is no `state_key` property, or no `membership`
    /// property in `content`, reject."
    #[error("a membership has a state key and a membership")]
    MemberIncomplete,
    /// The *target user* is "the user given by the `state_key` of the event": it must be one.
    #[error("a membership is of a user")]
    MemberTarget,
    /// "If `content` has a `join_authorised_via_users_server` key: If the event is not validly
    /// signed by the homeserver of the user ID denoted by the key, reject." (since version 8)
    #[error("the authorising user's server signed")]
    MemberAuthoriserSignature,
    /// "If the `sender` does not match `state_key`, reject." (join)
    #[error("users join for themselves")]
    JoinForOther,
    /// "If the `sender` is banned, reject."
    #[error("banned users cannot join")]
    JoinBanned,
    /// "If the `join_rule` is `invite` or `knock` then allow if membership state is `invite` or
    /// `join`."
    #[error("joining takes an invitation")]
    JoinNotInvited,
    /// "If the `join_authorised_via_users_server` key in `content` is not a user with sufficient
    /// permission to invite other users or is not a joined member of the room, reject."
    #[error("a restricted join is authorised by a member who may invite")]
    JoinAuthoriser,
    /// "If the `join_rule` is `public`, allow. Otherwise, reject."
    #[error("the join rule lets nobody in")]
    JoinRuleClosed,
    /// "If `content` has a `third_party_invite` property: If *target user* is banned, reject."
    #[error("banned users cannot be invited by a third party")]
    ThirdPartyBanned,
    /// "If `content.third_party_invite` does not have a `signed` property, reject."
    #[error("a third-party invite is signed")]
    ThirdPartyUnsigned,
    /// "If `signed` does not have `mxid` and `token` properties, reject."
    #[error("a third-party invite names user and token")]
    ThirdPartyIncomplete,
    /// "If `mxid` does not match `state_key`, reject."
    #[error("a third-party invite is for the target user")]
    ThirdPartyMxid,
    /// "If there is no `m.room.third_party_invite` event in the current room state with
    /// `state_key` matching `token`, reject."
    #[error("a third-party invite was announced")]
    ThirdPartyUnknown,
    /// "If `sender` does not match `sender` of the `m.room.third_party_invite`, reject."
    #[error("a third-party invite comes from who announced it")]
    ThirdPartySender,
    /// "If any signature in `signed` matches any public key in the `m.room.third_party_invite`
    /// event, allow. Otherwise, reject."
    #[error("a third-party invite is signed with an announced key")]
    ThirdPartySignature,
    /// "If the `sender`'s current membership state is not `join`, reject." (invite)
    #[error("members invite")]
    InviteSender,
    /// "If *target user*'s current membership state is `join` or `ban`, reject."
    #[error("members and banned users cannot be invited")]
    InviteTarget,
    /// "If the `sender`'s power level is greater than or equal to the *invite level*, allow.
    /// Otherwise, reject."
    #[error("inviting takes the invite level")]
    InviteLevel,
    /// "If the `sender` matches `state_key`, allow if and only if that user's current membership
    /// state is `invite`, `join`, or `knock`."
    #[error("leaving takes being there")]
    LeaveNotThere,
    /// "If the `sender`'s current membership state is not `join`, reject." (kick)
    #[error("members kick")]
    KickSender,
    /// "If the *target user*'s current membership state is `ban`, and the `sender`'s power level
    /// is less than the *ban level*, reject."
    #[error("unbanning takes the ban level")]
    UnbanLevel,
    /// "If the `sender`'s power level is greater than or equal to the *kick level*, and the
    /// *target user*'s power level is less than the `sender`'s power level, allow. Otherwise,
    /// reject."
    #[error("kicking takes the kick level and more than the target has")]
    KickLevel,
    /// "If the `sender`'s current membership state is not `join`, reject." (ban)
    #[error("members ban")]
    BanSender,
    /// "If the `sender`'s power level is greater than or equal to the *ban level*, and the
    /// *target user*'s power level is less than the `sender`'s power level, allow. Otherwise,
    /// reject."
    #[error("banning takes the ban level and more than the target has")]
    BanLevel,
    /// "If the `join_rule` is anything other than `knock` or `knock_restricted`, reject."
    #[error("the join rule allows no knocking")]
    KnockRule,
    /// "If `sender` does not match `state_key`, reject." (knock)
    #[error("users knock for themselves")]
    KnockForOther,
    /// "If the `sender`'s current membership is not `ban`, `invite`, or `join`, allow. Otherwise,
    /// reject."
    #[error("who is banned, invited or joined does not knock")]
    KnockMember,
    /// "Otherwise, the membership is unknown. Reject."
    #[error("the membership is known")]
    MembershipUnknown,
    /// "If the `sender`'s current membership state is not `join`, reject."
    #[error("members send events")]
    SenderNotJoined,
    /// "If type is `m.room.third_party_invite`: Allow if and only if `sender`'s current power
    /// level is greater than or equal to the *invite level*."
    #[error("announcing a third-party invite takes the invite level")]
    ThirdPartyInviteLevel,
    /// "If the event type's *required power level* is greater than the `sender`'s power level,
    /// reject."
    #[error("the event type takes more power")]
    RequiredLevel,
    /// "If the event has a `state_key` that starts with an `@` and does not match the `sender`,
    /// reject."
    #[error("state of a user is set by that user")]
    ForeignStateKey,
    /// "If any of the properties `users_default`, `events_default`, `state_default`, `ban`,
    /// `redact`, `kick`, or `invite` in `content` are present and not an integer, reject."
    #[error("`{}` is an integer", .0.name())]
    PowerLevelsInteger(NamedLevel),
    /// "If either of the properties `events` or `notifications` in `content` are present and not
    /// an object with values that are integers, reject."
    #[error("levels of events and notifications are integers")]
    PowerLevelsMap,
    /// "If the `users` property in `content` is not an object with keys that are valid user IDs
    /// with values that are integers, reject."
    #[error("levels of users are integers")]
    PowerLevelsUsers,
    /// "If the `users` property in `content` contains the `sender` of the `m.room.create` event
    /// or any of the `additional_creators` array, reject." (since version 12)
    #[error("creators have no level")]
    PowerLevelsCreator,
    /// "For the properties `users_default`, `events_default`, `state_default`, `ban`, `redact`,
    /// `kick`, `invite` check if they were added, changed or removed. For each found alteration:
    /// If the current value is higher than the `sender`'s current power level, reject. If the new
    /// value is higher than the `sender`'s current power level, reject."
    #[error("changing `{}` takes its old and its new level", .0.name())]
    PowerLevelsNamed(NamedLevel),
    /// "For each entry being changed in, or removed from, the `events` property: If the current
    /// value is greater than the `sender`'s current power level, reject." And likewise for new
    /// values of those added or changed.
    #[error("changing the level of an event type takes its old and its new level")]
    PowerLevelsEvent,
    /// The same for `notifications`. (since version 6)
    #[error("changing a notification level takes its old and its new level")]
    PowerLevelsNotification,
    /// "For each entry being changed in, or removed from, the `users` property, other than the
    /// `sender`'s own entry: If the current value is greater than or equal to the `sender`'s
    /// current power level, reject."
    #[error("changing a user's level takes more than the user has")]
    PowerLevelsUser,
    /// "For each entry being added to, or changed in, the `users` property: If the new value is
    /// greater than the `sender`'s current power level, reject."
    #[error("nobody gives more power than they have")]
    PowerLevelsRaise,
    /// "If type is `m.room.redaction`: If the `sender`'s power level is greater than or equal to
    /// the *redact level*, allow. If the domain of the `event_id` of the event being redacted is
    /// the same as the domain of the `event_id` of the `m.room.redaction`, allow. Otherwise,
    /// reject." (versions 1 and 2)
    #[error("redacting takes the redact level or the same server")]
    Redaction,
}

/// The verdict that an event is not authorised.
///
/// A failed rule is a result, not a fault: the event is then rejected or soft-failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct Rejection {
    /// The rule that failed.
    pub rule: Rule,
    /// The event that decided it, if it was one: the auth event that must not be there, the
    /// membership, the power levels or the join rules that stood in the way.
    pub decided_by: Option<EventIx>,
}

impl Rejection {
    pub(crate) fn by(rule: Rule, decided_by: impl Into<Option<EventIx>>) -> Self {
        Self { rule, decided_by: decided_by.into() }
    }
}

impl From<Rule> for Rejection {
    fn from(rule: Rule) -> Self {
        Self { rule, decided_by: None }
    }
}

/// Whether the rules allow an event.
pub type Verdict = Result<(), Rejection>;
