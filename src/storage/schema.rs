//! Every table of the database: its name, the type of its keys and that of its values.
//!
//! A number in a key is big-endian, so a range over the first parts of a key reads in the order of
//! the rest.

use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    OwnedTransactionId, OwnedUserId,
};

use federation::Backoff;

use super::{
    intern::{RoomNumber, UserNumber},
    layout::Layout,
    table::Table,
    value::Json,
};
use crate::{
    appservice::queue::{Progress as AppserviceProgress, Queued},
    content::rows::{MediaRecord, QuarantineRecord, ThumbnailRecord, Usage, VerdictRecord},
    e2ee::{BackupVersion, Dehydrated, FallbackKey, KeySignature, OneTimeKey, TrackedList},
    federation::{
        ServerKeysRecord,
        exchange::{ReceivedTransaction, StagedPdu, Waiting},
    },
    identity::Binding,
    previews::rows::PreviewRecord,
    push::{Progress as PusherProgress, Pusher, Tally},
    rooms::{
        allowances::RateOverride,
        auth_record::{AuthRecord, EventState, SnapshotNumber},
        delayed::DelayedEvent,
        partial::PartialRoom,
        people::SeenProfile,
        purge::{Block, Job, Purged},
        receipts::{Receipt, ReceiptSlot},
        record::{
            AliasRecord, EventNumber, EventRecord, Membership, RoomRecord, SigningKeyRecord,
            UserRoom,
        },
        relations::{Relation, RelationKind},
        remote::OutsideEvent,
        reports::Report,
        subscriptions::ThreadSubscription,
        timeline_key::TimelineKey,
    },
    users::{
        Profile, ProfileHistory,
        presence::LastSeen,
        rows::{
            Account, AccountDatum, Activity, Device, RegistrationToken, ShortLived, Threepid, Token,
        },
    },
};

/// Declares the tables. A line is `CONST = Id "name": Key => Value;`; where the usual [`Layout`]
/// does not fit, `[layout]` stands before the colon: `"events" [Layout::TEXT.prefix(8)]: …`.
macro_rules! tables {
    (
        $($(#[$doc:meta])*
            $table:ident = $id:ident $name:literal $([$layout:expr])?: $key:ty => $value:ty;)*
        @testing {
            $($(#[$test_doc:meta])*
                $test_table:ident = $test_id:ident $test_name:literal $([$test_layout:expr])?:
                $test_key:ty => $test_value:ty;)*
        }
    ) => {
        /// Which table; also its place in the list of all of them.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub(crate) enum TableId {
            $($(#[$doc])* $id,)*
            $($(#[$test_doc])* #[cfg(test)] $test_id,)*
        }

        impl TableId {
            /// Every table there is.
            pub(crate) const ALL: &[Self] = &[
                $(Self::$id,)*
                $(#[cfg(test)] Self::$test_id,)*
            ];

            /// The table's name on disk.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                    $(#[cfg(test)] Self::$test_id => $test_name,)*
                }
            }

            /// How the engine is told to keep the table.
            pub(crate) fn layout(self) -> Layout {
                match self {
                    $(Self::$id => tables!(@layout $($layout)?),)*
                    $(#[cfg(test)] Self::$test_id => tables!(@layout $($test_layout)?),)*
                }
            }
        }

        $(
            $(#[$doc])*
            pub(crate) const $table: Table<$key, $value> = Table::new(TableId::$id);
        )*
        $(
            $(#[$test_doc])*
            #[cfg(test)]
            pub(crate) const $test_table: Table<$test_key, $test_value> =
                Table::new(TableId::$test_id);
        )*
    };
    (@layout) => { Layout::NUMBERS };
    (@layout $layout:expr) => { $layout };
}

tables! {
    /// Schema version, server name, ceilings of counters.
    META = Meta "meta": String => Vec<u8>;

    /// The number that stands for a user.
    USER_NUMBERS = UserNumbers "user_numbers": OwnedUserId => UserNumber;
    /// The user a number stands for.
    USER_IDS = UserIds "user_ids": UserNumber => OwnedUserId;
    /// The number that stands for a room.
    ROOM_NUMBERS = RoomNumbers "room_numbers": OwnedRoomId => RoomNumber;
    /// The room a number stands for.
    ROOM_IDS = RoomIds "room_ids": RoomNumber => OwnedRoomId;

    /// What never changes about a room.
    ROOMS = Rooms "rooms": RoomNumber => Json<RoomRecord>;
    /// The number that the room's next event gets. Every change of a room's graph requires the one
    /// it was built on, so that a change built on one that failed fails too.
    ROOM_HEADS = RoomHeads "room_heads": RoomNumber => EventNumber;
    /// Every event, by room.
    EVENTS = Events "events" [Layout::TEXT.prefix(8)]: (RoomNumber, EventNumber) => EventRecord;
    /// Where an event is kept.
    EVENT_IDS = EventIds "event_ids" [Layout::NUMBERS.asked_in_vain()]: OwnedEventId => (RoomNumber, EventNumber);
    /// A room's events in the order in which they are shown. Rejected and soft-failed events and
    /// outliers are not here.
    TIMELINE = Timeline "timeline" [Layout::NUMBERS.prefix(8)]: (RoomNumber, TimelineKey) => EventNumber;
    /// The accepted events that no accepted event refers to yet.
    FORWARD_EXTREMITIES = ForwardExtremities "forward_extremities": (RoomNumber, EventNumber) => ();
    /// A room's current state by (type, state key): the newest of `current_states`, so that single
    /// events of many rooms are found without reading their tables.
    CURRENT_STATE = CurrentState "current_state" [Layout::NUMBERS.prefix(8)]: (RoomNumber, String, String) => EventNumber;
    /// A room's state events and what authorizes them, each after those it cites: what the
    /// authorization rules and state resolution work on.
    AUTH_EVENTS = AuthEvents "auth_events" [Layout::NUMBERS.prefix(8)]: (RoomNumber, u32) => AuthRecord;
    /// States of a room, in pieces, each as a change of an earlier one. Never changed.
    STATE_SNAPSHOTS = StateSnapshots "state_snapshots" [Layout::NUMBERS.prefix(8)]:
        ((RoomNumber, SnapshotNumber), u32) => Vec<u8>;
    /// The states that resolution led to, by a keyed hash of their entries.
    STATE_HASHES = StateHashes "state_hashes": (RoomNumber, u64) => SnapshotNumber;
    /// The states before and after an event. One that is not here did not change the state that
    /// the last one before it here led to.
    EVENT_STATES = EventStates "event_states" [Layout::NUMBERS.prefix(8)]: (RoomNumber, EventNumber) => EventState;
    /// The current state of a room from a stream position on.
    CURRENT_STATES = CurrentStates "current_states" [Layout::NUMBERS.prefix(8)]: (RoomNumber, u64) => SnapshotNumber;
    /// The memberships of a user of this server in a room, by the stream position from which on
    /// they held.
    MEMBERSHIPS = Memberships "memberships" [Layout::NUMBERS.prefix(8)]: (RoomNumber, UserNumber, u64) => Membership;
    /// How many members of a room are on a server.
    ROOM_SERVERS = RoomServers "room_servers" [Layout::NUMBERS.prefix(8)]: (RoomNumber, OwnedServerName) => u64;
    /// Rooms that were joined without most of their members, and since when all are known.
    PARTIAL_ROOMS = PartialRooms "partial_rooms": RoomNumber => Json<PartialRoom>;
    /// Events that events of the room refer to and that are not here, or as outliers only.
    BACKWARD_EXTREMITIES = BackwardExtremities "backward_extremities" [Layout::NUMBERS.prefix(8)]:
        (RoomNumber, OwnedEventId) => ();
    /// Those of them that an accepted event comes after, directly or by way of others that were not
    /// accepted: they are no ends of the graph when they come.
    SUCCEEDED = Succeeded "succeeded" [Layout::NUMBERS.prefix(8)]: (RoomNumber, OwnedEventId) => ();
    /// Those of them that an event of the timeline refers to, by that one's place: before it there is
    /// a gap as long as one of them is missing.
    GAPS = Gaps "gaps" [Layout::NUMBERS.prefix(8)]: (RoomNumber, TimelineKey) => Json<Vec<OwnedEventId>>;
    /// Redactions whose target is not here, by the target and whose events the sender may redact:
    /// those of a server, or everybody's (empty).
    WAITING_REDACTIONS = WaitingRedactions "waiting_redactions":
        (RoomNumber, OwnedEventId, String) => EventNumber;
    /// The last member event of a user of this server in a room that this server is not in.
    OUTSIDE_EVENTS = OutsideEvents "outside_events": (UserNumber, RoomNumber) => Json<OutsideEvent>;
    /// Events of this server's users, by stream position, that other servers are still to get.
    OUTBOX = Outbox "outbox": u64 => (RoomNumber, EventNumber);
    /// The rooms that a user was ever invited to, joined or knocked on.
    USER_ROOMS = UserRooms "user_rooms" [Layout::TEXT.prefix(8)]: (UserNumber, RoomNumber) => UserRoom;
    /// A room's members by their current membership.
    ROOM_MEMBERS = RoomMembers "room_members" [Layout::NUMBERS.prefix(8)]:
        (RoomNumber, Membership, UserNumber) => EventNumber;
    /// The event that a device's request made: by user, device, what kind of request in which room,
    /// and the transaction ID.
    TRANSACTIONS = Transactions "transactions" [Layout::NUMBERS.asked_in_vain()]:
        (UserNumber, OwnedDeviceId, String, OwnedTransactionId) => OwnedEventId;
    /// Where a local alias leads.
    ALIASES = Aliases "aliases": OwnedRoomAliasId => AliasRecord;
    /// The local aliases of a room.
    ROOM_ALIASES = RoomAliases "room_aliases": (RoomNumber, OwnedRoomAliasId) => ();
    /// The rooms that the public room directory lists.
    PUBLIC_ROOMS = PublicRooms "public_rooms": RoomNumber => ();
    /// The keys this server signs with; the last one is used.
    SIGNING_KEYS = SigningKeys "signing_keys": u64 => SigningKeyRecord;
    /// Since when a key is no longer signed with, in ms since the Unix epoch.
    RETIRED_SIGNING_KEYS = RetiredSigningKeys "retired_signing_keys": u64 => u64;
    /// Events from other servers that were checked and acknowledged and wait for their turn, by room
    /// and the order in which they came.
    STAGED = Staged "staged" [Layout::TEXT.prefix(8)]: (RoomNumber, u64) => Json<StagedPdu>;
    /// The answers to transactions of other servers, kept for a while to be given again.
    RECEIVED = Received "received": (OwnedServerName, OwnedTransactionId) => Json<ReceivedTransaction>;
    /// When those came, in ms since the Unix epoch.
    RECEIVED_EXPIRY = ReceivedExpiry "received_expiry": (u64, OwnedServerName, OwnedTransactionId) => ();
    /// Which stretch of a room's timeline a server waits for.
    WAITING = Waiting "waiting": (OwnedServerName, RoomNumber) => Json<Waiting>;
    /// How many events of a room that have no place in its graph a server gave in a month: which
    /// month since the Unix epoch, of 30 days, and how many.
    OUTLIERS = Outliers "outliers" [Layout::NUMBERS.prefix(8)]: (RoomNumber, OwnedServerName) => (u64, u64);
    /// The transaction that a server did not take, in pieces.
    UNTAKEN = Untaken "untaken" [Layout::TEXT]: (OwnedServerName, u32) => Vec<u8>;
    /// Servers that did not take a transaction, and when they are tried again.
    DESTINATIONS = Destinations "destinations": OwnedServerName => Json<Backoff>;
    /// Events of other servers' users, by stream position, that this server took in for them and
    /// sends on.
    FORWARDED = Forwarded "forwarded": (RoomNumber, u64) => ();
    /// What other servers published of their keys.
    SERVER_KEYS = ServerKeys "server_keys" [Layout::TEXT]: OwnedServerName => Json<ServerKeysRecord>;
    /// Users whose display name or avatar changed and whose member events do not say so yet.
    PROFILE_UPDATES = ProfileUpdates "profile_updates": UserNumber => ();

    /// Events that relate to another, by that one and in the order of the timeline.
    RELATIONS = Relations "relations" [Layout::NUMBERS.prefix(8)]:
        (RoomNumber, OwnedEventId, RelationKind, TimelineKey) => Relation;
    /// Events that are shown with others that relate to them.
    BUNDLED = Bundled "bundled": (RoomNumber, OwnedEventId) => ();
    /// A user's annotations of an event by the hash of type and `key`: each is there once.
    ANNOTATIONS = Annotations "annotations":
        (RoomNumber, OwnedEventId, UserNumber, [u8; 32]) => EventNumber;
    /// The events of a room's threads in the order of the timeline, with the thread's root.
    THREAD_EVENTS = ThreadEvents "thread_events" [Layout::NUMBERS.prefix(8)]: (RoomNumber, TimelineKey) => OwnedEventId;
    /// Who sent which events of a thread.
    THREAD_PARTICIPANTS = ThreadParticipants "thread_participants" [Layout::NUMBERS.prefix(8)]:
        (RoomNumber, OwnedEventId, UserNumber, TimelineKey) => ();
    /// Who is, or was, subscribed to a thread, by its room and root.
    THREAD_SUBSCRIPTIONS = ThreadSubscriptions "thread_subscriptions" [Layout::TEXT.prefix(8)]:
        (UserNumber, RoomNumber, OwnedEventId) => Json<ThreadSubscription>;
    /// The same by the user and the stream position of the last change.
    THREAD_SUBSCRIPTION_CHANGES = ThreadSubscriptionChanges "thread_subscription_changes" [Layout::NUMBERS.prefix(8)]:
        (UserNumber, u64) => (RoomNumber, OwnedEventId);

    /// The messages, names and topics of a room that have a word.
    SEARCH_WORDS = SearchWords "search_words" [Layout::NUMBERS.prefix(8)]: (RoomNumber, String, TimelineKey) => EventNumber;
    /// Which events name a media, by its server and ID.
    MEDIA_REFERENCES = MediaReferences "media_references":
        (OwnedServerName, String, RoomNumber, EventNumber) => ();
    /// Media of events that were removed or redacted, and who sent those.
    MEDIA_TO_REMOVE = MediaToRemove "media_to_remove": (OwnedServerName, String) => UserNumber;
    /// How far a room's history was removed.
    ROOM_PURGES = RoomPurges "room_purges": RoomNumber => Json<Purged>;
    /// Rejected and soft-failed events of a room by when they came, in ms since the Unix epoch.
    REFUSED_EVENTS = RefusedEvents "refused_events" [Layout::NUMBERS.prefix(8)]: (RoomNumber, u64, EventNumber) => ();
    /// Rooms of which events were removed since their unused states were collected: another number
    /// each time.
    STATES_TO_COLLECT = StatesToCollect "states_to_collect": RoomNumber => u64;
    /// What operators want removed.
    PURGE_JOBS = PurgeJobs "purge_jobs" [Layout::TEXT]: String => Json<Job>;
    /// How often users may do things for whom the operator said so.
    RATE_OVERRIDES = RateOverrides "rate_overrides": UserNumber => Json<RateOverride>;
    /// Rooms that nobody of this server may come into.
    BLOCKED_ROOMS = BlockedRooms "blocked_rooms": OwnedRoomId => Json<Block>;
    /// A room's events by the time that their senders claim, in ms since the Unix epoch.
    TIMESTAMPS = Timestamps "timestamps" [Layout::NUMBERS.prefix(8)]: (RoomNumber, u64, EventNumber) => ();
    /// Words in the names of users who came into rooms.
    NAME_WORDS = NameWords "name_words": (String, OwnedUserId) => ();
    /// Names and pictures as member events showed them last.
    SEEN_PROFILES = SeenProfiles "seen_profiles" [Layout::TEXT]: OwnedUserId => Json<SeenProfile>;

    /// Events that are to be sent later, and what became of them, by their ID.
    DELAYED_EVENTS = DelayedEvents "delayed_events" [Layout::TEXT]: String => Json<DelayedEvent>;
    /// When something is to be done with them, in ms since the Unix epoch: those that wait are sent,
    /// those that ended are forgotten.
    DELAYED_DUE = DelayedDue "delayed_due": (u64, String) => ();
    /// A user's delayed events: those that wait (0), then by when they ended, in ms since the Unix
    /// epoch.
    USER_DELAYED_EVENTS = UserDelayedEvents "user_delayed_events": (UserNumber, u64, String) => ();
    /// Delayed state events that wait, by room, type and state key.
    DELAYED_STATE = DelayedState "delayed_state": (RoomNumber, String, String, String) => ();
    /// The delayed event that a device's request scheduled: by user, device, room and type, and the
    /// transaction ID.
    DELAYED_TRANSACTIONS = DelayedTransactions "delayed_transactions":
        (UserNumber, OwnedDeviceId, String, OwnedTransactionId) => String;

    /// Addresses that identity servers were told to be a user's: by the user, the server, the medium
    /// and the address.
    IDENTITY_BINDINGS = IdentityBindings "identity_bindings" [Layout::TEXT.prefix(8)]:
        (UserNumber, OwnedServerName, String, String) => Json<Binding>;
    /// What was reported to those who run the server, in the order in which it came.
    REPORTS = Reports "reports" [Layout::TEXT]: u64 => Json<Report>;
    /// What a user has not read in a room, where counting it anew would take long.
    UNREAD = Unread "unread" [Layout::TEXT.prefix(8)]: (UserNumber, RoomNumber) => Json<Tally>;
    /// Where users want to be told of what notifies them, by app ID and pushkey.
    PUSHERS = Pushers "pushers" [Layout::TEXT.prefix(8)]: (UserNumber, String, String) => Json<Pusher>;
    /// The users who are told under an app ID and a pushkey.
    PUSHER_OWNERS = PusherOwners "pusher_owners": (String, String) => Json<Vec<u64>>;
    /// How far a pusher has told, and when it is tried again. Written unsynced.
    PUSH_PROGRESS = PushProgress "push_progress" [Layout::TEXT.prefix(8)]:
        (UserNumber, String, String) => Json<PusherProgress>;
    /// Keys that are made once: `vapid`, by which push services know this server (PKCS#8).
    PUSH_SECRETS = PushSecrets "push_secrets": String => Vec<u8>;
    /// Up to which stream position whatever is to be pushed is known; `0` is the only key.
    PUSH_EVALUATED = PushEvaluated "push_evaluated": u64 => u64;
    /// Up to where a user has read: the latest receipt by kind and thread.
    RECEIPTS = Receipts "receipts" [Layout::TEXT.prefix(8)]: (RoomNumber, UserNumber, String, String) => Json<Receipt>;
    /// Which receipts changed, by stream position; a receipt stands here once.
    RECEIPT_CHANGES = ReceiptChanges "receipt_changes" [Layout::TEXT.prefix(8)]: (RoomNumber, u64) => Json<ReceiptSlot>;
    /// Local accounts, closed ones too, so that no name is given out twice.
    ACCOUNTS = Accounts "accounts": UserNumber => Json<Account>;
    /// Devices that are logged in.
    DEVICES = Devices "devices": (UserNumber, OwnedDeviceId) => Json<Device>;
    /// When and from where a device was last active. Written late and unsynced.
    DEVICE_ACTIVITY = DeviceActivity "device_activity":
        (UserNumber, OwnedDeviceId) => Json<Activity>;
    /// Access and refresh tokens by their hash.
    TOKENS = Tokens "tokens" [Layout::INCOMPRESSIBLE]: [u8; 32] => Json<Token>;
    /// The tokens of a device.
    DEVICE_TOKENS = DeviceTokens "device_tokens": (UserNumber, OwnedDeviceId, [u8; 32]) => ();
    /// Registration tokens.
    REGISTRATION_TOKENS = RegistrationTokens "registration_tokens":
        String => Json<RegistrationToken>;
    /// What is known for a while only, by the hash of the secret or ID it is asked for with:
    /// user-interactive authentication, login and `OpenID` tokens, pending validations.
    SHORT_LIVED = ShortLived "short_lived": [u8; 32] => Json<ShortLived>;
    /// Rows of `short_lived` by the time they expire, in ms since the Unix epoch.
    SHORT_LIVED_EXPIRY = ShortLivedExpiry "short_lived_expiry": (u64, [u8; 32]) => ();
    /// Third-party identifiers by medium and address: whose they are.
    THREEPIDS = Threepids "threepids": (String, String) => UserNumber;
    /// The third-party identifiers of a user, by medium and address.
    USER_THREEPIDS = UserThreepids "user_threepids": (UserNumber, String, String) => Json<Threepid>;
    /// Profiles of local users.
    PROFILES = Profiles "profiles" [Layout::TEXT]: UserNumber => Json<Profile>;
    /// Whose profiles changed, by stream position; a user stands here once.
    PROFILE_CHANGES = ProfileChanges "profile_changes": u64 => UserNumber;
    /// Where a user stands in `profile_changes`, and which fields changed when.
    PROFILE_HISTORIES = ProfileHistories "profile_histories" [Layout::TEXT]: UserNumber => Json<ProfileHistory>;
    /// Accounts that are being closed: what is left of them is removed, also after a restart.
    CLOSING_ACCOUNTS = ClosingAccounts "closing_accounts": UserNumber => ();
    /// Users whose account was closed and who are still to be taken out of their rooms.
    CLOSED_ACCOUNTS = ClosedAccounts "closed_accounts": UserNumber => ();
    /// Account data by user, room (0: global) and type.
    ACCOUNT_DATA = AccountData "account_data" [Layout::TEXT.prefix(8)]:
        (UserNumber, RoomNumber, String) => AccountDatum;
    /// Account data by user and the stream position of its last change: room and type.
    ACCOUNT_DATA_CHANGES = AccountDataChanges "account_data_changes" [Layout::NUMBERS.prefix(8)]:
        (UserNumber, u64) => (RoomNumber, String);
    /// Filters for `/sync` by the user and the hash of their content.
    FILTERS = Filters "filters" [Layout::TEXT.prefix(8)]: (UserNumber, String) => Vec<u8>;

    /// The identity keys of devices: canonical JSON, as uploaded but without `unsigned`.
    DEVICE_KEYS = DeviceKeys "device_keys" [Layout::TEXT.prefix(8)]: (UserNumber, OwnedDeviceId) => Vec<u8>;
    /// One-time keys that nobody has claimed, by user, device, algorithm and order of upload.
    ONE_TIME_KEYS = OneTimeKeys "one_time_keys" [Layout::TEXT.prefix(8)]:
        (UserNumber, OwnedDeviceId, String, u64) => Json<OneTimeKey>;
    /// Fallback keys by user, device and algorithm.
    FALLBACK_KEYS = FallbackKeys "fallback_keys" [Layout::TEXT.prefix(8)]:
        (UserNumber, OwnedDeviceId, String) => Json<FallbackKey>;
    /// Cross-signing keys of a user: master (0), self-signing (1), user-signing (2); canonical JSON.
    CROSS_SIGNING_KEYS = CrossSigningKeys "cross_signing_keys" [Layout::TEXT.prefix(8)]: (UserNumber, u8) => Vec<u8>;
    /// Signatures added to keys after their upload: by the key's owner, its ID (a device or a
    /// public key), who signed it and with which key.
    KEY_SIGNATURES = KeySignatures "key_signatures" [Layout::TEXT.prefix(8)]:
        (UserNumber, String, UserNumber, String) => Json<KeySignature>;
    /// Whose devices or keys changed, by stream position; a user stands here once.
    DEVICE_LIST_CHANGES = DeviceListChanges "device_list_changes": u64 => UserNumber;
    /// Where a user stands in `device_list_changes`.
    DEVICE_LIST_POSITIONS = DeviceListPositions "device_list_positions": UserNumber => u64;
    /// At which stream position a device of a user of this server changed last, gone ones too.
    DEVICE_CHANGES = DeviceChanges "device_changes" [Layout::NUMBERS.prefix(8)]:
        (UserNumber, OwnedDeviceId) => u64;
    /// The same of a user's cross-signing keys.
    CROSS_SIGNING_CHANGES = CrossSigningChanges "cross_signing_changes": UserNumber => u64;
    /// Whose devices or keys changed, at which stream position, without other servers waiting for
    /// it yet.
    DEVICE_LIST_OUTBOX = DeviceListOutbox "device_list_outbox": UserNumber => u64;
    /// Whose changes a server waits for, the last one at this stream position.
    DEVICE_LISTS_WAITING = DeviceListsWaiting "device_lists_waiting":
        (OwnedServerName, UserNumber) => u64;
    /// Up to which stream position a server was told of a user's keys, and the position of the last
    /// change of a device among what it was told.
    DEVICE_LISTS_TOLD = DeviceListsTold "device_lists_told":
        (OwnedServerName, UserNumber) => (u64, u64);
    /// What is known of the devices of other servers' users: the keys are with those of this
    /// server's users.
    TRACKED_LISTS = TrackedLists "tracked_lists": UserNumber => Json<TrackedList>;
    /// Those of them that are to be fetched anew, by server.
    STALE_LISTS = StaleLists "stale_lists": (OwnedServerName, UserNumber) => ();
    /// Who left which room that was on several servers, at which stream position: perhaps no room
    /// is shared with somebody any more.
    DEPARTURES = Departures "departures": (u64, RoomNumber, UserNumber) => ();
    /// Messages that wait for devices on other servers: by server, stream position and a number, the
    /// content of an EDU.
    TO_DEVICE_OUT = ToDeviceOut "to_device_out" [Layout::TEXT]: (OwnedServerName, u64, u32) => Vec<u8>;
    /// Up to which stream position they were queued on a day, in days since the Unix epoch.
    TO_DEVICE_OUT_DAYS = ToDeviceOutDays "to_device_out_days": (OwnedServerName, u64) => u64;
    /// Messages between devices that other servers sent, by sender and ID, with the time at which
    /// they came, in ms since the Unix epoch: each counts once.
    TO_DEVICE_SEEN = ToDeviceSeen "to_device_seen": (OwnedUserId, String) => u64;
    /// The same by time.
    TO_DEVICE_SEEN_EXPIRY = ToDeviceSeenExpiry "to_device_seen_expiry":
        (u64, OwnedUserId, String) => ();
    /// Keys of other users that a user signed: by signer, stream position and owner of the key.
    USER_SIGNATURE_CHANGES = UserSignatureChanges "user_signature_changes" [Layout::NUMBERS.prefix(8)]:
        (UserNumber, u64, UserNumber) => ();
    /// Messages that wait for a device, by stream position: JSON with type, sender and content.
    TO_DEVICE = ToDevice "to_device" [Layout::TEXT.prefix(8)]: (UserNumber, OwnedDeviceId, u64) => Vec<u8>;
    /// The versions of a user's key backup, deleted ones too.
    BACKUP_VERSIONS = BackupVersions "backup_versions": (UserNumber, u64) => Json<BackupVersion>;
    /// Keys in a backup, by user, version, room and session: JSON, as uploaded.
    BACKUP_KEYS = BackupKeys "backup_keys" [Layout::TEXT.prefix(8)]:
        (UserNumber, u64, OwnedRoomId, String) => Vec<u8>;
    /// When users were last active. Written late and unsynced.
    LAST_SEEN = LastSeen "last_seen": UserNumber => Json<LastSeen>;
    /// A user's dehydrated device.
    DEHYDRATED_DEVICES = DehydratedDevices "dehydrated_devices": UserNumber => Json<Dehydrated>;
    /// Media by the server in its `mxc://` URI and its ID.
    MEDIA = Media "media" [Layout::TEXT]: (OwnedServerName, String) => Json<MediaRecord>;
    /// When somebody last wanted a media, in ms since the Unix epoch. Written late and unsynced.
    MEDIA_ACCESS = MediaAccess "media_access": (OwnedServerName, String) => u64;
    /// What a user uploaded, by time (ms since the Unix epoch) and media ID: size in bytes.
    USER_MEDIA = UserMedia "user_media" [Layout::NUMBERS.prefix(8)]: (UserNumber, u64, String) => u64;
    /// How much a user uploaded.
    MEDIA_USAGE = MediaUsage "media_usage": UserNumber => Json<Usage>;
    /// Media that users have announced and not uploaded: when they expire, in ms since the Unix epoch.
    PENDING_MEDIA = PendingMedia "pending_media" [Layout::NUMBERS.prefix(8)]: (UserNumber, String) => u64;
    /// What refers to a file, by the hash of its content. A file without a row may be deleted.
    BLOB_REFERENCES = BlobReferences "blob_references" [Layout::NUMBERS.prefix(32)]: ([u8; 32], String) => ();
    /// What the scanner said about files.
    BLOB_VERDICTS = BlobVerdicts "blob_verdicts": [u8; 32] => Json<VerdictRecord>;
    /// Thumbnails by the hash of the picture and their size.
    THUMBNAILS = Thumbnails "thumbnails" [Layout::TEXT.prefix(32)]: ([u8; 32], String) => Json<ThumbnailRecord>;
    /// What was found out about web pages, by the hash of their address.
    PREVIEWS = Previews "previews" [Layout::TEXT]: [u8; 32] => Json<PreviewRecord>;
    /// When a preview is forgotten (ms since the Unix epoch), and the media ID of its picture.
    PREVIEW_EXPIRY = PreviewExpiry "preview_expiry": (u64, [u8; 32], String) => ();
    /// What application services are to be told, by their ID, stream position, and place among what
    /// has the same one.
    APPSERVICE_QUEUE = AppserviceQueue "appservice_queue" [Layout::TEXT]: (String, u64, u32) => Json<Queued>;
    /// How far each application service is.
    APPSERVICES = Appservices "appservices" [Layout::TEXT]: String => Json<AppserviceProgress>;
    /// Transactions that application services have not acknowledged, by ID and number, in pieces.
    APPSERVICE_TRANSACTIONS = AppserviceTransactions "appservice_transactions" [Layout::TEXT]:
        ((String, u64), u32) => Vec<u8>;
    /// The rooms that application services list, by their ID and the network.
    APPSERVICE_ROOMS = AppserviceRooms "appservice_rooms": (String, String, RoomNumber) => ();
    /// What is kept from people: kind and what.
    QUARANTINE = Quarantine "quarantine": (String, String) => Json<QuarantineRecord>;

    // Tables of storage's own tests; they go last.
    @testing {
        /// Rows read one by one.
        TEST_ROWS = TestRows "test_rows": (u64, u64) => Vec<u8>;
        /// Rows read in ranges of one first part.
        TEST_RANGES = TestRanges "test_ranges" [Layout::TEXT.prefix(8)]: (u64, u64) => Vec<u8>;
        /// Rows by text of any length.
        TEST_TEXTS = TestTexts "test_texts": String => String;
        /// Large values in pieces.
        TEST_CHUNKS = TestChunks "test_chunks" [Layout::INCOMPRESSIBLE]: (u64, u32) => Vec<u8>;
    }
}
