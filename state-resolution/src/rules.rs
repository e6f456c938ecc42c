//! What distinguishes the room versions, as data.
//!
//! Nothing else in this crate asks for a version number: a rule is looked up
//! by name, so that an experimental room version is one more constant.

/// The rules of one room version.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomVersionRules {
    /// The identifier of the version, as in `content.room_version` of the create event.
    pub version: &'static str,
    /// How event IDs are made, and how events refer to others.
    pub event_id_format: EventIdFormat,
    /// Whether numbers must be integers in ±(2⁵³ − 1) as in canonical JSON (6 and later).
    pub strict_canonical_json: bool,
    /// Whether a signature counts only while its key is valid (5 and later).
    pub enforce_key_validity: bool,
    /// What a redaction keeps.
    pub redaction: RedactionRules,
    /// Who may send what.
    pub auth: AuthRules,
    /// How forks of the state are merged.
    pub resolution: ResolutionRules,
}

/// How event IDs are made in a room version.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v4/#event-ids>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventIdFormat {
    /// `$opaque:domain`, chosen by the sender; references are pairs of ID and hashes (1 and 2).
    Chosen,
    /// The reference hash in standard Base64; references are plain IDs (3).
    Hash,
    /// The reference hash in URL-safe Base64; references are plain IDs (4 and later).
    UrlSafeHash,
}

/// What the redaction algorithm of a room version keeps besides the common fields.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#redactions>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one flag per difference between versions")]
pub struct RedactionRules {
    /// `aliases` of `m.room.aliases` (up to 5).
    pub keep_aliases: bool,
    /// `allow` of `m.room.join_rules` (8 and later).
    pub keep_join_rules_allow: bool,
    /// `join_authorised_via_users_server` of `m.room.member` (9 and later).
    pub keep_join_authorised: bool,
    /// The top-level `origin`, `membership` and `prev_state` (up to 10).
    pub keep_origin_membership_prev_state: bool,
    /// Everything in `m.room.create` (11 and later).
    pub keep_create_content: bool,
    /// `redacts` of `m.room.redaction`, which moved into the content (11 and later).
    pub redacts_in_content: bool,
    /// `invite` of `m.room.power_levels` (11 and later).
    pub keep_power_levels_invite: bool,
    /// `third_party_invite.signed` of `m.room.member` (11 and later).
    pub keep_third_party_signed: bool,
}

/// The differences between the authorisation rules of the room versions.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#authorisation-rules>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one flag per difference between versions")]
pub struct AuthRules {
    /// `m.room.redaction` needs the redact level or an equal domain (1 and 2).
    pub special_case_redactions: bool,
    /// `m.room.aliases` needs the sender's domain as state key, and nothing else (up to 5).
    pub special_case_aliases: bool,
    /// `notifications` in power levels is guarded like `events` (6 and later).
    pub limit_notifications: bool,
    /// The membership and join rule `knock` (7 and later).
    pub knocking: bool,
    /// The join rule `restricted` (8 and later).
    pub restricted_join_rule: bool,
    /// The join rule `knock_restricted` (10 and later).
    pub knock_restricted_join_rule: bool,
    /// Power levels are integers, never strings (10 and later).
    pub integer_power_levels: bool,
    /// The creator is the create event's sender, not `content.creator` (11 and later).
    pub creator_is_sender: bool,
    /// Creators stand above every level, and there may be several (12 and later).
    pub privileged_creators: bool,
    /// The room ID is the create event's hash; nobody cites the create event (12 and later).
    pub room_id_is_create_hash: bool,
    /// What a room without `m.room.join_rules` is taken for. The spec does not say. Synapse and
    /// Dendrite, which most rooms are shared with, take it for [`AbsentJoinRule::Invite`].
    pub absent_join_rule: AbsentJoinRule,
}

/// The join rule of a room that has no `m.room.join_rules` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentJoinRule {
    /// The room is treated as one with the rule `invite`.
    Invite,
    /// No rule allows a join.
    Closed,
}

/// How a room version merges forks of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolutionRules {
    /// Which algorithm.
    pub algorithm: Algorithm,
    /// Whether the full auth chain of a state counts the state's own events.
    ///
    /// Two readings of the spec are in use. Synapse counts them, and since nearly every room is
    /// shared with it, so do the rules here; ruma-state-res does not, and comparing with it is
    /// what the other value is for. The results differ in about one fork of a thousand.
    pub chain_includes_state_events: bool,
}

/// The state resolution algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// By depth (room version 1).
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v1/#state-resolution>
    V1,
    /// By power and mainline, on top of the unconflicted state (2 to 11).
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>
    V2,
    /// As `V2`, on top of nothing and with the conflicted subgraph (12).
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>
    V2_1,
}

impl RoomVersionRules {
    /// Room version 1.
    pub const V1: Self = Self {
        version: "1",
        event_id_format: EventIdFormat::Chosen,
        strict_canonical_json: false,
        enforce_key_validity: false,
        redaction: RedactionRules {
            keep_aliases: true,
            keep_join_rules_allow: false,
            keep_join_authorised: false,
            keep_origin_membership_prev_state: true,
            keep_create_content: false,
            redacts_in_content: false,
            keep_power_levels_invite: false,
            keep_third_party_signed: false,
        },
        auth: AuthRules {
            special_case_redactions: true,
            special_case_aliases: true,
            limit_notifications: false,
            knocking: false,
            restricted_join_rule: false,
            knock_restricted_join_rule: false,
            integer_power_levels: false,
            creator_is_sender: false,
            privileged_creators: false,
            room_id_is_create_hash: false,
            absent_join_rule: AbsentJoinRule::Invite,
        },
        resolution: ResolutionRules { algorithm: Algorithm::V1, chain_includes_state_events: true },
    };

    /// Room version 2: a new state resolution.
    pub const V2: Self = Self {
        version: "2",
        resolution: ResolutionRules { algorithm: Algorithm::V2, ..Self::V1.resolution },
        ..Self::V1
    };

    /// Room version 3: event IDs are hashes, redactions are no longer special.
    pub const V3: Self = Self {
        version: "3",
        event_id_format: EventIdFormat::Hash,
        auth: AuthRules { special_case_redactions: false, ..Self::V2.auth },
        ..Self::V2
    };

    /// Room version 4: URL-safe event IDs.
    pub const V4: Self =
        Self { version: "4", event_id_format: EventIdFormat::UrlSafeHash, ..Self::V3 };

    /// Room version 5: key validity.
    pub const V5: Self = Self { version: "5", enforce_key_validity: true, ..Self::V4 };

    /// Room version 6: strict JSON, no special aliases, guarded notification levels.
    pub const V6: Self = Self {
        version: "6",
        strict_canonical_json: true,
        redaction: RedactionRules { keep_aliases: false, ..Self::V5.redaction },
        auth: AuthRules { special_case_aliases: false, limit_notifications: true, ..Self::V5.auth },
        ..Self::V5
    };

    /// Room version 7: knocking.
    pub const V7: Self =
        Self { version: "7", auth: AuthRules { knocking: true, ..Self::V6.auth }, ..Self::V6 };

    /// Room version 8: restricted joins.
    pub const V8: Self = Self {
        version: "8",
        redaction: RedactionRules { keep_join_rules_allow: true, ..Self::V7.redaction },
        auth: AuthRules { restricted_join_rule: true, ..Self::V7.auth },
        ..Self::V7
    };

    /// Room version 9: redactions leave restricted joins intact.
    pub const V9: Self = Self {
        version: "9",
        redaction: RedactionRules { keep_join_authorised: true, ..Self::V8.redaction },
        ..Self::V8
    };

    /// Room version 10: integer levels, `knock_restricted`.
    pub const V10: Self = Self {
        version: "10",
        auth: AuthRules {
            knock_restricted_join_rule: true,
            integer_power_levels: true,
            ..Self::V9.auth
        },
        ..Self::V9
    };

    /// Room version 11: the creator is the sender, redactions keep more.
    pub const V11: Self = Self {
        version: "11",
        redaction: RedactionRules {
            keep_origin_membership_prev_state: false,
            keep_create_content: true,
            redacts_in_content: true,
            keep_power_levels_invite: true,
            keep_third_party_signed: true,
            ..Self::V10.redaction
        },
        auth: AuthRules { creator_is_sender: true, ..Self::V10.auth },
        ..Self::V10
    };

    /// Room version 12: privileged creators, room IDs as hashes, state resolution 2.1.
    pub const V12: Self = Self {
        version: "12",
        auth: AuthRules {
            privileged_creators: true,
            room_id_is_create_hash: true,
            ..Self::V11.auth
        },
        resolution: ResolutionRules { algorithm: Algorithm::V2_1, ..Self::V11.resolution },
        ..Self::V11
    };

    /// Every stable room version, in order.
    pub const ALL: [Self; 12] = [
        Self::V1,
        Self::V2,
        Self::V3,
        Self::V4,
        Self::V5,
        Self::V6,
        Self::V7,
        Self::V8,
        Self::V9,
        Self::V10,
        Self::V11,
        Self::V12,
    ];

    /// The rules of the version called `version`; `None` if it is not recognised.
    pub fn for_version(version: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rules| rules.version == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which versions have a rule, as ranges: a slip in the chain of constants shows here.
    #[test]
    fn each_rule_begins_and_ends_with_the_version_the_spec_names() {
        type Flag = fn(&RoomVersionRules) -> bool;
        let table: [(&str, Flag, std::ops::RangeInclusive<usize>); 18] = [
            ("chosen event IDs", |r| r.event_id_format == EventIdFormat::Chosen, 1..=2),
            ("URL-safe IDs", |r| r.event_id_format == EventIdFormat::UrlSafeHash, 4..=12),
            ("canonical JSON", |r| r.strict_canonical_json, 6..=12),
            ("key validity", |r| r.enforce_key_validity, 5..=12),
            ("redactions", |r| r.auth.special_case_redactions, 1..=2),
            ("aliases", |r| r.auth.special_case_aliases, 1..=5),
            ("notifications", |r| r.auth.limit_notifications, 6..=12),
            ("knock", |r| r.auth.knocking, 7..=12),
            ("restricted", |r| r.auth.restricted_join_rule, 8..=12),
            ("knock_restricted", |r| r.auth.knock_restricted_join_rule, 10..=12),
            ("integers", |r| r.auth.integer_power_levels, 10..=12),
            ("creator is sender", |r| r.auth.creator_is_sender, 11..=12),
            ("creators", |r| r.auth.privileged_creators, 12..=12),
            ("room ID", |r| r.auth.room_id_is_create_hash, 12..=12),
            ("v1", |r| r.resolution.algorithm == Algorithm::V1, 1..=1),
            ("v2", |r| r.resolution.algorithm == Algorithm::V2, 2..=11),
            ("kept allow", |r| r.redaction.keep_join_rules_allow, 8..=12),
            ("kept join_authorised", |r| r.redaction.keep_join_authorised, 9..=12),
        ];
        for (name, flag, versions) in table {
            for (number, rules) in (1..).zip(&RoomVersionRules::ALL) {
                assert_eq!(rules.version, number.to_string());
                assert_eq!(flag(rules), versions.contains(&number), "{name} in version {number}");
            }
        }
    }

    #[test]
    fn an_unknown_version_has_no_rules() {
        assert_eq!(RoomVersionRules::for_version("13"), None);
        assert_eq!(RoomVersionRules::for_version("12"), Some(RoomVersionRules::V12));
    }
}
