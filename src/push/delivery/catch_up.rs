//! What a pusher is still to tell, found in the timelines: after a restart, or when it fell behind.

use ruma::UserId;

use super::{Delivery, lane::Item};
use crate::{
    push::look::STEP,
    rooms::{Room, RoomError, record::Membership},
    storage::{Snapshot, intern::UserNumber},
};

/// How many events are found at a time.
const MAX_FOUND: usize = 64;

impl Delivery {
    /// The first events after one stream position and up to another that notify a user, in their
    /// order, and up to where these are all there are.
    pub(super) async fn find(
        &self,
        user: UserNumber,
        user_id: &UserId,
        after: u64,
        upto: u64,
    ) -> Result<(Vec<Item>, u64), RoomError> {
        let at = self.db.snapshot();
        let mut found = Vec::new();
        let mut reached = upto;
        for (number, row) in self.rooms.user_rooms(&at, user).await? {
            if row.membership == Membership::Invite && row.position > after && row.position <= upto
            {
                let sent_ms = self.clock.now_ms();
                found.push(Item { position: row.position, room: number, sent_ms });
            }
            if row.membership != Membership::Join
                || self.rooms.last_position(number).await? <= after
            {
                continue;
            }
            let room = self.rooms.numbered(number).await?;
            let (items, more) =
                self.find_in(&at, &room, (user, user_id), after..reached, MAX_FOUND).await?;
            found.extend(&items);
            // Of the other rooms no more than this is of use.
            if let Some(last) = items.last().filter(|_| more) {
                reached = reached.min(last.position);
            }
        }
        found.sort_by_key(|item| item.position);
        found.retain(|item| item.position <= reached);
        if found.len() > MAX_FOUND {
            found.truncate(MAX_FOUND);
            reached = found.last().map_or(reached, |last| last.position);
        }
        Ok((found, reached))
    }

    /// The same for one room that the user is joined to: at most `limit` events after the start of
    /// a range of stream positions and up to its end, and whether there may be more of them.
    pub(super) async fn find_in(
        &self,
        at: &Snapshot,
        room: &Room,
        (user, user_id): (UserNumber, &UserId),
        range: std::ops::Range<u64>,
        limit: usize,
    ) -> Result<(Vec<Item>, bool), RoomError> {
        let now = self.clock.now_ms();
        let mut found = Vec::new();
        let (mut from, end) = (range.start, range.end);
        loop {
            let events = self.unread.look_on(at, room, from, end).await?;
            for (_, event) in &events {
                if found.len() == limit {
                    return Ok((found, true));
                }
                let notified = self.unread.notified_among(at, room, event, &[user]).await?;
                if !notified.is_empty() && event.sender != user_id {
                    let sent_ms = event.sent_ms.min(now);
                    found.push(Item { position: event.position, room: room.number, sent_ms });
                }
            }
            let Some((last, _)) = events.last().filter(|_| events.len() == STEP) else { break };
            from = *last;
        }
        let more = found.len() == limit;
        Ok((found, more))
    }
}
