//! Which servers may take part in a room.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls>

use ruma::{ServerName, events::room::server_acl::RoomServerAclEventContent};
use serde_json::Value as JsonValue;

/// Whether the room's `m.room.server_acl`, if it has one, allows `server`. `content` is that of the
/// event.
///
/// What is malformed counts as absent: no list of allowed servers allows none.
pub(crate) fn allows(content: Option<&str>, server: &ServerName) -> bool {
    let Some(content) = content else { return true };
    let content: JsonValue = serde_json::from_str(content).unwrap_or_default();
    let patterns = |key: &str| {
        let list = content.get(key).and_then(JsonValue::as_array).into_iter().flatten();
        list.filter_map(|pattern| pattern.as_str().map(str::to_owned)).collect()
    };
    let ip_literals = content.get("allow_ip_literals").and_then(JsonValue::as_bool).unwrap_or(true);
    RoomServerAclEventContent::new(ip_literals, patterns("allow"), patterns("deny"))
        .is_allowed(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, server: &str) -> bool {
        allows(Some(content), <&ServerName>::try_from(server).unwrap())
    }

    #[test]
    fn without_a_list_all_are_allowed_and_an_empty_one_allows_nobody() {
        assert!(allows(None, ruma::server_name!("a.example")));
        for content in ["{}", r#"{"allow":[]}"#, r#"{"allow":"*"}"#, r#"{"allow":[7]}"#, "[]"] {
            assert!(!check(content, "a.example"), "{content}");
        }
    }

    #[test]
    fn denied_goes_before_allowed_and_ports_and_case_do_not_matter() {
        let content = r#"{"allow":["*"],"deny":["evil.example","*.Evil.example","b?d.example"]}"#;
        assert!(check(content, "a.example"));
        assert!(check(content, "notevil.example"));
        for server in ["evil.example", "evil.example:8448", "EVIL.example", "x.evil.example"] {
            assert!(!check(content, server), "{server}");
        }
        assert!(!check(content, "bad.example") && check(content, "baad.example"));
    }

    #[test]
    fn addresses_are_allowed_unless_said_otherwise() {
        assert!(check(r#"{"allow":["*"]}"#, "1.2.3.4:8448"));
        let content = r#"{"allow":["*"],"allow_ip_literals":false}"#;
        assert!(!check(content, "1.2.3.4"));
        assert!(!check(content, "[::1]:8448"));
        assert!(check(content, "a.example"));
        assert!(check(r#"{"allow":["*"],"allow_ip_literals":"no"}"#, "1.2.3.4"));
    }
}
