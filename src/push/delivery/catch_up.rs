//! What a pusher is still to tell, found in the timelines: after a restart, or when it fell behind.

use ruma::UserId;

use super::{Delivery, lane::Item};
use crate::{
    push::look::STEP,
    rooms::{Boundary, RoomError, record::Membership},
    storage::intern::UserNumber,
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
                found.push(Item { position: row.position, room: number });
            }
            if row.membership != Membership::Join
                || self.rooms.last_position(number).await? <= after
            {
                continue;
            }
            let room = self.rooms.numbered(number).await?;
            let (mut from, mut in_room) = (Boundary::at_position(after), 0);
            loop {
                let end = Boundary::at_position(reached);
                let events = self.unread.look_on(&at, &room, from, end).await?;
                for (_, event) in &events {
                    if in_room == MAX_FOUND {
                        break;
                    }
                    let notified = self.unread.notified_among(&at, &room, event, &[user]).await?;
                    if !notified.is_empty() && event.sender != user_id {
                        found.push(Item { position: event.position, room: number });
                        in_room += 1;
                    }
                }
                let Some((last, _)) = events.last().filter(|_| events.len() == STEP) else { break };
                from = Boundary(*last);
                if in_room == MAX_FOUND {
                    break;
                }
            }
            // Of the other rooms no more than this is of use.
            if in_room == MAX_FOUND
                && let Some(last) = found.last()
            {
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
}
