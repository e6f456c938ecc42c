//! One room in a response.

use std::{collections::HashSet, sync::Arc};

use ruma::UserId;

use super::{
    account_data::account_data_event,
    ephemeral::{receipt_event, typing_event},
    heroes::{HEROES, former_heroes, is_named},
    response::{Events, Joined, Left, State, StateForm, Summary, Timeline},
    timeline::{Stretch, latest},
    v3::{Request, Sync},
    views::IgnoredOnce,
};
use crate::{
    push::Whose,
    rooms::{
        Boundary, Room, RoomError, Viewer, Visibility,
        auth::membership_in,
        record::{EventNumber, Membership, SharedEvent, UserRoom},
        sent_members::Sending,
    },
    storage::{Range, Snapshot, StorageError, intern::UserNumber, schema::ACCOUNT_DATA},
    users::{Ignored, session::Session},
};

/// What a room's summary is made of.
const SUMMARIZED: [&str; 3] = ["m.room.member", "m.room.name", "m.room.canonical_alias"];

type Numbered = Vec<(EventNumber, SharedEvent)>;

/// Reads one room for one response.
pub(super) struct RoomReader<'a> {
    pub(super) sync: &'a Sync,
    pub(super) at: &'a Snapshot,
    pub(super) session: &'a Session,
    pub(super) request: &'a Request,
    /// What the device has of the members, if they are not sent again.
    pub(super) sending: &'a mut Option<Sending>,
    pub(super) room: Arc<Room>,
    pub(super) user_room: &'a UserRoom,
    pub(super) until: u64,
    /// Since this position nothing changed but messages, receipts and typing.
    pub(super) settled: Option<u64>,
    pub(super) ignored: &'a IgnoredOnce,
}

/// The stretch of a room's timeline, the state beside it, and for whom.
struct Excerpt {
    visibility: Arc<Visibility>,
    stretch: Stretch,
    state: Numbered,
}

impl RoomReader<'_> {
    /// The room of a user who is joined. `since` is the client's token; `account_data` what changed
    /// after it.
    pub(super) async fn joined(
        &mut self,
        since: Option<u64>,
        account_data: Events,
    ) -> Result<Joined, RoomError> {
        let known_since = self.known_since(since).await?;
        let mut joined = Joined::default();
        // Most rooms of most syncs: nothing happened, and memory knows it.
        let quiet = match known_since {
            Some(since) => self.sync.rooms.last_position(self.room.number).await? <= since,
            None => false,
        };
        if !quiet || self.request.full_state {
            let mut excerpt = self.excerpt(known_since, self.until).await?;
            let events = excerpt.stretch.events.iter().map(|(_, event)| event);
            self.sync.receipts.note_delivery(self.session, &self.room, events, self.until);
            let summary_changed = (excerpt.stretch.events.iter().chain(&excerpt.state))
                .any(|(_, event)| event.is_state() && SUMMARIZED.contains(&&*event.event_type));
            // Those that came to be known meanwhile need not be told of.
            let is_new = known_since.is_none_or(|since| self.room.whole_since() > since);
            if is_new || self.request.full_state || summary_changed {
                let mut summary = self.summary().await?;
                self.add_heroes(&mut excerpt, &mut summary).await?;
                joined.summary = Some(summary);
            }
            (joined.timeline, joined.state) = self.show(excerpt).await?;
        }
        joined.ephemeral = self.ephemeral(known_since).await?;
        joined.account_data = match (since, known_since) {
            // New to the client: what was set before counts as well.
            (Some(_), None) => self.all_account_data().await?,
            _ => account_data,
        };
        // The counts change with what was sent and what was read; both are in the response.
        if known_since.is_none() || self.request.full_state || !joined.is_empty() {
            self.add_counts(&mut joined).await?;
        }
        Ok(joined)
    }

    /// Adds what the user has not read.
    async fn add_counts(&self, joined: &mut Joined) -> Result<(), RoomError> {
        let Session { user, user_id, .. } = self.session;
        let member = self.user_room.position;
        let unread = &self.sync.unread;
        let receipts = Some(self.sync.receipts.last_read(self.room.number));
        let whose = Whose { user: *user, user_id, member, settled: self.settled, receipts };
        let tally = unread.count(self.at, &self.room, whose, self.until).await?;
        if self.request.filter.unread_by_thread {
            joined.unread_notifications = Some(tally.main().into());
            joined.unread_thread_notifications =
                tally.threads().map(|(thread, count)| (thread.to_owned(), count.into())).collect();
        } else {
            joined.unread_notifications = Some(tally.total().into());
        }
        Ok(())
    }

    /// The room of a user who has left it, up to their leaving.
    pub(super) async fn left(
        &mut self,
        since: Option<u64>,
        account_data: Events,
    ) -> Result<Left, RoomError> {
        let until = self.user_room.position.min(self.until);
        let known_since = if self.user_room.was_joined {
            self.known_since(since).await?
        } else {
            // An invitation refused or withdrawn, a knock denied: nothing of the room but that.
            Some(until.saturating_sub(1))
        };
        let excerpt = self.excerpt(known_since, until).await?;
        let (timeline, state) = self.show(excerpt).await?;
        Ok(Left { timeline, state, account_data })
    }

    /// From where on the client knows this room: its token, or nowhere if the user was not in the
    /// room at that time.
    async fn known_since(&self, since: Option<u64>) -> Result<Option<u64>, RoomError> {
        let Some(since) = since else { return Ok(None) };
        // It was left out until all members were known.
        if !self.request.filter.lazy_load_members() && self.room.whole_since() > since {
            return Ok(None);
        }
        if self.user_room.position <= since {
            return Ok(Some(since));
        }
        let then = self
            .sync
            .rooms
            .state_event_at(
                self.at,
                &self.room,
                "m.room.member",
                self.session.user_id.as_str(),
                since,
            )
            .await?;
        let was_joined =
            then.is_some_and(|event| membership_in(event.content()) == Some(Membership::Join));
        Ok(was_joined.then_some(since))
    }

    /// The timeline, and the state events that belong beside it, as the filter wants them.
    async fn excerpt(&mut self, since: Option<u64>, until: u64) -> Result<Excerpt, RoomError> {
        let (rooms, filter) = (&self.sync.rooms, &self.request.filter);
        let visibility = self.visibility(until).await?;
        let window = (Boundary::at_position(since.unwrap_or(0)), Boundary::at_position(until));
        let stretch = if filter.timeline.wants_room(&self.room.id) {
            latest(rooms, self.at, &self.room, &visibility, window, &filter.timeline).await?
        } else {
            Stretch::default()
        };
        let mut state = Numbered::new();
        if filter.state.wants_room(&self.room.id) {
            // State stands before the timeline, unless the client wants it after.
            let upto = match stretch.start {
                Some(start) if self.request.state_form == StateForm::Before => start.0.position(),
                _ => until,
            };
            let is_settled =
                self.settled.is_some_and(|settled| since.is_some_and(|since| settled <= since));
            state = match since {
                _ if is_settled => Numbered::new(),
                Some(since) if !self.request.full_state => {
                    rooms.state_delta(self.at, &self.room, since, upto).await?
                }
                _ => rooms.state_at(self.at, &self.room, upto).await?,
            };
            if upto < until && !is_settled {
                let later = rooms.state_delta(self.at, &self.room, upto, until).await?;
                add_unseen_changes(&mut state, &stretch.events, later);
            }
            if filter.lazy_load_members() {
                // Of what changed in a gap all members are told: the client may know them from before,
                // and would encrypt for those who left.
                if since.is_none() || self.request.full_state {
                    keep_relevant_members(&mut state, &self.session.user_id, &stretch.events);
                }
                self.add_senders(&mut state, &stretch.events, upto).await?;
            }
            state.retain(|(_, event)| filter.state.wants(event));
        }
        self.note_members(&state, &stretch.events);
        Ok(Excerpt { visibility, stretch, state })
    }

    /// Adds the member events of those who sent the timeline, for clients that load them lazily.
    async fn add_senders(
        &self,
        state: &mut Numbered,
        timeline: &Numbered,
        upto: u64,
    ) -> Result<(), RoomError> {
        let senders = timeline.iter().map(|(_, event)| event.sender_id.as_str()).collect();
        // One that joined within the timeline stands there.
        self.add_members(state, senders, upto).await
    }

    /// Those after whom a room without a name is named: former members if there are no others. Adds
    /// their member events for clients that load members lazily.
    async fn add_heroes(
        &mut self,
        excerpt: &mut Excerpt,
        summary: &mut Summary,
    ) -> Result<(), RoomError> {
        let (sync, filter) = (self.sync, &self.request.filter);
        if is_named(&sync.rooms, self.at, &self.room, self.until).await? {
            return Ok(());
        }
        if summary.heroes.is_empty() {
            let (room, me) = (self.room.number, self.session.user);
            let former = former_heroes(&sync.rooms, self.at, room, me).await?;
            summary.heroes = sync.db.users().names(&sync.db, &former).await?;
        }
        if !filter.lazy_load_members() || !filter.state.wants_room(&self.room.id) {
            return Ok(());
        }
        // Those that stand in the timeline need not be told of twice.
        let told: HashSet<&str> = (excerpt.stretch.events.iter())
            .filter(|(_, event)| event.event_type == "m.room.member")
            .filter_map(|(_, event)| event.state_key.as_deref())
            .collect();
        let heroes = summary.heroes.iter().map(|hero| hero.as_str());
        let heroes = heroes.filter(|hero| !told.contains(hero)).collect();
        let before = excerpt.state.len();
        self.add_members(&mut excerpt.state, heroes, self.until).await?;
        let mut added = excerpt.state.split_off(before);
        self.note_members(&added, &Numbered::new());
        added.retain(|(_, event)| filter.state.wants(event));
        excerpt.state.extend(added);
        Ok(())
    }

    /// Adds member events of the state at a position that the device has not.
    async fn add_members(
        &self,
        state: &mut Numbered,
        mut users: Vec<&str>,
        upto: u64,
    ) -> Result<(), RoomError> {
        let mut known: HashSet<String> = state
            .iter()
            .filter(|(_, event)| event.event_type == "m.room.member")
            .filter_map(|(_, event)| event.state_key.clone())
            .collect();
        users.retain(|user| known.insert((*user).to_owned()));
        if users.is_empty() {
            return Ok(());
        }
        let rooms = &self.sync.rooms;
        let mut members =
            rooms.state_numbers_at(self.at, &self.room, "m.room.member", &users, upto).await?;
        if let Some(sending) = &self.sending {
            members.retain(|member| !sending.has(self.room.number, *member));
        }
        state.extend(rooms.records(self.at, &self.room, members).await?);
        Ok(())
    }

    /// Notes the member events that the device has with this excerpt.
    fn note_members(&mut self, state: &Numbered, timeline: &Numbered) {
        let Some(sending) = self.sending else { return };
        for (number, event) in state.iter().chain(timeline) {
            if event.event_type == "m.room.member" {
                sending.send(self.room.number, *number);
            }
        }
    }

    /// The excerpt as the client sees it.
    async fn show(&self, excerpt: Excerpt) -> Result<(Timeline, State), RoomError> {
        let Excerpt { visibility, stretch, state } = excerpt;
        let viewer = Viewer::from(self.session);
        let show = async |events: Numbered| {
            let events: Vec<SharedEvent> = events.into_iter().map(|(_, event)| event).collect();
            let (rooms, form) = (&self.sync.rooms, &self.request.filter.form);
            rooms.formed_events(self.at, &viewer, &self.room, &visibility, &events, form).await
        };
        let timeline = Timeline {
            prev_batch: stretch.start.map(|start| start.to_string()),
            limited: stretch.limited,
            events: show(stretch.events).await?,
        };
        let state = self.request.state_form.of(Events { events: show(state).await? });
        Ok((timeline, state))
    }

    async fn summary(&self) -> Result<Summary, RoomError> {
        let (rooms, room) = (&self.sync.rooms, self.room.number);
        // One more than are named: the user may be among them.
        let first = rooms.first_members(self.at, room, Membership::Join, HEROES + 1).await?;
        let invited = rooms.members(self.at, room, Membership::Invite).await?;
        let others: Vec<UserNumber> = first
            .iter()
            .chain(&invited)
            .copied()
            .filter(|member| *member != self.session.user)
            .take(HEROES)
            .collect();
        let heroes = self.sync.db.users().names(&self.sync.db, &others).await?;
        let joined_member_count = if first.len() <= HEROES {
            first.len()
        } else {
            rooms.joined_count(self.at, room).await?
        };
        Ok(Summary { heroes, joined_member_count, invited_member_count: invited.len() })
    }

    /// Whom the user ignores.
    async fn ignored(&self) -> Result<Ignored, RoomError> {
        if self.settled.is_none() {
            let load = || Ignored::load(self.at, self.session.user);
            return Ok(self.ignored.get_or_try_init(load).await?.clone());
        }
        Ok(self.visibility(self.until).await?.ignored().clone())
    }

    /// What the user may see of the room.
    async fn visibility(&self, until: u64) -> Result<Arc<Visibility>, RoomError> {
        let user = (self.session.user, self.user_room);
        self.sync.visibility(self.at, &self.room, user, until, self.settled, self.ignored).await
    }

    async fn ephemeral(&self, since: Option<u64>) -> Result<Events, RoomError> {
        let (sync, room) = (self.sync, self.room.number);
        let filter = &self.request.filter.ephemeral;
        let mut events = Vec::new();
        if !filter.wants_room(&self.room.id) {
            return Ok(Events { events });
        }
        let typing = match since {
            Some(since) => sync.typing.changed_since(room, since),
            None => Some(sync.typing.now(room)).filter(|users| !users.is_empty()),
        };
        if let Some(users) = typing.filter(|_| filter.wants("m.typing")) {
            let ignored = self.ignored().await?;
            events.push(typing_event(&sync.db, &users, &ignored).await?);
        }
        if filter.wants("m.receipt") {
            let since = since.unwrap_or(0);
            let receipts =
                sync.receipts.changed(self.at, room, self.session.user, since, self.until).await?;
            if !receipts.is_empty() {
                let ignored = self.ignored().await?;
                events.extend(receipt_event(&sync.db, receipts, &ignored).await?);
            }
        }
        Ok(Events { events })
    }

    async fn all_account_data(&self) -> Result<Events, StorageError> {
        let range = Range::prefix(&(self.session.user, self.room.number));
        let filter = &self.request.filter.room_account_data;
        let mut events = Vec::new();
        if filter.wants_room(&self.room.id) {
            for ((_, _, kind), datum) in ACCOUNT_DATA.scan(self.at, &range, usize::MAX).await? {
                if filter.wants(&kind) && !datum.is_deleted() {
                    events.push(account_data_event(&kind, &datum.content)?);
                }
            }
        }
        Ok(Events { events })
    }
}

/// Leaves out the member events that a lazy-loading client has no use for: those of users who sent
/// none of `timeline`, and are not the user themself.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>
fn keep_relevant_members(state: &mut Numbered, user_id: &UserId, timeline: &Numbered) {
    let senders: HashSet<&str> =
        timeline.iter().map(|(_, event)| event.sender_id.as_str()).collect();
    state.retain(|(_, event)| match event.state_key.as_deref() {
        Some(member) if event.event_type == "m.room.member" => {
            member == user_id.as_str() || senders.contains(member)
        }
        _ => true,
    });
}

/// Adds the changes of the state that no event of the timeline shows: what state resolution led to.
/// A client that applies `state` and then the timeline comes to the state at its end.
fn add_unseen_changes(state: &mut Numbered, timeline: &Numbered, later: Numbered) {
    let shown: HashSet<EventNumber> = timeline.iter().map(|(number, _)| *number).collect();
    for (number, event) in later {
        if shown.contains(&number) {
            continue;
        }
        let same = |(_, old): &(EventNumber, SharedEvent)| {
            event.event_type == old.event_type && event.state_key == old.state_key
        };
        // Where the timeline shows another event of that key, a client lets it win in any case.
        state.retain(|old| !same(old));
        state.push((number, event));
    }
}
