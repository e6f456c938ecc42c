//! Asking other servers for the keys of their users, on behalf of a user of this one.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption>

use std::collections::BTreeMap;

use futures::{StreamExt as _, future::BoxFuture, stream};
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::{device::get_devices, keys::get_keys},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    E2eeError, Keys,
    claim::{Claimed, ClaimedKeys, WantedKeys},
    query::{Asking, QueriedKeys},
    signed,
    tracked::Fetched,
};
use crate::storage::{Json, intern::UserNumber, schema::TRACKED_LISTS};

/// How many servers are asked at the same time.
const SERVERS_AT_ONCE: usize = 32;
/// How many lists of one server are fetched to be kept while somebody waits; if there are more,
/// they are asked for at once, and fetched to be kept later.
const FETCHED_AT_ONCE: usize = 8;

/// Questions to other servers. No answer, whatever the reason, is `None`; it comes in bounded time.
pub(crate) trait RemoteKeys: Send + Sync {
    /// All devices of a user, on the user's server.
    fn devices<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Option<get_devices::v1::Response>>;

    /// The keys of users of a server.
    fn query<'a>(
        &'a self,
        server: &'a ServerName,
        users: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> BoxFuture<'a, Option<get_keys::v1::Response>>;

    /// One-time keys of users of a server.
    fn claim<'a>(
        &'a self,
        server: &'a ServerName,
        users: WantedKeys,
    ) -> BoxFuture<'a, Option<ClaimedKeys>>;
}

/// A user whose keys are not known well enough.
struct Unknown<'a> {
    user_id: &'a OwnedUserId,
    devices: &'a [OwnedDeviceId],
    /// None for somebody nobody here ever had to do with.
    user: Option<UserNumber>,
    /// What is known of them may be outdated.
    stale: bool,
}

impl Keys {
    /// Adds the keys of other servers' users: from what is kept, as far as that is complete.
    pub(super) async fn query_elsewhere(
        &self,
        asking: Asking<'_>,
        wanted: BTreeMap<&OwnedUserId, &[OwnedDeviceId]>,
        found: &mut QueriedKeys,
    ) -> Result<(), E2eeError> {
        self.settle_departures().await?;
        let db = self.db();
        let mut unknown: BTreeMap<OwnedServerName, Vec<Unknown<'_>>> = BTreeMap::new();
        for (user_id, devices) in wanted {
            let user = db.users().find(db, &**user_id).await?;
            let list = match user {
                Some(user) => TRACKED_LISTS.get(db, &user).await?.map(|Json(list)| list),
                None => None,
            };
            match (user, list) {
                (Some(user), Some(list)) if !list.is_stale() => {
                    self.query_tracked(asking, (user, user_id), devices, found).await?;
                }
                (user, list) => {
                    let server = user_id.server_name().to_owned();
                    let stale = list.is_some();
                    let one = Unknown { user_id, devices, user, stale };
                    unknown.entry(server).or_default().push(one);
                }
            }
        }
        let asked: Vec<BoxFuture<'_, Result<Answer<'_>, E2eeError>>> = unknown
            .into_iter()
            .map(|(server, users)| Box::pin(self.ask_server(server, users)) as _)
            .collect();
        let mut answers = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
        while let Some(answer) = answers.next().await {
            let Answer { server, kept, given, is_whole } = answer?;
            for (user, user_id, devices) in kept {
                self.query_tracked(asking, (user, user_id), devices, found).await?;
            }
            if let Some((given, users)) = given {
                self.add_given(asking, given, &users, found).await?;
            }
            if !is_whole {
                found.unreachable.push(server);
            }
        }
        Ok(())
    }

    /// Asks one server for what is not known of its users.
    async fn ask_server<'a>(
        &self,
        server: OwnedServerName,
        users: Vec<Unknown<'a>>,
    ) -> Result<Answer<'a>, E2eeError> {
        let mut answer = Answer { server, kept: Vec::new(), given: None, is_whole: true };
        let Some(remote) = self.shared.remote.as_deref() else {
            answer.is_whole = false;
            return Ok(answer);
        };
        let mut rest = Vec::new();
        for one in users {
            // Only of whom this server hears from then on is kept.
            let keepable = match one.user {
                Some(user) => self.is_shared(user).await?.then_some(user),
                None => None,
            };
            match keepable {
                Some(user) if rest.len() + answer.kept.len() >= FETCHED_AT_ONCE => {
                    self.want_list(one.user_id, user).await?;
                    rest.push(one);
                }
                Some(user) => match self.fetch_list(one.user_id, user).await? {
                    Fetched::Kept => answer.kept.push((user, one.user_id, one.devices)),
                    Fetched::Unreachable if one.stale => {
                        // Better than nothing, and the client knows.
                        answer.kept.push((user, one.user_id, one.devices));
                        answer.is_whole = false;
                    }
                    _ => rest.push(one),
                },
                None => rest.push(one),
            }
        }
        if rest.is_empty() {
            return Ok(answer);
        }
        let question = rest.iter().map(|one| (one.user_id.clone(), one.devices.to_vec())).collect();
        match remote.query(&answer.server, question).await {
            Some(given) => answer.given = Some((given, rest)),
            None => answer.is_whole = false,
        }
        Ok(answer)
    }

    /// Adds what a server says of those of its users it was asked for, as far as it makes sense.
    async fn add_given(
        &self,
        asking: Asking<'_>,
        mut given: get_keys::v1::Response,
        users: &[Unknown<'_>],
        found: &mut QueriedKeys,
    ) -> Result<(), E2eeError> {
        for one in users {
            let user_id = one.user_id;
            let mut devices = BTreeMap::new();
            for (id, keys) in given.device_keys.remove(user_id).unwrap_or_default() {
                let is_wanted = one.devices.is_empty() || one.devices.contains(&id);
                let keys = keys.into_json();
                if is_wanted && is_of_device(&keys, user_id, &id) {
                    devices.insert(id, keys);
                }
            }
            found.device_keys.insert(user_id.clone(), devices);
            if let Some(key) = given.master_keys.remove(user_id).map(Raw::into_json)
                && is_of_user(&key, user_id)
            {
                let key = match one.user {
                    Some(user) => self.with_signatures(asking, (user, user_id), &key).await?,
                    None => Some(key),
                };
                found.master_keys.extend(key.map(|key| (user_id.clone(), key)));
            }
            if let Some(key) = given.self_signing_keys.remove(user_id).map(Raw::into_json)
                && is_of_user(&key, user_id)
            {
                found.self_signing_keys.insert(user_id.clone(), key);
            }
        }
        Ok(())
    }

    /// Claims keys of other servers' users.
    pub(super) async fn claim_elsewhere(&self, wanted: &WantedKeys, claimed: &mut Claimed) {
        let mut by_server: BTreeMap<OwnedServerName, WantedKeys> = BTreeMap::new();
        for (user_id, devices) in wanted.iter().filter(|(user_id, _)| !self.is_local(user_id)) {
            let server = by_server.entry(user_id.server_name().to_owned()).or_default();
            server.insert(user_id.clone(), devices.clone());
        }
        let remote = self.shared.remote.as_deref();
        let asked: Vec<BoxFuture<'_, (OwnedServerName, Option<ClaimedKeys>)>> = by_server
            .into_iter()
            .map(|(server, users)| {
                Box::pin(async move {
                    let answer = match remote {
                        Some(remote) => remote.claim(&server, users).await,
                        None => None,
                    };
                    (server, answer)
                }) as _
            })
            .collect();
        let mut answers = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
        while let Some((server, answer)) = answers.next().await {
            let Some(answer) = answer else {
                claimed.unreachable.push(server);
                continue;
            };
            for (user_id, mut devices) in answer {
                let Some(asked) = wanted.get(&user_id) else { continue };
                if user_id.server_name() != server {
                    continue;
                }
                devices.retain(|device, _| asked.contains_key(device));
                claimed.keys.insert(user_id, devices);
            }
        }
    }
}

/// What one server said.
struct Answer<'a> {
    server: OwnedServerName,
    /// Whose lists are kept now.
    kept: Vec<(UserNumber, &'a OwnedUserId, &'a [OwnedDeviceId])>,
    /// What it said of others, without its being kept.
    given: Option<(get_keys::v1::Response, Vec<Unknown<'a>>)>,
    /// Whether it was all there to know.
    is_whole: bool,
}

/// Whether these are keys of that device, by what they say.
pub(super) fn is_of_device(keys: &RawValue, user_id: &UserId, device: &ruma::DeviceId) -> bool {
    signed::object(keys).is_ok_and(|keys| {
        signed::text(&keys, "user_id") == Some(user_id.as_str())
            && signed::text(&keys, "device_id") == Some(device.as_str())
    })
}

/// Whether this is a key of that user, by what it says.
pub(super) fn is_of_user(key: &RawValue, user_id: &UserId) -> bool {
    signed::object(key).is_ok_and(|key| signed::text(&key, "user_id") == Some(user_id.as_str()))
}
