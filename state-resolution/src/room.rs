//! The table of a room's events.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    auth::Signatures,
    content::{Content, JoinRule, Kind, Membership, decode},
    grammar::{domain, is_user_id},
    ids::{EventIx, KeyIx, NONE, TypeIx, UserIx, some},
    input::{EventInput, InsertError, NotLast},
    rules::RoomVersionRules,
    tables::{KEY_CREATE, KEY_JOIN_RULES, KEY_POWER_LEVELS, Tables, TablesMark},
};

pub(crate) const REJECTED: u8 = 1;
pub(crate) const POWER_EVENT: u8 = 1 << 1;
pub(crate) const HAS_PREV_EVENTS: u8 = 1 << 2;
pub(crate) const HAS_ROOM_ID: u8 = 1 << 3;
/// The room ID's domain is the sender's.
pub(crate) const ROOM_IS_SENDERS: u8 = 1 << 4;
/// The state key starts with `@` and is not the sender.
pub(crate) const FOREIGN_STATE_KEY: u8 = 1 << 5;
/// The redacted event's ID has the domain of this one's.
pub(crate) const REDACTS_OWN_DOMAIN: u8 = 1 << 6;

/// One event in the table: what every algorithm reads, in 56 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) ts: i64,
    pub(crate) depth: i64,
    /// The state key's number, or `NONE`.
    pub(crate) key: u32,
    pub(crate) of_type: TypeIx,
    pub(crate) sender: UserIx,
    auth_start: u32,
    auth_len: u16,
    /// The power levels event among the auth events, or `NONE`.
    power_levels: u32,
    content: u32,
    /// The create event, if that is the only parent, or `NONE`.
    only_parent_create: u32,
    pub(crate) kind: Kind,
    pub(crate) membership: Membership,
    pub(crate) join_rule: JoinRule,
    pub(crate) flags: u8,
}

impl Event {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn key(&self) -> Option<KeyIx> {
        some(self.key).map(KeyIx)
    }

    /// The power levels event that this one cites: the link of mainlines.
    pub(crate) fn power_levels(&self) -> Option<EventIx> {
        some(self.power_levels).map(EventIx)
    }

    pub(crate) fn only_parent_create(&self) -> Option<EventIx> {
        some(self.only_parent_create).map(EventIx)
    }
}

/// The table of a room's state events and of whatever they cite.
///
/// Message events need no place in it: [`Room::check_message`] checks them from outside.
/// Everything the algorithms use is decoded at insertion; they touch no JSON and hash no string.
///
/// ```
/// use state_resolution::{EventInput, NoSignatures, Room, RoomVersionRules};
/// # let json = serde_json::json!({
/// #     "type": "m.room.create", "state_key": "", "sender": "@alice:a.example",
/// #     "room_id": "!room:a.example", "origin_server_ts": 1, "depth": 1,
/// #     "prev_events": [], "auth_events": [], "content": {"room_version": "11"},
/// # });
/// # let pdu = json.as_object().unwrap();
/// let rules = RoomVersionRules::for_version("11").unwrap();
/// let mut room = Room::new(rules, "!room:a.example", NoSignatures);
/// let create = room.insert(&EventInput::from_pdu(&rules, "$create", pdu).unwrap()).unwrap();
/// assert_eq!(room.check_state_independent(create), Ok(()));
/// ```
#[derive(Debug)]
pub struct Room {
    rules: RoomVersionRules,
    id: Arc<str>,
    pub(crate) signatures: Box<dyn Signatures>,
    pub(crate) tables: Tables,
    pub(crate) events: Vec<Event>,
    ids: Vec<Arc<str>>,
    by_id: HashMap<Arc<str>, EventIx>,
    auth_edges: Vec<EventIx>,
    contents: Vec<Content>,
    /// The first create event.
    create: Option<EventIx>,
    rejections: u64,
    /// Verdicts on third-party invites by (membership, invite): signatures are checked once.
    third_party: Mutex<HashMap<(EventIx, EventIx), bool>>,
    /// The tables before the last insertion.
    before_last: TablesMark,
}

impl Room {
    /// The empty table of a room. `signatures` answers the two rules that are about signatures.
    pub fn new(
        rules: RoomVersionRules,
        room_id: &str,
        signatures: impl Signatures + 'static,
    ) -> Self {
        Self {
            rules,
            id: room_id.into(),
            signatures: Box::new(signatures),
            tables: Tables::new(),
            events: Vec::new(),
            ids: Vec::new(),
            by_id: HashMap::new(),
            auth_edges: Vec::new(),
            contents: vec![Content::Plain],
            create: None,
            rejections: 0,
            third_party: Mutex::default(),
            before_last: TablesMark::default(),
        }
    }

    /// The rules of the room's version.
    pub fn rules(&self) -> &RoomVersionRules {
        &self.rules
    }

    /// The room's ID.
    pub fn room_id(&self) -> &str {
        &self.id
    }

    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// How many events the table holds; all numbers below are in use.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// All events, in order of insertion.
    pub fn events(&self) -> impl Iterator<Item = EventIx> + use<> {
        (0..u32::try_from(self.events.len()).unwrap_or(u32::MAX)).map(EventIx)
    }

    /// Whether the table holds no event.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many state keys have numbers; all numbers below are in use.
    pub fn key_count(&self) -> usize {
        self.tables.key_count()
    }

    /// Inserts an event whose auth events are all in the table, and returns its number. An ID
    /// that is already there keeps its number and what it stands for.
    ///
    /// This checks nothing that makes an event *rejected*; see [`Room::check_state_independent`]
    /// and [`Room::check`].
    ///
    /// # Errors
    /// [`InsertError`]; the table is unchanged then.
    pub fn insert(&mut self, input: &EventInput<'_>) -> Result<EventIx, InsertError> {
        if let Some(known) = self.by_id.get(input.event_id) {
            return Ok(*known);
        }
        let kind = Kind::of(input.event_type);
        if !self.is_in_this_room(kind, input) {
            return Err(InsertError::WrongRoom);
        }
        if !is_user_id(input.sender) {
            return Err(InsertError::MalformedSender);
        }
        let auth_len =
            u16::try_from(input.auth_events.len()).map_err(|_| InsertError::TooManyAuthEvents)?;
        let auth_start = self.auth_edges.len();
        // Content is bounded by the size of an event, so this much room is always enough.
        let limit = (NONE - (1 << 20)) as usize;
        if self.events.len() >= limit || auth_start >= limit || self.tables.key_count() >= limit {
            return Err(InsertError::Full);
        }
        let auth = self.resolve_auth_events(kind, input)?;

        self.before_last = self.tables.mark();
        let event_type = self.tables.intern_type(input.event_type);
        let sender = self.tables.intern_user(input.sender);
        let key = input.state_key.map_or(NONE, |key| self.tables.intern_key(event_type, key).0);
        let decoded = decode(kind, sender, input.content, &self.rules, &mut self.tables);
        let content = if decoded.content == Content::Plain {
            0
        } else {
            self.contents.push(decoded.content);
            self.contents.len() - 1
        };
        let ix = EventIx::from_index(self.events.len());
        let mut event = Event {
            ts: input.origin_server_ts,
            depth: input.depth,
            key,
            of_type: event_type,
            sender,
            auth_start: EventIx::from_index(auth_start).0,
            auth_len,
            power_levels: self.cited(&auth, KEY_POWER_LEVELS),
            content: EventIx::from_index(content).0,
            only_parent_create: self.only_parent_create(input),
            kind,
            membership: decoded.membership,
            join_rule: decoded.join_rule,
            flags: flags(input),
        };
        if self.is_power_event(&event) {
            event.flags |= POWER_EVENT;
        }
        if key == KEY_CREATE.0 && self.create.is_none() {
            self.create = Some(ix);
        }
        self.auth_edges.extend(auth);
        self.events.push(event);
        let id: Arc<str> = input.event_id.into();
        self.ids.push(Arc::clone(&id));
        self.by_id.insert(id, ix);
        Ok(ix)
    }

    /// Takes back the event inserted last, and every name it brought: a draft that turned out to
    /// be forbidden leaves no trace.
    ///
    /// # Errors
    /// [`NotLast`] for any other event, whose number others may hold.
    pub fn retract(&mut self, event: EventIx) -> Result<(), NotLast> {
        if event.index() + 1 != self.events.len() || self.before_last == TablesMark::default() {
            return Err(NotLast(event));
        }
        let Some(last) = self.events.pop() else { return Err(NotLast(event)) };
        if let Some(id) = self.ids.pop() {
            self.by_id.remove(&id);
        }
        self.auth_edges.truncate(last.auth_start as usize);
        if last.content != 0 {
            self.contents.truncate(last.content as usize);
        }
        if self.create == Some(event) {
            self.create = None;
        }
        self.third_party
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(member, invite), _| *member != event && *invite != event);
        self.tables.truncate(self.before_last);
        // The number may be given out again: what was cached under it must not be found.
        self.rejections += 1;
        self.before_last = TablesMark::default();
        Ok(())
    }

    /// The number of the event called `event_id`.
    pub fn event(&self, event_id: &str) -> Option<EventIx> {
        self.by_id.get(event_id).copied()
    }

    /// The ID of an event.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn event_id(&self, event: EventIx) -> &str {
        &self.ids[event.index()]
    }

    /// The number of a state key, if an event has it or names it.
    pub fn key(&self, event_type: &str, state_key: &str) -> Option<KeyIx> {
        self.tables.key_of(event_type, state_key)
    }

    /// The event type and state key of a number.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn key_name(&self, key: KeyIx) -> (&str, &str) {
        let key = self.tables.key(key);
        (self.tables.type_name(key.event_type), &key.name)
    }

    /// The state key that an event sets; `None` for a message event.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn key_of(&self, event: EventIx) -> Option<KeyIx> {
        self.get(event).key()
    }

    /// The sender of an event.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn sender_of(&self, event: EventIx) -> &str {
        self.tables.user_id(self.get(event).sender)
    }

    /// The membership that an `m.room.member` event sets, [`Membership::Malformed`] for others.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn membership_of(&self, event: EventIx) -> Membership {
        self.get(event).membership
    }

    /// The events that an event cites as its `auth_events`.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn auth_events(&self, event: EventIx) -> &[EventIx] {
        let event = self.get(event);
        let start = event.auth_start as usize;
        &self.auth_edges[start..start + usize::from(event.auth_len)]
    }

    /// The room's create event.
    pub fn create_event(&self) -> Option<EventIx> {
        self.create
    }

    /// Whether the event was rejected.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn is_rejected(&self, event: EventIx) -> bool {
        self.get(event).has(REJECTED)
    }

    /// Notes whether the event was rejected. Cached resolutions do not survive a change.
    ///
    /// # Panics
    /// If the number is not of this room.
    pub fn set_rejected(&mut self, event: EventIx, rejected: bool) {
        if self.is_rejected(event) != rejected {
            self.events[event.index()].flags ^= REJECTED;
            self.rejections += 1;
        }
    }

    pub(crate) fn get(&self, event: EventIx) -> &Event {
        &self.events[event.index()]
    }

    pub(crate) fn content(&self, event: EventIx) -> &Content {
        &self.contents[self.get(event).content as usize]
    }

    pub(crate) fn id(&self, event: EventIx) -> &Arc<str> {
        &self.ids[event.index()]
    }

    /// Changes whenever the rejection of a known event, or what a number means, does.
    pub(crate) fn rejection_epoch(&self) -> u64 {
        self.rejections
    }

    /// The verdict on the signatures of a third-party invite, from memory if it was asked before.
    pub(crate) fn third_party_verdict(
        &self,
        pair: (EventIx, EventIx),
        verify: impl FnOnce() -> bool,
    ) -> bool {
        let known = |verdicts: &Mutex<HashMap<_, bool>>| {
            verdicts.lock().unwrap_or_else(PoisonError::into_inner).get(&pair).copied()
        };
        known(&self.third_party).unwrap_or_else(|| {
            // Not under the lock: signatures are slow.
            let verdict = verify();
            let mut verdicts = self.third_party.lock().unwrap_or_else(PoisonError::into_inner);
            verdicts.insert(pair, verdict);
            verdict
        })
    }

    fn is_in_this_room(&self, kind: Kind, input: &EventInput<'_>) -> bool {
        if self.rules.auth.room_id_is_create_hash && kind == Kind::Create {
            // A `room_id` on it is for the rules to reject; what counts is the ID made from it.
            return input.event_id.strip_prefix('$') == self.id.strip_prefix('!');
        }
        input.room_id == Some(&*self.id)
    }

    pub(crate) fn resolve_auth_events(
        &self,
        kind: Kind,
        input: &EventInput<'_>,
    ) -> Result<Vec<EventIx>, InsertError> {
        let mut missing = Vec::new();
        let mut auth = Vec::with_capacity(input.auth_events.len());
        for id in &input.auth_events {
            match self.event(id) {
                Some(event) => auth.push(event),
                None => missing.push((*id).to_owned()),
            }
        }
        // The room ID implies the create event, which nobody cites.
        if self.rules.auth.room_id_is_create_hash && kind != Kind::Create && self.create.is_none() {
            missing.extend(self.id.strip_prefix('!').map(|hash| format!("${hash}")));
        }
        if missing.is_empty() { Ok(auth) } else { Err(InsertError::MissingAuth(missing)) }
    }

    /// The event with `key` among `auth`. If a sender cites several (such an event is rejected),
    /// the smallest ID, so that the order of the list does not matter.
    fn cited(&self, auth: &[EventIx], key: KeyIx) -> u32 {
        auth.iter()
            .filter(|event| self.get(**event).key == key.0)
            .min_by_key(|event| self.id(**event))
            .map_or(NONE, |event| event.0)
    }

    fn only_parent_create(&self, input: &EventInput<'_>) -> u32 {
        match input.prev_events[..] {
            [parent] => self
                .event(parent)
                .filter(|parent| self.get(*parent).key == KEY_CREATE.0)
                .map_or(NONE, |parent| parent.0),
            _ => NONE,
        }
    }

    /// "A *power event* is a state event with type `m.room.power_levels` or `m.room.join_rules`,
    /// or a state event with type `m.room.member` where the `membership` is `leave` or `ban` and
    /// the `sender` does not match the `state_key`."
    ///
    /// As everywhere else, the create event is one too, and the first two only with the state
    /// key under which they have an effect.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#definitions>
    fn is_power_event(&self, event: &Event) -> bool {
        let Some(key) = event.key() else { return false };
        if [KEY_CREATE, KEY_POWER_LEVELS, KEY_JOIN_RULES].contains(&key) {
            return true;
        }
        event.kind == Kind::Member
            && matches!(event.membership, Membership::Leave | Membership::Ban)
            && self.tables.key(key).user != event.sender.0
    }

    /// The columns of a message event outside the table. What the room never heard of is `NONE`.
    pub(crate) fn message(&self, input: &EventInput<'_>) -> Event {
        Event {
            ts: input.origin_server_ts,
            depth: input.depth,
            key: NONE,
            of_type: self.tables.type_of(input.event_type).unwrap_or(TypeIx(NONE)),
            sender: self.tables.user(input.sender).unwrap_or(UserIx(NONE)),
            auth_start: 0,
            auth_len: 0,
            power_levels: NONE,
            content: 0,
            only_parent_create: NONE,
            kind: Kind::of(input.event_type),
            membership: Membership::Malformed,
            join_rule: JoinRule::Malformed,
            flags: flags(input),
        }
    }
}

/// What is known about an event from its envelope alone.
fn flags(input: &EventInput<'_>) -> u8 {
    let sender_domain = domain(input.sender);
    let foreign = input.state_key.is_some_and(|key| key.starts_with('@') && key != input.sender);
    let own_domain = input.redacts.is_some_and(|redacted| {
        domain(redacted).is_some() && domain(redacted) == domain(input.event_id)
    });
    let room_is_senders = input.room_id.and_then(domain) == sender_domain;
    [
        (REJECTED, input.rejected),
        (HAS_PREV_EVENTS, !input.prev_events.is_empty()),
        (HAS_ROOM_ID, input.room_id.is_some()),
        (ROOM_IS_SENDERS, room_is_senders),
        (FOREIGN_STATE_KEY, foreign),
        (REDACTS_OWN_DOMAIN, own_domain),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .fold(0, |flags, (flag, _)| flags | flag)
}
