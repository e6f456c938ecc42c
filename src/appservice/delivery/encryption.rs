//! What a bridge that encrypts must know of keys: whose changed, and how many its devices have left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Serialize;

use super::{Deliveries, DeliveryError};
use crate::{
    appservice::registry::{Registry, Service},
    e2ee::joined_rooms,
    storage::{
        Range,
        intern::UserNumber,
        schema::{DEVICE_KEYS, DEVICE_LIST_CHANGES},
    },
};

/// How many devices of one user are told of.
const MAX_DEVICES: usize = 100;

type ByDevice<T> = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, T>>;

/// Users whose devices changed, and what is left of the keys of a service's own devices.
#[derive(Debug, Default, Serialize)]
pub(super) struct KeyNews {
    #[serde(rename = "org.matrix.msc3202.device_lists", skip_serializing_if = "Lists::is_empty")]
    lists: Lists,
    #[serde(
        rename = "org.matrix.msc3202.device_one_time_keys_count",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    one_time: ByDevice<BTreeMap<String, u64>>,
    /// The same by an older name, which some bridges read.
    #[serde(
        rename = "org.matrix.msc3202.device_one_time_key_counts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    one_time_misspelt: ByDevice<BTreeMap<String, u64>>,
    #[serde(
        rename = "org.matrix.msc3202.device_unused_fallback_key_types",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    fallback: ByDevice<Vec<String>>,
}

#[derive(Debug, Default, Serialize)]
struct Lists {
    changed: BTreeSet<OwnedUserId>,
    left: BTreeSet<OwnedUserId>,
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

impl KeyNews {
    /// Whether it is no reason for a transaction.
    pub(super) fn names_nobody(&self) -> bool {
        self.lists.is_empty()
    }
}

impl Deliveries {
    /// Whose devices changed after `since` and up to `until` and concern the service; who of
    /// `members` came into its rooms or left them; the key counts of its bot and of `users`.
    pub(super) async fn key_news(
        &self,
        registry: &Arc<Registry>,
        service: &Service,
        (since, until): (u64, u64),
        members: &[(OwnedUserId, bool)],
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<KeyNews, DeliveryError> {
        let mut news = KeyNews::default();
        let range = Range::all().after(&since).before(&until.saturating_add(1));
        for (_, user) in DEVICE_LIST_CHANGES.scan(self.db(), &range, usize::MAX).await? {
            if self.shares_a_room(registry, service, user).await? {
                news.lists.changed.insert(self.db().users().name(self.db(), user).await?);
            }
        }
        for (user, joined) in members {
            if *joined {
                news.lists.changed.insert(user.clone());
            } else if let Some(number) = self.db().users().find(self.db(), &**user).await?
                && !self.shares_a_room(registry, service, number).await?
            {
                news.lists.left.insert(user.clone());
            }
        }
        for user in users.iter().chain([&service.registration.bot]) {
            let Some(number) = self.db().users().find(self.db(), &**user).await? else { continue };
            let devices = Range::prefix(&(number,));
            for ((_, device), _) in DEVICE_KEYS.scan(self.db(), &devices, MAX_DEVICES).await? {
                let counts = self.keys.counts(number, &device).await?;
                let one_time = news.one_time.entry(user.clone()).or_default();
                one_time.insert(device.clone(), counts.one_time.clone());
                let fallback = news.fallback.entry(user.clone()).or_default();
                fallback.insert(device, counts.unused_fallback.clone());
            }
        }
        news.one_time_misspelt = news.one_time.clone();
        Ok(news)
    }

    /// Whether a user is in a room that concerns the service.
    pub(super) async fn shares_a_room(
        &self,
        registry: &Arc<Registry>,
        service: &Service,
        user: UserNumber,
    ) -> Result<bool, DeliveryError> {
        for room in joined_rooms(self.db(), user).await? {
            if let Some(room) = self.rooms.room_if_here(room).await?
                && registry.of_room(self.db(), &room).await?.contains(service)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
