//! Two users of the Rust SDK talk in an encrypted room through the homeserver at `HOMESERVER_URL`, which
//! is killed meanwhile. They sync as Element X does: one connection of simplified sliding sync for
//! the list of rooms, another one for encryption.
//!
//! The test that starts this program controls the server: `ask("kill")` and `ask("start")` print a
//! request and wait until it is answered on standard input.

#![recursion_limit = "512"]

use std::{collections::BTreeMap, error::Error, io::stdin, time::Duration};

use futures_util::StreamExt as _;
use matrix_sdk::{
    Client, Room, RoomState,
    ruma::{
        OwnedRoomId,
        api::client::{
            account::register,
            room::create_room::v3::{Request as NewRoom, RoomPreset},
            uiaa::{AuthData, Dummy},
        },
        events::{
            InitialStateEvent, room::encryption::RoomEncryptionEventContent,
            room::message::RoomMessageEventContent,
        },
    },
};
use matrix_sdk_ui::{
    sync_service::SyncService,
    timeline::{RoomExt as _, Timeline},
};
use tokio::{task::spawn_blocking, time::timeout};

type Anything<T> = Result<T, Box<dyn Error>>;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(100);

/// A user on a device that syncs all the time.
struct Person {
    name: &'static str,
    client: Client,
    sync: SyncService,
}

impl Person {
    async fn register(name: &'static str, homeserver: &str) -> Anything<Self> {
        let client = Client::builder().homeserver_url(homeserver).build().await?;
        let mut request = register::v3::Request::new();
        request.username = Some(format!("{name}-{}", std::process::id()));
        request.password = Some("a good password".to_owned());
        let auth = client.matrix_auth();
        let challenge =
            auth.register(request.clone()).await.err().ok_or("registered without proof")?;
        let mut proof = Dummy::new();
        proof.session = challenge.as_uiaa_response().ok_or("no stages")?.session.clone();
        request.auth = Some(AuthData::Dummy(proof));
        auth.register(request).await?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        // Comes back by itself when the server does.
        let sync = SyncService::builder(client.clone()).with_offline_mode().build().await?;
        sync.start().await;
        Ok(Self { name, client, sync })
    }

    /// A room, once it has come by sync and the user is this to it.
    async fn room(&self, id: &OwnedRoomId, state: RoomState) -> Anything<Room> {
        let mut updates = self.client.subscribe_to_all_room_updates();
        let found = async {
            loop {
                if let Some(room) = self.client.get_room(id).filter(|room| room.state() == state) {
                    return room;
                }
                // One that was overlooked since there were too many is found by looking again.
                updates.recv().await.ok();
            }
        };
        let room = timeout(PATIENCE, found).await.map_err(|_| "the room did not come")?;
        println!("{}: sees the room ({state:?})", self.name);
        Ok(room)
    }

    /// What the user sees of a room: all of it that comes from now on.
    async fn watch(&self, room: &Room) -> Anything<Timeline> {
        self.sync.room_list_service().subscribe_to_rooms(&[room.room_id()]).await;
        Ok(room.timeline().await?)
    }

    /// Waits until these messages can be read, each once: new ones come by sync, and what came before
    /// those is asked for.
    async fn reads(&self, timeline: &Timeline, wanted: &[&str]) -> Anything<()> {
        let (_, mut changes) = timeline.subscribe().await;
        loop {
            let mut read = BTreeMap::<String, usize>::new();
            for item in timeline.items().await {
                let message = item.as_event().and_then(|event| event.content().as_message());
                if let Some(message) = message {
                    *read.entry(message.body().to_owned()).or_default() += 1;
                }
            }
            if let Some((twice, _)) = read.iter().find(|(_, times)| **times > 1) {
                return Err(format!("{} reads {twice:?} more than once", self.name).into());
            }
            if wanted.iter().all(|body| read.contains_key(*body)) {
                println!("{}: has read {wanted:?}", self.name);
                return Ok(());
            }
            // A timeline that begins anew, as after a connection is lost, begins with the latest.
            if !timeline.paginate_backwards(20).await? {
                continue;
            }
            let change = timeout(PATIENCE, changes.next()).await;
            change
                .map_err(|_| format!("{} has read {read:?} instead of {wanted:?}", self.name))?
                .ok_or("the timeline ended")?;
        }
    }
}

async fn say(room: &Room, body: &str) -> Anything<()> {
    room.send(RoomMessageEventContent::text_plain(body)).await?;
    Ok(())
}

/// Has the test do something.
async fn ask(what: &str) -> Anything<()> {
    println!("please {what}");
    let answer = spawn_blocking(|| {
        let mut line = String::new();
        stdin().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await??;
    if answer.trim_end() == format!("done {what}") { Ok(()) } else { Err(answer.into()) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Anything<()> {
    let homeserver = std::env::var("HOMESERVER_URL")?;
    let alice = Person::register("alice", &homeserver).await?;
    let bob = Person::register("bob", &homeserver).await?;

    let mut new = NewRoom::new();
    new.preset = Some(RoomPreset::TrustedPrivateChat);
    new.invite = vec![bob.client.user_id().ok_or("logged out")?.to_owned()];
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    new.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let room = alice.client.create_room(new).await?.room_id().to_owned();
    bob.room(&room, RoomState::Invited).await?.join().await?;
    let hers = alice.room(&room, RoomState::Joined).await?;
    let his = bob.room(&room, RoomState::Joined).await?;
    for room in [&hers, &his] {
        assert!(room.latest_encryption_state().await?.is_encrypted());
    }
    let she_sees = alice.watch(&hers).await?;
    let he_sees = bob.watch(&his).await?;

    say(&hers, "hello bob").await?;
    bob.reads(&he_sees, &["hello bob"]).await?;
    say(&his, "hello alice").await?;
    alice.reads(&she_sees, &["hello bob", "hello alice"]).await?;

    ask("kill").await?;
    // Waits with her until the server is there again.
    let later = RoomMessageEventContent::text_plain("said while it was away");
    hers.send_queue().send(later.into()).await?;
    ask("start").await?;
    alice.client.send_queue().set_enabled(true).await;
    bob.reads(&he_sees, &["hello bob", "hello alice", "said while it was away"]).await?;
    say(&his, "welcome back").await?;
    let all = ["hello bob", "hello alice", "said while it was away", "welcome back"];
    alice.reads(&she_sees, &all).await?;
    bob.reads(&he_sees, &all).await?;
    println!("conversation complete");
    Ok(())
}
