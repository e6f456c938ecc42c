//! Puts the areas together. Nothing else knows them all.

use std::sync::Arc;

use axum::{Router, extract::FromRef};

use crate::{
    api::router,
    appservice::{Appservices, delivery::Deliveries, registry::RegistrationError},
    clock::{Clock, Random},
    config::{Config, RateLimits},
    content::{Content, OpenError, RemoteMedia},
    e2ee::{Backups, DehydratedDevices, E2ee, Keys, RemoteKeys, ToDevice},
    federation::{
        FederatedKeys, FederatedMedia, Federation, FederationStartError,
        exchange::{Besides, Exchange},
    },
    identity::IdentityServers,
    outgoing::{Outgoing, OutgoingError},
    previews::Previews,
    push::{Delivery, PushRules, Pushers, Unread, Vapid, mails::Mails},
    rooms::{
        Overviews, Profile, Rooms,
        delayed::DelayedEvents,
        keys::ServerKey,
        receipts::{Audiences, Receipts},
        typing::Typing,
    },
    shutdown::Stopping,
    storage::{Db, StorageError},
    sync::{Sliding, Streams, Sync},
    users::{
        AccountData, AccountError, Accounts, Filters, Profiles, activity, limits::Limits,
        presence::Presence, session::Sessions,
    },
};

/// A homeserver, ready to answer requests.
pub(crate) struct Server {
    areas: Areas,
}

/// What handlers may ask for with `State`. Every layer of every request has a handle to it.
#[derive(Clone)]
pub(crate) struct Areas(Arc<Parts>);

macro_rules! areas {
    ($($field:ident: $area:ty),* $(,)?) => {
        struct Parts {
            $($field: $area,)*
        }

        $(impl FromRef<Areas> for $area {
            fn from_ref(areas: &Areas) -> Self {
                areas.0.$field.clone()
            }
        })*
    };
}

areas! {
    config: Arc<Config>,
    federation: Federation,
    exchange: Exchange,
    identity: IdentityServers,
    db: Db,
    clock: Clock,
    sessions: Sessions,
    accounts: Accounts,
    appservices: Appservices,
    profiles: Profiles,
    account_data: AccountData,
    push_rules: PushRules,
    pushers: Pushers,
    unread: Unread,
    vapid: Vapid,
    filters: Filters,
    rooms: Rooms,
    overviews: Overviews,
    delayed: DelayedEvents,
    typing: Typing,
    receipts: Receipts,
    sync: Arc<Sync>,
    streams: Streams,
    sliding: Sliding,
    keys: Keys,
    to_device: ToDevice,
    backups: Backups,
    dehydrated_devices: DehydratedDevices,
    presence: Presence,
    content: Content,
    previews: Previews,
}

impl Areas {
    /// Whether other servers are answered.
    pub(crate) fn is_federating(&self) -> bool {
        self.0.federation.is_enabled()
    }

    /// Whether what is synced may be pushed as well.
    pub(crate) fn has_streams(&self) -> bool {
        self.0.config.sync.streams
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Accounts can't be served as configured, or not be read.
    #[error("cannot serve accounts")]
    Accounts(#[from] AccountError),
    /// Other servers can't be talked to as configured.
    #[error("cannot talk to other servers")]
    Federation(#[from] FederationStartError),
    /// What must be read at start can't be.
    #[error("cannot read the database")]
    Storage(#[from] StorageError),
    /// The content repository can't be opened.
    #[error(transparent)]
    Content(#[from] OpenError),
    /// The registration files of application services can't be followed.
    #[error(transparent)]
    Appservices(#[from] RegistrationError),
    /// Requests can't be made as configured.
    #[error("cannot make requests")]
    Outgoing(#[from] OutgoingError),
}

impl Server {
    /// Puts the areas together over `db`, and goes on with what was interrupted.
    ///
    /// # Errors
    /// [`StartError`] if a setting can't be followed or what must be read at start can't be.
    pub(crate) async fn start(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        stopping: Stopping,
    ) -> Result<Self, StartError> {
        let outgoing = Outgoing::new(&config.outgoing).map_err(FederationStartError::from)?;
        let federation =
            Federation::new(config, db.clone(), clock.clone(), random.clone(), &outgoing).await?;
        Self::start_with(config, db, clock, random, stopping, federation).await
    }

    /// The same, with a way to reach other servers.
    ///
    /// # Errors
    /// [`StartError`].
    #[expect(clippy::too_many_lines, reason = "a list of the areas, in the order of their needs")]
    pub(crate) async fn start_with(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        stopping: Stopping,
        federation: Federation,
    ) -> Result<Self, StartError> {
        let sessions = Sessions::new(db.clone(), clock.clone(), random.clone());
        let outgoing = Outgoing::new(&config.outgoing)?;
        let files = &config.appservice.registrations;
        let appservices =
            Appservices::new(files, &config.server_name, db.clone(), &outgoing).await?;
        sessions.let_in(appservices.clone());
        let accounts = Accounts::new(
            config,
            db.clone(),
            clock.clone(),
            random.clone(),
            sessions.clone(),
            appservices.clone(),
        )?;
        accounts.make_bots().await?;
        accounts.resume_closing().await.map_err(AccountError::from)?;
        tokio::spawn(activity::keep_writing(sessions.clone(), stopping.clone()));
        let mails =
            accounts.mailer().and_then(|mailer| Mails::new(mailer, &config.email_notifications));
        let pushers = Pushers::new(db.clone(), clock.clone(), random.clone(), outgoing.clone())
            .by_mail(mails.is_some());
        let remote = FederatedMedia::new(federation.clone(), outgoing.clone())?;
        let remote: Option<Arc<dyn RemoteMedia>> = Some(Arc::new(remote));
        let content = Content::open(config, db.clone(), clock.clone(), random.clone(), remote)?;
        tokio::spawn(content.clone().keep_up(stopping.clone()));
        let previews =
            Previews::new(config, db.clone(), clock.clone(), content.clone(), outgoing.clone())?;
        tokio::spawn(previews.clone().keep_up(stopping.clone()));
        let profiles = Profiles::new(db.clone());
        let key = ServerKey::load(&db, &random, &config.server_name).await?;
        let rooms = Rooms::new(
            db.clone(),
            clock.clone(),
            random.clone(),
            key,
            member_profiles(&profiles),
            config.into(),
        );
        rooms.tell(appservices.clone());
        keep_up(&rooms, &content, &stopping);
        let delayed = DelayedEvents::start(rooms.clone(), config, stopping.clone()).await?;
        let typing = Typing::new(db.clone());
        let receipts =
            Receipts::new(db.clone(), clock.clone()).telling_deliveries(&config.receipts);
        let e2ee = encryption(&db, &clock, &random, &federation, &config.rate_limits);
        let E2ee { keys, to_device } = e2ee.clone();
        tokio::spawn(keys.clone().keep_lists(stopping.clone()));
        let presence = Presence::new(db.clone(), clock.clone(), config.presence.clone());
        tokio::spawn(presence.clone().keep_telling(stopping.clone()));
        to_device.tell(appservices.clone());
        receipts.tell(audiences(&rooms));
        let deliveries = Deliveries {
            appservices: appservices.clone(),
            rooms: rooms.clone(),
            typing: typing.clone(),
            presence: presence.clone(),
            keys: keys.clone(),
            clock: clock.clone(),
        };
        tokio::spawn(deliveries.run(stopping.clone()));
        let forgetting = (keys.clone(), presence.clone(), pushers.clone());
        sessions.when_removed(Box::new(move |user, device| {
            forgetting.0.forget_counts([(user, device)]);
            forgetting.1.forget(user, device);
            forgetting.2.tell(user);
        }));
        let dehydrated_devices = DehydratedDevices::new(
            db.clone(),
            clock.clone(),
            sessions.clone(),
            keys.clone(),
            to_device.clone(),
        );
        let identity =
            IdentityServers::new(config, &outgoing, federation.clone(), db.clone(), clock.clone())?;
        tokio::spawn(identity.clone().keep_unbinding(stopping.clone()));
        rooms.ask_policy_servers(federation.policy_servers());
        let exchange = Exchange::new(
            federation.clone(),
            rooms.clone(),
            Besides::new(&typing, &receipts, &presence, &e2ee, &identity),
            db.clone(),
            clock.clone(),
            stopping.clone(),
        );
        tokio::spawn(exchange.clone().run());
        let telling = exchange.clone();
        presence.when_told(Box::new(move |users| telling.tell_presence(users)));
        let push_rules = PushRules::new(AccountData::new(db.clone()));
        let unread = Unread::new(db.clone(), rooms.clone(), push_rules.clone());
        let vapid = Vapid::load(&db, &format!("https://{}", config.server_name)).await?;
        let delivery = Delivery::new(
            db.clone(),
            rooms.clone(),
            unread.clone(),
            pushers.clone(),
            &outgoing,
            vapid.clone(),
            mails,
            clock.clone(),
            random,
            stopping.clone(),
        )?;
        deliver(delivery, &receipts);
        let sync = Arc::new(Sync::new(
            db.clone(),
            rooms.clone(),
            typing.clone(),
            receipts.clone(),
            e2ee,
            unread.clone(),
            presence.clone(),
            sessions.clone(),
            stopping,
        ));
        Ok(Self {
            areas: Areas(Arc::new(Parts {
                config: Arc::new(config.clone()),
                federation,
                exchange,
                identity,
                clock,
                sessions,
                accounts,
                appservices,
                profiles,
                push_rules,
                pushers,
                unread,
                vapid,
                account_data: AccountData::new(db.clone()),
                filters: Filters::new(db.clone()),
                overviews: Overviews::new(rooms.clone()),
                rooms,
                delayed,
                typing,
                receipts,
                sliding: Sliding::new(sync.clone()),
                streams: Streams::new(sync.clone(), &config.sync),
                sync,
                keys,
                backups: Backups::new(db.clone()),
                dehydrated_devices,
                presence,
                to_device,
                content,
                previews,
                db,
            })),
        })
    }

    /// A registration token for whoever starts the server for the first time: made once, if
    /// registering takes a token and none is configured.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn first_registration_token(&self) -> Result<Option<String>, StorageError> {
        self.areas.0.accounts.first_registration_token().await
    }

    /// Reads the registration files of application services anew; nothing changes if something is
    /// wrong with them.
    ///
    /// # Errors
    /// [`StartError`] with what is wrong.
    pub(crate) async fn reload_appservices(&self, config: &Config) -> Result<(), StartError> {
        self.areas.0.appservices.reload(&config.appservice.registrations).await?;
        Ok(self.areas.0.accounts.make_bots().await?)
    }

    /// Other servers.
    #[cfg(test)]
    pub(crate) fn federation(&self) -> &Federation {
        &self.areas.0.federation
    }

    /// Its rooms.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn rooms(&self) -> &Rooms {
        &self.areas.0.rooms
    }

    /// Every endpoint.
    pub(crate) fn router(&self) -> Router {
        router::routes(self.areas.clone())
    }
}

/// Keys, and messages between devices.
fn encryption(
    db: &Db,
    clock: &Clock,
    random: &Random,
    federation: &Federation,
    limits: &RateLimits,
) -> E2ee {
    let others = || Arc::new(FederatedKeys::new(federation.clone())) as Arc<dyn RemoteKeys>;
    let is_federating = federation.is_enabled();
    let name = federation.server_name();
    let (clock, random) = (clock.clone(), random.clone());
    E2ee {
        keys: Keys::new(db.clone(), name, is_federating.then(others)),
        to_device: ToDevice::new(db.clone(), clock.clone(), random, name, is_federating)
            .limited_by(Limits::new(limits, clock)),
    }
}

/// Which application services the receipts of rooms concern.
fn audiences(rooms: &Rooms) -> Audiences {
    let rooms = rooms.clone();
    Box::new(move |room| {
        let rooms = rooms.clone();
        Box::pin(async move { rooms.concerned(room).await })
    })
}

/// Has pushers told of what happens and of what is read.
fn deliver(delivery: Delivery, receipts: &Receipts) {
    let telling = delivery.clone();
    receipts.when_read(Box::new(move |user, room| {
        let telling = telling.clone();
        tokio::spawn(async move { telling.was_read(user, room).await });
    }));
    tokio::spawn(delivery.run());
}

/// Starts what is done about rooms in the background.
fn keep_up(rooms: &Rooms, content: &Content, stopping: &Stopping) {
    tokio::spawn(rooms.clone().run_profile_updates());
    tokio::spawn(rooms.clone().run_closed_accounts());
    tokio::spawn(rooms.clone().run_upkeep());
    let freed = Arc::clone(rooms.media_freed());
    tokio::spawn(content.clone().remove_unreferenced(freed, stopping.clone()));
}

/// Names and pictures for member events.
fn member_profiles(profiles: &Profiles) -> crate::rooms::Profiles {
    let profiles = profiles.clone();
    Box::new(move |user| {
        let profiles = profiles.clone();
        Box::pin(async move {
            let profile = profiles.get(user).await?;
            Ok(Profile { displayname: profile.displayname, avatar_url: profile.avatar_url })
        })
    })
}
