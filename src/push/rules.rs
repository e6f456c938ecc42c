//! Push rules: which events users want to be notified of, and how.
//!
//! A user's rules are the account data `m.push_rules`, so every sync shows each change.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules>

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ruma::{
    UserId,
    api::client::push::PushRule,
    push::{
        Action, AnyPushRuleRef, ConditionalPushRule, InsertPushRuleError, NewPushRule, RuleKind,
        Ruleset,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    storage::{StorageError, intern::UserNumber, schema::ACCOUNT_DATA},
    users::{AccountData, AccountDataError, GLOBAL},
};

/// The type of the account data that holds the rules.
pub(crate) const PUSH_RULES_TYPE: &str = "m.push_rules";

/// The longest ID of a rule: as long as that of a room or a user.
const MAX_RULE_ID_BYTES: usize = 255;
/// The largest rule, as JSON.
const MAX_RULE_BYTES: usize = 4096;
/// How many rules of their own a user may have.
const MAX_RULES: usize = 1000;
/// What came after rules of content for a while is called in paths, as in a ruleset.
const POSTCONTENT: &str = "postcontent";
/// The kinds of rules, by their names in a ruleset.
const KINDS: [&str; 5] = ["override", "content", "room", "sender", "underride"];

/// Why push rules were not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushRuleError {
    /// There is no such kind of rule.
    #[error("there is no push rule kind {kind}")]
    UnknownKind {
        /// What was asked for.
        kind: RuleKind,
    },
    /// There is no such rule.
    #[error("the push rule was not found")]
    NotFound,
    /// Rules of the server are switched off, not removed, and nobody adds any.
    #[error("push rules whose ID begins with a dot are the server's")]
    ServerDefault,
    /// The ID is not one a rule may have.
    #[error(
        "the ID of a push rule must have 1 to {MAX_RULE_ID_BYTES} bytes and neither / nor \\ in it"
    )]
    InvalidRuleId,
    /// The rule can't stand where it is wanted.
    #[error("the push rule cannot be placed there: {0}")]
    Placement(InsertPushRuleError),
    /// There is no such action.
    #[error("the actions of a push rule are \"notify\" and objects with set_tweak")]
    InvalidAction,
    /// A pattern that matches nothing.
    #[error("the pattern of a push rule must not be empty")]
    EmptyPattern,
    /// The rule is too large.
    #[error("a push rule may have at most {MAX_RULE_BYTES} bytes")]
    TooLarge,
    /// The user has too many rules.
    #[error("a user may have at most {MAX_RULES} push rules")]
    TooMany,
    /// The rules could not be written.
    #[error(transparent)]
    AccountData(#[from] AccountDataError),
    /// The database failed.
    #[error("cannot read push rules")]
    Storage(#[from] StorageError),
}

/// The push rules of all local users.
#[derive(Clone)]
pub(crate) struct PushRules {
    data: AccountData,
    /// How many changes of anybody's rules there were.
    changes: Arc<AtomicU64>,
}

impl PushRules {
    /// The push rules kept in `data`.
    pub(crate) fn new(data: AccountData) -> Self {
        Self { data, changes: Arc::default() }
    }

    /// A number that is another one once anybody's rules have changed: what was read while it was
    /// the same is still so.
    pub(super) fn generation(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// All rules of a user; those of the server if the user never had any.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn get(
        &self,
        user: UserNumber,
        user_id: &UserId,
    ) -> Result<Ruleset, StorageError> {
        let content = self.data.get(user, GLOBAL, PUSH_RULES_TYPE).await?;
        parse(content.as_ref().map(|content| content.get().as_bytes()), user_id)
    }

    /// One rule.
    ///
    /// # Errors
    /// [`PushRuleError::NotFound`], [`PushRuleError::UnknownKind`].
    pub(crate) async fn rule(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: &RuleKind,
        rule_id: &str,
    ) -> Result<PushRule, PushRuleError> {
        find(&self.get(user, user_id).await?, kind, rule_id)
    }

    /// Adds a rule, or changes one; it stands right below `after` or above `before`.
    ///
    /// # Errors
    /// [`PushRuleError`]: what is wrong with the rule or its place. Nothing is changed then.
    pub(crate) async fn put(
        &self,
        user: UserNumber,
        user_id: &UserId,
        rule: &NewPushRule,
        after: Option<&str>,
        before: Option<&str>,
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| put(rules, rule.clone(), after, before)).await
    }

    /// Removes a rule of the user's own.
    ///
    /// # Errors
    /// [`PushRuleError::NotFound`]; [`PushRuleError::ServerDefault`] if it is the server's.
    pub(crate) async fn remove(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: &RuleKind,
        rule_id: &str,
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| remove(rules, kind, rule_id)).await
    }

    /// Switches a rule on or off.
    ///
    /// # Errors
    /// [`PushRuleError::NotFound`], [`PushRuleError::UnknownKind`].
    pub(crate) async fn set_enabled(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: &RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| {
            let kind = checked(kind)?;
            rules.set_enabled(kind, rule_id, enabled).map_err(|_| PushRuleError::NotFound)
        })
        .await
    }

    /// Sets what a rule does.
    ///
    /// # Errors
    /// [`PushRuleError::NotFound`], [`PushRuleError::InvalidAction`], [`PushRuleError::TooLarge`].
    pub(crate) async fn set_actions(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: &RuleKind,
        rule_id: &str,
        actions: &[Action],
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| set_actions(rules, kind, rule_id, actions)).await
    }

    /// Gives a user the rules about threads, once: those that are followed notify, and others only
    /// who is mentioned there. Who never follows one is notified as ever.
    ///
    /// # Errors
    /// [`PushRuleError`] if they can't be written.
    pub(crate) async fn follow_threads(
        &self,
        user: UserNumber,
        user_id: &UserId,
    ) -> Result<(), PushRuleError> {
        if !self.get(user, user_id).await?.postcontent.is_empty() {
            return Ok(());
        }
        self.change(user, user_id, |rules| {
            if rules.postcontent.is_empty() {
                rules.postcontent = thread_rules().into();
            }
            Ok(())
        })
        .await
    }

    /// Reads, decides and writes; `decide` may be called again when another change was faster.
    async fn change(
        &self,
        user: UserNumber,
        user_id: &UserId,
        decide: impl Fn(&mut Ruleset) -> Result<(), PushRuleError>,
    ) -> Result<(), PushRuleError> {
        let changed = self
            .data
            .change(user, GLOBAL, PUSH_RULES_TYPE, |old| {
                let mut rules = parse(old, user_id)?;
                decide(&mut rules)?;
                let new = content(&rules).to_string().into_bytes();
                Ok((old != Some(new.as_slice())).then_some(new))
            })
            .await;
        self.changes.fetch_add(1, Ordering::AcqRel);
        changed
    }
}

/// The rules every user starts with.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#predefined-rules>
pub(crate) fn server_default(user_id: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user_id);
    // Of use only to those who follow threads, and a kind that many clients don't know.
    rules.postcontent.clear();
    super::polls::add(&mut rules);
    rules
}

/// The rules of those who follow threads.
///
/// Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/4306>
fn thread_rules() -> [ConditionalPushRule; 2] {
    [ConditionalPushRule::unsubscribed_thread(), ConditionalPushRule::subscribed_thread()]
}

/// The content of `m.push_rules`.
pub(crate) fn content(rules: &Ruleset) -> Value {
    json!({ "global": global(rules) })
}

/// The rules by kind. All kinds are there, also those without rules: clients rely on it.
pub(crate) fn global(rules: &Ruleset) -> Value {
    let mut global = json!(rules);
    if let Some(kinds) = global.as_object_mut() {
        for kind in KINDS {
            kinds.entry(kind).or_insert_with(|| json!([]));
        }
    }
    global
}

/// The rules in the content of `m.push_rules`, with the server's as they are now: the user's
/// `enabled` and `actions` of those stay.
fn parse(content: Option<&[u8]>, user_id: &UserId) -> Result<Ruleset, StorageError> {
    #[derive(Deserialize)]
    struct Content {
        global: Ruleset,
    }
    let default = server_default(user_id);
    let Some(content) = content else { return Ok(default) };
    let Content { global: mut rules } = serde_json::from_slice(content)
        .map_err(|_| StorageError::Corrupt { table: ACCOUNT_DATA.id.name() })?;
    let own = std::mem::take(&mut rules.postcontent);
    rules.update_with_server_default(default);
    if !own.is_empty() {
        rules.postcontent = thread_rules()
            .into_iter()
            .map(|mut rule| {
                if let Some(own) = own.get(rule.rule_id.as_str()) {
                    (rule.enabled, rule.actions) = (own.enabled, own.actions.clone());
                }
                rule
            })
            .collect();
    }
    Ok(rules)
}

/// Only the kinds of the spec, and that of the rules about threads, for which there are two names.
fn checked(kind: &RuleKind) -> Result<RuleKind, PushRuleError> {
    match kind.as_str() {
        POSTCONTENT => Ok(RuleKind::PostContent),
        name if KINDS.contains(&name) || *kind == RuleKind::PostContent => Ok(kind.clone()),
        _ => Err(PushRuleError::UnknownKind { kind: kind.clone() }),
    }
}

fn find(rules: &Ruleset, kind: &RuleKind, rule_id: &str) -> Result<PushRule, PushRuleError> {
    match rules.get(checked(kind)?, rule_id).ok_or(PushRuleError::NotFound)? {
        // ruma's conversion of any rule does not know these, and panics.
        AnyPushRuleRef::PostContent(rule) => Ok(rule.clone().into()),
        rule => Ok(rule.into()),
    }
}

fn put(
    rules: &mut Ruleset,
    rule: NewPushRule,
    after: Option<&str>,
    before: Option<&str>,
) -> Result<(), PushRuleError> {
    let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
    // MSC4306: "servers MUST ensure that clients MUST NOT be able to create custom rules with this
    // push rule kind".
    if checked(&kind)? == RuleKind::PostContent || rule_id.starts_with('.') {
        return Err(PushRuleError::ServerDefault);
    }
    if rule_id.is_empty() || rule_id.len() > MAX_RULE_ID_BYTES || rule_id.contains(['/', '\\']) {
        return Err(PushRuleError::InvalidRuleId);
    }
    if matches!(&rule, NewPushRule::Content(rule) if rule.pattern.is_empty()) {
        return Err(PushRuleError::EmptyPattern);
    }
    // Relative to itself a rule has no place; ruma would look for one past the end.
    if [after, before].contains(&Some(rule_id.as_str())) {
        return Err(PushRuleError::Placement(InsertPushRuleError::UnknownRuleId));
    }
    let enabled = rules.get(kind.clone(), &rule_id).map(AnyPushRuleRef::enabled);
    if enabled.is_none()
        && rules.iter().filter(|rule| !rule.is_server_default()).count() >= MAX_RULES
    {
        return Err(PushRuleError::TooMany);
    }
    // A rule that moves is taken out first: ruma counts the places with the rule at its old one.
    if enabled.is_some() && (after.is_some() || before.is_some()) {
        rules.remove(kind.clone(), &rule_id).map_err(|_| PushRuleError::NotFound)?;
    }
    rules.insert(rule, after, before).map_err(PushRuleError::Placement)?;
    if let Some(enabled) = enabled {
        rules.set_enabled(kind.clone(), &rule_id, enabled).map_err(|_| PushRuleError::NotFound)?;
    }
    let actions = find(rules, &kind, &rule_id)?.actions;
    set_actions(rules, &kind, &rule_id, &actions)
}

fn remove(rules: &mut Ruleset, kind: &RuleKind, rule_id: &str) -> Result<(), PushRuleError> {
    if find(rules, kind, rule_id)?.default {
        return Err(PushRuleError::ServerDefault);
    }
    rules.remove(checked(kind)?, rule_id).map_err(|_| PushRuleError::NotFound)
}

fn set_actions(
    rules: &mut Ruleset,
    kind: &RuleKind,
    rule_id: &str,
    actions: &[Action],
) -> Result<(), PushRuleError> {
    let actions = effective(actions)?;
    rules.set_actions(checked(kind)?, rule_id, actions).map_err(|_| PushRuleError::NotFound)?;
    let bytes = json!(find(rules, kind, rule_id)?).to_string().len();
    if bytes > MAX_RULE_BYTES { Err(PushRuleError::TooLarge) } else { Ok(()) }
}

/// The actions without those that mean nothing any more.
fn effective(actions: &[Action]) -> Result<Vec<Action>, PushRuleError> {
    let mut effective = Vec::with_capacity(actions.len());
    for action in actions {
        // What a tweak holds comes as text that may be no value, such as a number out of range.
        let value = serde_json::to_value(action).map_err(|_| PushRuleError::InvalidAction)?;
        match value {
            // Spec: "Clients and homeservers MUST ignore these actions, for instance, by
            // stripping them".
            Value::String(name) if name == "dont_notify" || name == "coalesce" => continue,
            // Proposals name theirs by a domain.
            Value::String(name) if name == "notify" || name.contains('.') => {}
            Value::Object(tweak) if tweak.contains_key("set_tweak") => {}
            _ => return Err(PushRuleError::InvalidAction),
        }
        effective.push(action.clone());
    }
    Ok(effective)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Db;
    use ruma::{
        push::{NewConditionalPushRule, NewPatternedPushRule, NewSimplePushRule},
        user_id,
    };

    const ALICE: UserNumber = UserNumber(1);

    fn alice() -> &'static UserId {
        user_id!("@alice:localhost")
    }

    fn content_rule(rule_id: &str) -> NewPushRule {
        NewPushRule::Content(NewPatternedPushRule::new(
            rule_id.to_owned(),
            "cake*lie".to_owned(),
            vec![Action::Notify],
        ))
    }

    fn override_rule(rule_id: &str) -> NewPushRule {
        NewPushRule::Override(NewConditionalPushRule::new(rule_id.to_owned(), vec![], vec![]))
    }

    fn actions(json: Value) -> Vec<Action> {
        serde_json::from_value(json).unwrap()
    }

    fn content_order(rules: &Ruleset) -> Vec<&str> {
        rules.content.iter().map(|rule| rule.rule_id.as_str()).collect()
    }

    #[test]
    fn all_kinds_are_there_and_none_that_is_not_in_the_spec() {
        let global = global(&server_default(alice()));
        let kinds: Vec<_> = global.as_object().unwrap().keys().collect();
        assert_eq!(kinds, ["content", "override", "room", "sender", "underride"]);
        assert_eq!(global["override"][0]["rule_id"], ".m.rule.master");
    }

    /// "If neither `after` nor `before` are provided and the rule is created, it should be added
    /// as the most important user defined rule among rules of the same kind."
    #[test]
    fn a_new_rule_is_the_most_important_of_the_users_but_for_the_master_rule() {
        let mut rules = server_default(alice());
        put(&mut rules, override_rule("a"), None, None).unwrap();
        put(&mut rules, override_rule("b"), None, None).unwrap();
        let first: Vec<_> = rules.override_.iter().take(4).map(|rule| &*rule.rule_id).collect();
        assert_eq!(first, [".m.rule.master", "b", "a", ".m.rule.suppress_notices"]);
    }

    #[test]
    fn rules_are_placed_and_moved_before_and_after_others() {
        let mut rules = server_default(alice());
        for rule in ["c", "b", "a"] {
            put(&mut rules, content_rule(rule), None, None).unwrap();
        }
        put(&mut rules, content_rule("d"), Some("b"), None).unwrap();
        assert_eq!(content_order(&rules), ["a", "b", "d", "c"]);
        // Down, up, and to the very end.
        put(&mut rules, content_rule("a"), Some("b"), None).unwrap();
        assert_eq!(content_order(&rules), ["b", "a", "d", "c"]);
        put(&mut rules, content_rule("c"), None, Some("a")).unwrap();
        assert_eq!(content_order(&rules), ["b", "c", "a", "d"]);
        put(&mut rules, content_rule("b"), Some("d"), None).unwrap();
        assert_eq!(content_order(&rules), ["c", "a", "d", "b"]);
        // With both, right above `before`.
        put(&mut rules, content_rule("b"), Some("c"), Some("d")).unwrap();
        assert_eq!(content_order(&rules), ["c", "a", "b", "d"]);
        // Without a place it stays where it is.
        put(&mut rules, content_rule("a"), None, None).unwrap();
        assert_eq!(content_order(&rules), ["c", "a", "b", "d"]);
    }

    #[test]
    fn a_rule_that_moves_stays_below_the_master_rule_and_above_the_servers() {
        let mut rules = server_default(alice());
        put(&mut rules, override_rule("a"), None, None).unwrap();
        put(&mut rules, override_rule("b"), None, None).unwrap();
        put(&mut rules, override_rule("b"), Some("a"), None).unwrap();
        let first: Vec<_> = rules.override_.iter().take(4).map(|rule| &*rule.rule_id).collect();
        assert_eq!(first, [".m.rule.master", "a", "b", ".m.rule.suppress_notices"]);
    }

    #[test]
    fn impossible_places_are_refused() {
        let mut rules = server_default(alice());
        put(&mut rules, content_rule("b"), None, None).unwrap();
        put(&mut rules, content_rule("a"), None, None).unwrap();
        for (after, before) in [
            (Some("none"), None),
            (None, Some("none")),
            (Some("b"), Some("a")),
            (Some(".m.rule.message"), None),
            (Some("c"), None),
            (None, Some("c")),
        ] {
            let refused = put(&mut rules.clone(), content_rule("c"), after, before);
            assert!(matches!(refused, Err(PushRuleError::Placement(_))), "{after:?} {before:?}");
        }
    }

    #[test]
    fn a_rule_that_is_changed_stays_off() {
        let mut rules = server_default(alice());
        put(&mut rules, content_rule("a"), None, None).unwrap();
        put(&mut rules, content_rule("b"), None, None).unwrap();
        assert!(find(&rules, &RuleKind::Content, "a").unwrap().enabled);
        rules.set_enabled(RuleKind::Content, "a", false).unwrap();
        put(&mut rules, content_rule("a"), None, None).unwrap();
        put(&mut rules, content_rule("a"), None, Some("b")).unwrap();
        assert!(!find(&rules, &RuleKind::Content, "a").unwrap().enabled);
    }

    #[test]
    fn unacceptable_rules_are_refused() {
        let mut rules = server_default(alice());
        let mut refused = |rule| put(&mut rules, rule, None, None).unwrap_err();
        assert!(matches!(refused(content_rule(".mine")), PushRuleError::ServerDefault));
        for rule_id in ["", "a/b", "a\\b", &"x".repeat(256)] {
            assert!(matches!(refused(content_rule(rule_id)), PushRuleError::InvalidRuleId));
        }
        let pattern = |pattern: &str| {
            NewPushRule::Content(NewPatternedPushRule::new("a".into(), pattern.into(), vec![]))
        };
        assert!(matches!(refused(pattern("")), PushRuleError::EmptyPattern));
        assert!(matches!(refused(pattern(&"x".repeat(4096))), PushRuleError::TooLarge));
    }

    #[test]
    fn there_may_be_many_rules_but_not_more() {
        let mut rules = server_default(alice());
        for i in 0..MAX_RULES {
            let room = format!("!{i}:localhost").try_into().unwrap();
            let rule = NewPushRule::Room(NewSimplePushRule::new(room, vec![]));
            put(&mut rules, rule, None, None).unwrap();
        }
        let more = put(&mut rules, content_rule("more"), None, None);
        assert!(matches!(more, Err(PushRuleError::TooMany)));
        let room = "!0:localhost".try_into().unwrap();
        let old = NewPushRule::Room(NewSimplePushRule::new(room, vec![Action::Notify]));
        put(&mut rules, old, None, None).unwrap();
    }

    #[test]
    fn actions_are_those_of_the_spec_without_the_historical_ones() {
        let good = json!([
            "notify",
            "org.example.blink",
            { "set_tweak": "sound", "value": "default" },
            { "set_tweak": "highlight" },
            { "set_tweak": "org.example.colour", "value": "red" },
        ]);
        assert_eq!(json!(effective(&actions(good.clone())).unwrap()), good);
        let historical = actions(json!(["dont_notify", "coalesce"]));
        assert_eq!(json!(effective(&historical).unwrap()), json!([]));
        for bad in [json!(["ring"]), json!([{}]), json!([{ "ring": true }])] {
            let refused = effective(&actions(bad));
            assert!(matches!(refused, Err(PushRuleError::InvalidAction)));
        }
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        for value in ["1e999", &deep] {
            let action = format!(r#"[{{"set_tweak":"x","value":{value}}}]"#);
            if let Ok(actions) = serde_json::from_str::<Vec<Action>>(&action) {
                assert!(matches!(effective(&actions), Err(PushRuleError::InvalidAction)));
            }
        }
    }

    #[test]
    fn the_servers_rules_are_changed_but_not_removed() {
        let mut rules = server_default(alice());
        let (kind, notices) = (RuleKind::Override, ".m.rule.suppress_notices");
        let refused = remove(&mut rules, &kind, notices);
        assert!(matches!(refused, Err(PushRuleError::ServerDefault)));
        assert!(matches!(remove(&mut rules, &kind, ".other"), Err(PushRuleError::NotFound)));
        set_actions(&mut rules, &kind, notices, &[Action::Notify]).unwrap();
        assert_eq!(json!(find(&rules, &kind, notices).unwrap().actions), json!(["notify"]));
    }

    /// Rows are from the release that wrote them.
    #[test]
    fn stored_rules_get_the_new_rules_of_the_server_and_keep_what_the_user_changed() {
        let mut old = server_default(alice());
        put(&mut old, override_rule("mine"), None, None).unwrap();
        old.set_enabled(RuleKind::Override, ".m.rule.master", true).unwrap();
        old.set_actions(RuleKind::Underride, ".m.rule.message", vec![]).unwrap();
        let mut stored = content(&old);
        stored["global"]["override"]
            .as_array_mut()
            .unwrap()
            .retain(|rule| rule["rule_id"] != ".m.rule.reaction");
        stored["global"]["underride"].as_array_mut().unwrap().push(json!({
            "rule_id": ".m.rule.of_the_past", "default": true, "enabled": true, "actions": [],
        }));
        let rules = parse(Some(stored.to_string().as_bytes()), alice()).unwrap();
        assert_eq!(content(&rules), content(&old));
    }

    #[test]
    fn other_kinds_are_unknown() {
        let mut rules = server_default(alice());
        let kind = RuleKind::from("overrides");
        let refused = find(&rules, &kind, "a");
        assert!(matches!(refused, Err(PushRuleError::UnknownKind { .. })));
        let refused = set_actions(&mut rules, &kind, "a", &[]);
        assert!(matches!(refused, Err(PushRuleError::UnknownKind { .. })));
    }

    /// What a user made of them stays, and nothing else stands among them.
    #[test]
    fn rules_about_threads_are_read_back_if_they_are_the_users() {
        let mut rules = server_default(alice());
        assert!(rules.postcontent.is_empty());
        rules.postcontent = thread_rules().into();
        rules
            .set_enabled(RuleKind::PostContent, ".io.element.msc4306.rule.subscribed_thread", false)
            .unwrap();
        let mut stored = content(&rules);
        stored["global"]["postcontent"].as_array_mut().unwrap().push(json!({
            "rule_id": "own", "default": false, "enabled": true, "actions": [],
        }));
        let read = parse(Some(stored.to_string().as_bytes()), alice()).unwrap();
        assert_eq!(content(&read), content(&rules));
    }

    #[tokio::test]
    async fn changes_at_the_same_time_are_all_kept() {
        let rules = PushRules::new(AccountData::new(Db::in_memory().await));
        let changing = (0..8).map(|i| {
            let rules = rules.clone();
            async move {
                let rule = content_rule(&format!("rule{i}"));
                rules.put(ALICE, alice(), &rule, None, None).await
            }
        });
        for done in futures::future::join_all(changing).await {
            done.unwrap();
        }
        assert_eq!(rules.get(ALICE, alice()).await.unwrap().content.len(), 8);
    }

    #[tokio::test]
    async fn what_changes_nothing_is_not_written() {
        let db = Db::in_memory().await;
        let rules = PushRules::new(AccountData::new(db.clone()));
        let (kind, master) = (RuleKind::Override, ".m.rule.master");
        rules.set_enabled(ALICE, alice(), &kind, master, true).await.unwrap();
        let before = db.visible_position();
        rules.set_enabled(ALICE, alice(), &kind, master, true).await.unwrap();
        assert_eq!(db.visible_position(), before);
        rules.set_enabled(ALICE, alice(), &kind, master, false).await.unwrap();
        assert!(db.visible_position() > before);
    }
}
