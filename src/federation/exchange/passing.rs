//! What is sent to a server and soon replaced: who types, has read, is there. The newest of each is
//! kept, in memory, and within bounds.

use std::collections::BTreeMap;

use federation::Backoff;
use ruma::{
    EventId, OwnedRoomId, OwnedServerName, OwnedUserId, UInt,
    api::federation::transactions::edu::{
        Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, ReceiptMap,
        TypingContent,
    },
    events::receipt::{Receipt, ReceiptThread},
    presence::PresenceState,
    serde::Raw,
};

use super::Exchange;
use crate::{
    rooms::Room,
    storage::{StorageError, intern::UserNumber},
};

/// How many of each kind wait for a server; what comes then is not sent to it.
const MAX_WAITING: usize = 1_000;
/// How many users' presence goes into one EDU.
const PRESENCE_IN_ONE: usize = 100;

/// What waits for one server.
#[derive(Debug, Default)]
pub(super) struct Passing {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    /// By the thread, too: empty for an unthreaded receipt.
    receipts: BTreeMap<(OwnedRoomId, OwnedUserId, String), ReceiptData>,
    presence: BTreeMap<OwnedUserId, PresenceUpdate>,
}

impl Passing {
    pub(super) fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty()
    }

    pub(super) fn add_typing(&mut self, room: &OwnedRoomId, user: &OwnedUserId, typing: bool) {
        add(&mut self.typing, (room.clone(), user.clone()), typing);
    }

    pub(super) fn add_receipt(
        &mut self,
        room: &OwnedRoomId,
        user: &OwnedUserId,
        thread: &str,
        receipt: ReceiptData,
    ) {
        add(&mut self.receipts, (room.clone(), user.clone(), thread.to_owned()), receipt);
    }

    pub(super) fn add_presence(&mut self, update: PresenceUpdate) {
        add(&mut self.presence, update.user_id.clone(), update);
    }

    /// What goes into at most `limit` EDUs.
    pub(super) fn take(&mut self, limit: usize) -> Self {
        let mut taken = Self::default();
        let mut room_left = limit;
        while room_left > 0
            && let Some((user, update)) = self.presence.pop_first()
        {
            taken.presence.insert(user, update);
            room_left -= usize::from(taken.presence.len() % PRESENCE_IN_ONE == 1);
        }
        while room_left > 0
            && let Some((key, typing)) = self.typing.pop_first()
        {
            taken.typing.insert(key, typing);
            room_left -= 1;
        }
        // One for each thread: a user has one receipt for a room in an EDU.
        if room_left > 0 {
            taken.receipts = std::mem::take(&mut self.receipts);
            while taken.layers().len() > room_left {
                let Some((key, receipt)) = taken.receipts.pop_last() else { break };
                self.receipts.insert(key, receipt);
            }
        }
        taken
    }

    /// Receipts such that each has one for a user in a room.
    fn layers(&self) -> Vec<ReceiptContent> {
        let mut layers: Vec<ReceiptContent> = Vec::new();
        let mut layer = 0;
        let mut last = None;
        for ((room, user, _), receipt) in &self.receipts {
            layer = if last == Some((room, user)) { layer + 1 } else { 0 };
            last = Some((room, user));
            if layers.len() == layer {
                layers.push(ReceiptContent::new(BTreeMap::new()));
            }
            if let Some(layer) = layers.get_mut(layer) {
                let room = layer.receipts.entry(room.clone());
                let room = room.or_insert_with(|| ReceiptMap::new(BTreeMap::new()));
                room.read.insert(user.clone(), receipt.clone());
            }
        }
        layers
    }

    /// As it is sent.
    pub(super) fn edus(&self) -> Vec<Raw<Edu>> {
        let typing = self.typing.iter().map(|((room, user), typing)| {
            Edu::Typing(TypingContent::new(room.clone(), user.clone(), *typing))
        });
        let updates: Vec<PresenceUpdate> = self.presence.values().cloned().collect();
        let presence = updates
            .chunks(PRESENCE_IN_ONE)
            .map(|updates| Edu::Presence(PresenceContent::new(updates.to_vec())));
        let receipts = self.layers().into_iter().map(Edu::Receipt);
        let all = typing.chain(presence).chain(receipts);
        all.filter_map(|edu| Raw::new(&edu).ok()).collect()
    }
}

impl Exchange {
    /// Tells the other servers in a room how far a user has read: `thread` is empty for a receipt
    /// without one.
    pub(crate) fn send_receipt(
        &self,
        room: &Room,
        user: &OwnedUserId,
        event: &EventId,
        thread: &str,
    ) {
        let mut receipt = Receipt::new(self.clock.now());
        receipt.thread = match thread {
            "" => ReceiptThread::Unthreaded,
            "main" => ReceiptThread::Main,
            thread => match EventId::parse(thread) {
                Ok(thread) => ReceiptThread::Thread(thread),
                Err(_) => return,
            },
        };
        let data = ReceiptData::new(receipt, vec![event.to_owned()]);
        self.pass_on(self.rooms.other_servers(room), |passing, _| {
            passing.add_receipt(&room.id, user, thread, data.clone());
        });
    }

    /// Tells the other servers in a room that a user types, or does so no longer.
    pub(crate) fn send_typing(&self, room: &Room, user: &OwnedUserId, typing: bool) {
        self.pass_on(self.rooms.other_servers(room), |passing, is_there| {
            // Whoever does not answer has no use for it when it does.
            if is_there {
                passing.add_typing(&room.id, user, typing);
            }
        });
    }

    /// Tells other servers what these users of this one are doing: those with somebody in the same
    /// rooms.
    pub(crate) fn tell_presence(&self, users: Vec<UserNumber>) {
        if !self.federation.is_enabled() {
            return;
        }
        let exchange = self.clone();
        tokio::spawn(async move {
            for user in users {
                if let Err(error) = exchange.tell_presence_of(user).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "other servers are not told of somebody's presence");
                }
            }
        });
    }

    async fn tell_presence_of(&self, user: UserNumber) -> Result<(), StorageError> {
        let servers = self.presence.servers(user, self.rooms.server_name()).await?;
        let Some(update) = self.update_of(user).await? else { return Ok(()) };
        self.pass_on(servers.into_iter().collect(), |passing, _| {
            passing.add_presence(update.clone());
        });
        Ok(())
    }

    /// What others are told of a user; none if nothing is known.
    async fn update_of(&self, user: UserNumber) -> Result<Option<PresenceUpdate>, StorageError> {
        let Some((status, ago)) = self.presence.status(user) else { return Ok(None) };
        let user_id = self.db.users().name(&self.db, user).await?;
        let ago = UInt::new_saturating(ago.unwrap_or_default());
        let mut update = PresenceUpdate::new(user_id, status.level.state(), ago);
        update.currently_active = status.currently_active;
        update.status_msg = status.message;
        Ok(Some(update))
    }

    /// Tells servers in a room of these users of this one who are in it, as far as they are there.
    pub(super) async fn tell_who_is_there(
        &self,
        room: &Room,
        users: &[UserNumber],
        servers: Vec<OwnedServerName>,
    ) -> Result<(), StorageError> {
        if !self.presence.is_told_in(room.number).await? {
            return Ok(());
        }
        let mut updates = Vec::new();
        for user in users.iter().take(MAX_WAITING) {
            updates.extend(self.update_of(*user).await?);
        }
        updates.retain(|update| update.presence != PresenceState::Offline);
        if !updates.is_empty() {
            self.pass_on(servers, |passing, _| {
                for update in &updates {
                    passing.add_presence(update.clone());
                }
            });
        }
        Ok(())
    }

    /// Has something sent that may be lost: it is soon replaced. `add` is told whether the server
    /// took the last transaction.
    fn pass_on(&self, servers: Vec<OwnedServerName>, mut add: impl FnMut(&mut Passing, bool)) {
        if !self.federation.is_enabled() || servers.is_empty() {
            return;
        }
        let mut known = self.shared.senders.known.lock();
        for server in servers {
            let sender = known.entry(server).or_default();
            add(&mut sender.passing, sender.state.backoff() == Backoff::default());
            sender.state.queued();
        }
        self.shared.senders.changed.notify_one();
    }
}

fn add<K: Ord, V>(waiting: &mut BTreeMap<K, V>, key: K, value: V) {
    if waiting.len() < MAX_WAITING || waiting.contains_key(&key) {
        waiting.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use ruma::{MilliSecondsSinceUnixEpoch, owned_event_id, owned_room_id, owned_user_id, uint};
    use serde_json::{Value, json};

    use super::*;

    fn json(passing: &Passing) -> Vec<Value> {
        let value = |edu: &Raw<Edu>| serde_json::from_str(edu.json().get()).unwrap();
        passing.edus().iter().map(value).collect()
    }

    fn receipt(event: &str) -> ReceiptData {
        let event = match event {
            "$one" => owned_event_id!("$one"),
            _ => owned_event_id!("$two"),
        };
        ReceiptData::new(Receipt::new(MilliSecondsSinceUnixEpoch(uint!(1))), vec![event])
    }

    #[test]
    fn the_newest_of_each_is_sent() {
        let (room, user) = (owned_room_id!("!r:a.example"), owned_user_id!("@u:a.example"));
        let mut passing = Passing::default();
        passing.add_typing(&room, &user, true);
        passing.add_typing(&room, &user, false);
        passing.add_receipt(&room, &user, "", receipt("$one"));
        passing.add_receipt(&room, &user, "", receipt("$two"));
        let update = |state| PresenceUpdate::new(owned_user_id!("@u:a.example"), state, uint!(0));
        passing.add_presence(update(PresenceState::Online));
        passing.add_presence(update(PresenceState::Offline));
        let sent = json(&passing.take(10));
        assert!(passing.is_empty());
        assert_eq!(sent.len(), 3, "{sent:?}");
        assert_eq!(sent[0]["content"]["typing"], false);
        assert_eq!(sent[1]["content"]["push"][0]["presence"], "offline");
        let read = &sent[2]["content"]["!r:a.example"]["m.read"]["@u:a.example"];
        assert_eq!(read["event_ids"], json!(["$two"]));
    }

    #[test]
    fn receipts_of_several_threads_do_not_hide_each_other() {
        let (room, user) = (owned_room_id!("!r:a.example"), owned_user_id!("@u:a.example"));
        let mut passing = Passing::default();
        for thread in ["", "main", "$thread"] {
            passing.add_receipt(&room, &user, thread, receipt("$one"));
        }
        assert_eq!(json(&passing.take(2)).len(), 2);
        assert_eq!(json(&passing.take(10)).len(), 1, "the third comes with the next transaction");
    }

    #[test]
    fn what_waits_is_bounded() {
        let room = owned_room_id!("!r:a.example");
        let mut passing = Passing::default();
        for number in 0..2_000 {
            let user = OwnedUserId::try_from(format!("@u{number}:a.example")).unwrap();
            passing.add_typing(&room, &user, true);
        }
        assert_eq!(passing.typing.len(), MAX_WAITING);
    }
}
