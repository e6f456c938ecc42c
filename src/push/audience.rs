//! Whose rules notify them of an event.

use std::sync::Arc;

use ruma::UserId;
use serde::Deserialize;

use super::{
    Unread,
    compiled::{CompiledRules, Outcome, Recipient},
    context::RoomContext,
    event::PushEvent,
};
use crate::{
    rooms::{
        Room, RoomError,
        record::{EventRecord, UserRoom},
        subscriptions::follows,
    },
    storage::{
        Range, Read,
        intern::{RoomNumber, UserNumber},
        schema::{ACCOUNT_DATA, CURRENT_STATES},
    },
    users::{GLOBAL, Ignored},
};

/// A user's rules, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Of all rules just before these were found to be the user's: see
    /// [`super::PushRules::generation`].
    generation: Option<u64>,
    /// The stream position of their last change.
    position: u64,
    rules: Arc<CompiledRules>,
}

impl Unread {
    /// Those of `users` whose rules as they are now notify them of an event, whatever they have read
    /// and whomever they ignore.
    ///
    /// The event is taken apart already, and so are the rules: nothing is read for a user unless
    /// their rules changed, or ask for their name.
    pub(super) async fn notified_among(
        &self,
        at: &impl Read,
        room: &Room,
        event: &PushEvent,
        users: &[UserNumber],
    ) -> Result<Vec<UserNumber>, RoomError> {
        let context = self.context(at, room).await?;
        let ids = self.db.users().names(&self.db, users).await?;
        let mut notified = Vec::new();
        for (user, user_id) in users.iter().zip(&ids) {
            let rules = self.current_rules(*user, user_id).await?;
            let mut name = None;
            if rules.needs_display_name() {
                name = self.display_name(at, room, user_id).await?;
            }
            let subscribed = match &event.thread {
                Some(thread) if rules.need_subscriptions() => {
                    follows(at, *user, room.number, thread).await?
                }
                _ => false,
            };
            let recipient = Recipient { user_id, display_name: name.as_deref(), subscribed };
            if rules.evaluate(event, &context, recipient).is_some_and(|outcome| outcome.notify) {
                notified.push(*user);
            }
        }
        Ok(notified)
    }

    /// The event that invites a user, unless they do not want to hear of whoever sent it.
    pub(super) async fn invitation(
        &self,
        at: &impl Read,
        user: UserNumber,
        room: RoomNumber,
        row: &UserRoom,
    ) -> Result<Option<EventRecord>, RoomError> {
        let Some(event) = self.rooms.invite_event(at, user, room, row).await? else {
            return Ok(None);
        };
        let unwanted = Ignored::load(at, user).await?.contains(&event.sender_id)
            || self.rooms.hides_invite(at, user, room, row).await?;
        Ok((!unwanted).then_some(event))
    }

    /// What a user's rules do with an invitation, if that is to notify.
    pub(super) async fn invite_outcome(
        &self,
        at: &impl Read,
        user: UserNumber,
        user_id: &UserId,
        event: &PushEvent,
    ) -> Result<Option<Outcome>, RoomError> {
        let (_, rules) = self.rules_of(at, user, user_id).await?;
        let recipient = Recipient { user_id, display_name: None, subscribed: false };
        let outcome = rules.evaluate(event, &RoomContext::default(), recipient);
        Ok(outcome.filter(|outcome| outcome.notify).cloned())
    }

    /// A user's rules, from memory while nobody's change.
    async fn current_rules(
        &self,
        user: UserNumber,
        user_id: &UserId,
    ) -> Result<Arc<CompiledRules>, RoomError> {
        let generation = Some(self.rules.generation());
        let known = self.memory.compiled.get(&user);
        if let Some(known) = known.filter(|known| known.generation == generation) {
            return Ok(known.rules);
        }
        // Not from a snapshot, which may be older than the number.
        let (position, rules) = self.rules_of(&self.db, user, user_id).await?;
        self.memory
            .compiled
            .insert(user, Known { generation, position, rules: Arc::clone(&rules) });
        Ok(rules)
    }

    /// What a user is called in a room.
    pub(super) async fn display_name(
        &self,
        at: &impl Read,
        room: &Room,
        user_id: &UserId,
    ) -> Result<Option<String>, RoomError> {
        #[derive(Deserialize)]
        struct Content {
            displayname: String,
        }
        let member =
            self.rooms.current_state_event(at, room, "m.room.member", user_id.as_str()).await?;
        Ok(member
            .and_then(|member| serde_json::from_str::<Content>(member.content()).ok())
            .map(|content| content.displayname))
    }

    /// A user's rules with the stream position of their last change.
    pub(super) async fn rules_of(
        &self,
        at: &impl Read,
        user: UserNumber,
        user_id: &UserId,
    ) -> Result<(u64, Arc<CompiledRules>), RoomError> {
        let datum = ACCOUNT_DATA.get(at, &(user, GLOBAL, super::rules::PUSH_RULES_TYPE)).await?;
        let position = datum.as_ref().map_or(0, |datum| datum.position);
        if let Some(known) =
            self.memory.compiled.get(&user).filter(|known| known.position == position)
        {
            return Ok((position, known.rules));
        }
        let rules = Arc::new(CompiledRules::new(&self.rules.get(user, user_id).await?));
        let known = Known { generation: None, position, rules: Arc::clone(&rules) };
        self.memory.compiled.insert(user, known);
        Ok((position, rules))
    }

    /// What conditions ask of the room, read again when its state changed.
    pub(super) async fn context(
        &self,
        at: &impl Read,
        room: &Room,
    ) -> Result<Arc<RoomContext>, RoomError> {
        let last = CURRENT_STATES.scan_back(at, &Range::prefix(&(room.number,)), 1).await?;
        let as_of = last.first().map_or(0, |((_, position), _)| *position);
        if let Some(known) =
            self.memory.contexts.get(&room.number).filter(|known| known.as_of == as_of)
        {
            return Ok(known);
        }
        let context = Arc::new(RoomContext::load(&self.rooms, at, room, as_of).await?);
        self.memory.contexts.insert(room.number, Arc::clone(&context));
        Ok(context)
    }
}
