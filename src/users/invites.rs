//! Whom a user lets invite them.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#invite-permission>, and MSC4155 with
//! lists of users and servers.

use ruma::UserId;
use serde::Deserialize;
use serde_json::Value;

use super::{GLOBAL, Ignored};
use crate::storage::{Read, StorageError, intern::UserNumber, schema::ACCOUNT_DATA};

/// The account data that say so: that of the spec, its name before, and that of MSC4155.
const BLOCKING: [&str; 2] =
    ["m.invite_permission_config", "org.matrix.msc4380.invite_permission_config"];
const FILTERING: &str = "org.matrix.msc4155.invite_permission_config";
/// Longer globs are passed over.
const MAX_GLOB_BYTES: usize = 255;

/// What becomes of an invitation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is shown.
    Show,
    /// It is accepted and not shown.
    Hide,
    /// It is refused.
    Refuse,
}

/// Whom one user lets invite them.
#[derive(Clone, Debug, Default)]
pub(crate) struct InviteRules {
    block_all: bool,
    lists: Lists,
    ignored: Ignored,
}

/// Globs over user IDs and server names, in the order in which they are tried.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Lists {
    allowed_users: Vec<Value>,
    ignored_users: Vec<Value>,
    blocked_users: Vec<Value>,
    allowed_servers: Vec<Value>,
    ignored_servers: Vec<Value>,
    blocked_servers: Vec<Value>,
}

impl InviteRules {
    /// Reads the rules of `user`. Account data that makes no sense counts as none.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn load(at: &impl Read, user: UserNumber) -> Result<Self, StorageError> {
        #[derive(Deserialize)]
        struct Blocking {
            default_action: String,
        }
        let kinds = [BLOCKING[0], BLOCKING[1], FILTERING];
        let data = ACCOUNT_DATA.multi_get(at, kinds.map(|kind| (user, GLOBAL, kind))).await?;
        let mut rules = Self { ignored: Ignored::load(at, user).await?, ..Self::default() };
        for (kind, datum) in kinds.into_iter().zip(data) {
            let Some(datum) = datum else { continue };
            if kind == FILTERING {
                rules.lists = serde_json::from_slice(&datum.content).unwrap_or_default();
            } else {
                rules.block_all |= serde_json::from_slice::<Blocking>(&datum.content)
                    .is_ok_and(|blocking| blocking.default_action == "block");
            }
        }
        Ok(rules)
    }

    /// What becomes of an invitation by `inviter`.
    pub(crate) fn judge(&self, inviter: &UserId) -> Verdict {
        if self.block_all {
            return Verdict::Refuse;
        }
        let (user, server) = (inviter.as_str(), inviter.server_name().as_str());
        let Lists {
            allowed_users,
            ignored_users,
            blocked_users,
            allowed_servers,
            ignored_servers,
            blocked_servers,
        } = &self.lists;
        let verdict = [
            (allowed_users, user, Verdict::Show),
            (ignored_users, user, Verdict::Hide),
            (blocked_users, user, Verdict::Refuse),
            (allowed_servers, server, Verdict::Show),
            (ignored_servers, server, Verdict::Hide),
            (blocked_servers, server, Verdict::Refuse),
        ]
        .into_iter()
        .find_map(|(globs, text, verdict)| any_fits(globs, text).then_some(verdict));
        match verdict {
            // Whoever is ignored is, whatever the lists say.
            Some(Verdict::Show) | None if self.ignored.contains(inviter) => Verdict::Hide,
            verdict => verdict.unwrap_or(Verdict::Show),
        }
    }
}

fn any_fits(globs: &[Value], text: &str) -> bool {
    globs
        .iter()
        .filter_map(Value::as_str)
        .filter(|glob| glob.len() <= MAX_GLOB_BYTES)
        .any(|glob| fits(glob.as_bytes(), text.as_bytes()))
}

/// Whether `text` fits a glob with `*` and `?`, going back to the last `*` at most.
fn fits(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(read) {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                read = taken + 1;
            }
        }
    }
    glob.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn globs_fit_whole_names() {
        for (glob, text, expected) in [
            ("*", "a", true),
            ("*.example.org", "x.example.org", true),
            ("*.example.org", "example.org", false),
            ("@sp?m*:*", "@spam12:evil.example", true),
            ("@spam", "@spam1", false),
            ("a*b*c", "abbbc", true),
            ("a*b*c", "ac", false),
            ("", "", true),
        ] {
            assert_eq!(fits(glob.as_bytes(), text.as_bytes()), expected, "{glob} {text}");
        }
    }

    #[test]
    fn lists_are_tried_in_their_order() {
        let lists = json!({
            "allowed_users": ["@friend:evil.example"],
            "ignored_users": ["@bore:*"],
            "blocked_servers": ["evil.example", 7],
        });
        let rules =
            InviteRules { lists: serde_json::from_value(lists).unwrap(), ..InviteRules::default() };
        assert_eq!(rules.judge(user_id!("@friend:evil.example")), Verdict::Show);
        assert_eq!(rules.judge(user_id!("@bore:evil.example")), Verdict::Hide);
        assert_eq!(rules.judge(user_id!("@other:evil.example")), Verdict::Refuse);
        assert_eq!(rules.judge(user_id!("@other:good.example")), Verdict::Show);
    }

    #[test]
    fn blocking_all_leaves_nobody() {
        let rules = InviteRules { block_all: true, ..InviteRules::default() };
        assert_eq!(rules.judge(user_id!("@friend:good.example")), Verdict::Refuse);
    }
}
