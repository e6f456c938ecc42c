//! Keys of other servers' users.

use std::{collections::BTreeMap, time::Duration};

use federation::Limits;
use futures::future::BoxFuture;
use ruma::{
    OwnedDeviceId, OwnedUserId, ServerName, UserId,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
};

use super::{Federation, PeerError};
use crate::e2ee::{ClaimedKeys, RemoteKeys, WantedKeys};

/// What asking for one user's devices may take.
const DEVICES: Limits = Limits { timeout: Duration::from_secs(10), max_bytes: 8 << 20 };
/// What asking for many users' keys may take.
const KEYS: Limits = Limits { timeout: Duration::from_secs(10), max_bytes: 32 << 20 };

/// Asks for keys by signed requests. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct FederatedKeys {
    federation: Federation,
}

impl FederatedKeys {
    /// Asks other servers through `federation`.
    pub(crate) fn new(federation: Federation) -> Self {
        Self { federation }
    }
}

impl RemoteKeys for FederatedKeys {
    fn devices<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Option<get_devices::v1::Response>> {
        Box::pin(async move {
            let request = get_devices::v1::Request::new(user.to_owned());
            let answer = self.federation.ask(user.server_name(), request, DEVICES).await;
            had(answer, user.server_name()).filter(|answer| answer.user_id == user)
        })
    }

    fn query<'a>(
        &'a self,
        server: &'a ServerName,
        users: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> BoxFuture<'a, Option<get_keys::v1::Response>> {
        Box::pin(async move {
            let request = get_keys::v1::Request::new(users);
            had(self.federation.ask(server, request, KEYS).await, server)
        })
    }

    fn claim<'a>(
        &'a self,
        server: &'a ServerName,
        users: WantedKeys,
    ) -> BoxFuture<'a, Option<ClaimedKeys>> {
        Box::pin(async move {
            let users = users.into_iter().map(|(user, devices)| {
                let devices = devices.into_iter();
                let devices = devices.map(|(device, algorithm)| (device, algorithm.into()));
                (user, devices.collect())
            });
            let request = claim_keys::v1::Request::new(users.collect());
            let answer = had(self.federation.ask(server, request, KEYS).await, server)?;
            let keys = answer.one_time_keys.into_iter().map(|(user, devices)| {
                let devices = devices.into_iter().map(|(device, keys)| {
                    let keys = keys.into_iter().map(|(id, key)| (id.to_string(), key.into_json()));
                    (device, keys.collect())
                });
                (user, devices.collect())
            });
            Some(keys.collect())
        })
    }
}

fn had<T>(answer: Result<T, PeerError>, server: &ServerName) -> Option<T> {
    let note = |error: &PeerError| {
        let error = error as &dyn std::error::Error;
        tracing::debug!(error, %server, "no keys of its users");
    };
    answer.inspect_err(note).ok()
}
