//! Mail about what a user has not read: one about all rooms, when it is the time of one of them.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use ruma::UserId;
use sha2::{Digest as _, Sha256};

use super::{
    Delivery,
    digest::{Digest, Oldest, Waiting},
    gateway::{Answer, with_cause},
    lane::Item,
    notice::Notice,
    work::Told,
};
use crate::{
    push::{
        mails::{Letter, Mails, Message, RoomPart},
        pushers::{Pusher, PusherKey},
    },
    rooms::{RoomError, record::Membership},
    storage::{
        intern::{RoomNumber, UserNumber},
        schema::USER_ROOMS,
    },
};

/// How many rooms a mail shows.
const MAX_ROOMS: usize = 20;
/// How many events of a room it shows.
const MAX_MESSAGES: usize = 5;
/// How many events are found at a time.
const STEP: usize = 16;

/// What is unread in a room.
struct Unread {
    room: RoomNumber,
    oldest: Oldest,
    notices: Vec<Notice>,
}

impl Delivery {
    /// Sends a mail, if after a look at what was read in the meantime it is still time for one.
    pub(super) async fn mail(
        &self,
        key: &PusherKey,
        pusher: &Pusher,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        let (waiting, upto) = {
            let state = self.shared.state.lock();
            let Some(lane) = state.lanes.get(key) else { return Ok(()) };
            let rooms = lane.digest.as_ref().map(Digest::rooms).unwrap_or_default();
            (rooms, state.evaluated)
        };
        let (Some(mails), Some(address)) = (&self.mails, self.pushers.address(key).await?) else {
            tracing::info!("a user gave up an address that mail was to go to");
            return Ok(self.pushers.remove(key).await?);
        };
        let (mut found, mut looked_at) = (Vec::new(), Vec::new());
        for (room, waiting) in waiting {
            let limit = if found.len() < MAX_ROOMS { MAX_MESSAGES } else { 1 };
            let unread = self.unread_in(key.0, user_id, room, waiting, upto, limit).await?;
            looked_at.push((room, unread.as_ref().map(|unread| unread.oldest)));
            found.extend(unread);
        }
        let still = {
            let mut state = self.shared.state.lock();
            let now = self.clock.now_ms();
            state.lanes.get_mut(key).is_some_and(|lane| lane.looked_at(&looked_at, upto, now))
        };
        if !still {
            return Ok(());
        }
        let rooms: Vec<_> = found.iter().map(|unread| (unread.room, unread.oldest)).collect();
        let first = rooms.iter().map(|(_, oldest)| oldest.position).min();
        let letter = self.letter(key.0, pusher, user_id, found).await?;
        let token = self.pushers.unsubscribe_token(key).await?;
        // The same for a mail that is sent again since nobody knows what became of it.
        let mut id = Sha256::new();
        id.update(key.0.0.to_be_bytes());
        id.update(first.unwrap_or(upto).to_be_bytes());
        id.update(key.2.as_bytes());
        let id = BASE64.encode(id.finalize());
        let answer = send(mails, &letter, &address, &token, id).await;
        self.note(key, answer, Told::Mail { rooms: &rooms, upto }).await
    }

    /// The first unread events of a room, up to a stream position.
    async fn unread_in(
        &self,
        user: UserNumber,
        user_id: &UserId,
        number: RoomNumber,
        waiting: Waiting,
        upto: u64,
        limit: usize,
    ) -> Result<Option<Unread>, RoomError> {
        let at = self.db.snapshot();
        let row = USER_ROOMS.get(&at, &(user, number)).await?;
        let mut notices = Vec::new();
        let mut oldest = None;
        let mut take = async |item: Item| -> Result<bool, RoomError> {
            if let Some(notice) = self.notice(user, user_id, item).await? {
                oldest.get_or_insert(Oldest { position: item.position, sent_ms: item.sent_ms });
                notices.push(notice);
            }
            Ok(notices.len() < limit)
        };
        match row {
            Some(row) if row.membership == Membership::Invite => {
                let sent_ms = waiting.since_ms;
                take(Item { position: row.position, room: number, sent_ms }).await?;
            }
            Some(row) if row.membership == Membership::Join => {
                let room = self.rooms.numbered(number).await?;
                let mut after = waiting.first.saturating_sub(1);
                'found: loop {
                    let range = after..upto;
                    let (items, more) =
                        self.find_in(&at, &room, (user, user_id), range, STEP).await?;
                    for item in &items {
                        if !take(*item).await? {
                            break 'found;
                        }
                    }
                    let Some(last) = items.last().filter(|_| more) else { break };
                    after = last.position;
                }
            }
            _ => {}
        }
        Ok(oldest.map(|oldest| Unread { room: number, oldest, notices }))
    }

    /// What a mail says.
    async fn letter(
        &self,
        user: UserNumber,
        pusher: &Pusher,
        user_id: &UserId,
        found: Vec<Unread>,
    ) -> Result<Letter, RoomError> {
        let hidden = found.len().saturating_sub(MAX_ROOMS);
        let mut rooms = Vec::new();
        for unread in found.into_iter().take(MAX_ROOMS) {
            let Some(first) = unread.notices.first() else { continue };
            let count = self.badges.in_room(user, user_id, unread.room).await?;
            rooms.push(RoomPart {
                id: first.room_id.clone(),
                name: first.room_name.clone(),
                unread: count.unwrap_or(1),
                is_invite: count.is_none(),
                messages: unread
                    .notices
                    .iter()
                    .map(|notice| Message::of(&notice.event, notice.sender_display_name.as_deref()))
                    .collect(),
            });
        }
        let unread = self.badges.of(user, user_id).await?;
        let (user_id, lang) = (user_id.to_owned(), &pusher.lang);
        Ok(Letter::new(user_id, pusher.brand(), lang, unread, rooms, hidden))
    }
}

async fn send(mails: &Mails, letter: &Letter, to: &str, token: &str, id: String) -> Answer {
    match mails.send(letter, to, token, id).await {
        Ok(()) => Answer::Taken,
        Err(error) => {
            let why = with_cause(&error);
            if error.is_permanent() { Answer::Refused(why) } else { Answer::Failed(why) }
        }
    }
}
