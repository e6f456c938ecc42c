//! Which fields of profiles changed when, for clients that are told of it.
//!
//! Proposal: MSC4262, <https://github.com/matrix-org/matrix-spec-proposals/pull/4262>

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;

use super::Profile;
use crate::{
    e2ee::sharing,
    storage::{
        Batch, Db, Json, Range, Read, StorageError,
        intern::UserNumber,
        schema::{PROFILE_CHANGES, PROFILE_HISTORIES, PROFILES},
    },
};

/// Of how many fields it is known when they were removed; those longest gone are forgotten first.
const MAX_REMOVED: usize = 100;

/// When the fields of one profile changed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ProfileHistory {
    /// The stream position of the last change.
    position: u64,
    /// That of each field that was set or removed.
    fields: BTreeMap<String, u64>,
}

/// What changed of a profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ProfileUpdate {
    /// Fields with their new values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) updated: BTreeMap<String, JsonValue>,
    /// Fields that are no longer there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) removed: Vec<String>,
}

impl ProfileHistory {
    fn note(&mut self, fields: impl IntoIterator<Item = String>, position: u64, now: &Profile) {
        self.position = position;
        self.fields.extend(fields.into_iter().map(|field| (field, position)));
        let mut removed: Vec<(u64, String)> = (self.fields.iter())
            .filter(|(field, _)| now.get(field).is_none())
            .map(|(field, position)| (*position, field.clone()))
            .collect();
        removed.sort_unstable();
        for (_, field) in removed.iter().take(removed.len().saturating_sub(MAX_REMOVED)) {
            self.fields.remove(field);
        }
    }

    /// The fields that changed after a position and that are wanted.
    fn since(&self, since: u64, now: &Profile, wants: impl Fn(&str) -> bool) -> ProfileUpdate {
        let mut update = ProfileUpdate::default();
        for (field, position) in &self.fields {
            if *position <= since || !wants(field) {
                continue;
            }
            match now.get(field) {
                Some(value) => drop(update.updated.insert(field.clone(), value)),
                None => update.removed.push(field.clone()),
            }
        }
        update
    }
}

impl ProfileUpdate {
    /// A whole profile, as far as it is wanted.
    pub(crate) fn whole(profile: Profile, wants: impl Fn(&str) -> bool) -> Self {
        let mut updated = profile.into_fields();
        updated.retain(|field, _| wants(field));
        Self { updated, removed: Vec::new() }
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.updated.is_empty() && self.removed.is_empty()
    }
}

/// Queues what is told of a change of these fields, after which a profile is as `now`. Concerns
/// everybody who shares a room with the user. The batch fails if another change was faster.
pub(super) async fn queue_change(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    fields: impl IntoIterator<Item = String>,
    now: &Profile,
) -> Result<(), StorageError> {
    let old = PROFILE_HISTORIES.get(db, &user).await?;
    let mut concerned = sharing(db, user).await?;
    concerned.insert(user);
    let position = db.position().await?;
    match &old {
        Some(old) => {
            PROFILE_HISTORIES.require_equals(batch, &user, old);
            PROFILE_CHANGES.delete(batch, &old.0.position);
        }
        None => PROFILE_HISTORIES.require_absent(batch, &user),
    }
    let mut history = old.map(|Json(history)| history).unwrap_or_default();
    history.note(fields, position.value(), now);
    PROFILE_CHANGES.put(batch, &history.position, &user);
    PROFILE_HISTORIES.put(batch, &user, &Json(history));
    batch.hold(position);
    batch.wake(concerned);
    Ok(())
}

/// The users of this server whose profiles changed after `since` and up to `until`, and not once
/// more since then.
pub(crate) async fn changed_profiles(
    at: &impl Read,
    since: u64,
    until: u64,
) -> Result<BTreeSet<UserNumber>, StorageError> {
    let range = Range::all().after(&since).before(&until.saturating_add(1));
    let rows = PROFILE_CHANGES.scan(at, &range, usize::MAX).await?;
    Ok(rows.into_iter().map(|(_, user)| user).collect())
}

/// What changed of a user's profile after `since`, as far as it is wanted.
pub(crate) async fn profile_update(
    at: &impl Read,
    user: UserNumber,
    since: u64,
    wants: impl Fn(&str) -> bool,
) -> Result<ProfileUpdate, StorageError> {
    let Some(Json(history)) = PROFILE_HISTORIES.get(at, &user).await? else {
        return Ok(ProfileUpdate::default());
    };
    let profile = PROFILES.get(at, &user).await?.map(|Json(profile)| profile).unwrap_or_default();
    Ok(history.since(since, &profile, wants))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn profile(fields: &[(&str, JsonValue)]) -> Profile {
        Profile::of_fields(fields.iter().map(|(field, value)| ((*field).to_owned(), value.clone())))
    }

    #[test]
    fn what_changed_since_is_told_as_it_is_now() {
        let mut history = ProfileHistory::default();
        let first = profile(&[("m.tz", json!("UTC")), ("displayname", json!("Alice"))]);
        history.note(["m.tz".to_owned()], 5, &first);
        history.note(["displayname".to_owned()], 7, &first);
        let all = history.since(0, &first, |_| true);
        assert_eq!(json!(all), json!({ "updated": { "m.tz": "UTC", "displayname": "Alice" } }));
        assert_eq!(history.since(5, &first, |_| true).updated.len(), 1);
        assert!(history.since(5, &first, |field| field == "m.tz").is_empty());
        let second = profile(&[("displayname", json!("Alice"))]);
        history.note(["m.tz".to_owned()], 9, &second);
        assert_eq!(json!(history.since(7, &second, |_| true)), json!({ "removed": ["m.tz"] }));
    }

    #[test]
    fn fields_that_are_long_gone_are_forgotten() {
        let mut history = ProfileHistory::default();
        let now = profile(&[("m.tz", json!("UTC"))]);
        history.note(["m.tz".to_owned()], 1, &now);
        for number in 0..300 {
            history.note([format!("f{number}")], 2 + number, &now);
        }
        assert_eq!(history.fields.len(), MAX_REMOVED + 1);
        assert_eq!(history.since(300, &now, |_| true).removed, ["f299"]);
        assert_eq!(history.since(0, &now, |_| true).updated.len(), 1);
    }
}
