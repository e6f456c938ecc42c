//! Five servers in a room while the network between them fails and they crash: when all is well
//! again they agree, and nothing that was acknowledged is missing.
//!
//! Each run follows from its seed. Time is the runtime's, which does not pass but jumps to what
//! comes next: hours of pauses take no time.

mod agreement;
mod devices;

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::{
    federation::testing::faults::{Dice, Weather},
    storage::{
        Range,
        schema::{
            DEVICE_LIST_OUTBOX, DEVICE_LISTS_WAITING, OUTBOX, PARTIAL_ROOMS, STAGED, TO_DEVICE_OUT,
            UNTAKEN, WAITING,
        },
    },
};

/// How many servers there are. Those below [`STAYING`] have a user who never goes and whom nobody
/// throws out: they must know everything in the end.
const SERVERS: usize = 5;
const STAYING: usize = 3;
/// How many checks for quiet, half a minute each, there are before it never comes.
const PATIENCE: usize = 2_000;

struct Member {
    config: crate::config::Config,
    /// None only while it restarts.
    server: Option<TestServer>,
    user: TestUser,
    mail: devices::Mail,
}

struct World {
    seed: u64,
    dice: Dice,
    network: Network,
    weather: Weather,
    clock: Clock,
    members: Vec<Member>,
    room: String,
    /// Events that a client of a server was told were sent.
    acknowledged: Vec<(usize, String)>,
    /// Messages between devices that a client was told were sent.
    written: Vec<devices::Written>,
    sent: usize,
    restarts: u64,
}

/// Runs `events` changes under the weather of `seed`, then checks what is left.
fn simulate(seed: u64, events: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed).await;
        world.weather.set_calm(false);
        for at in 0..events {
            if at == events / 4 {
                // From here on those who came in without most members may learn who they are.
                world.network.lose(None);
            }
            world.step().await;
        }
        world.heal().await;
        world.check().await;
        world.check_devices().await;
        // The network knows the servers, and they know the network.
        for member in &world.members {
            world.network.disconnect(&member.config.server_name);
        }
    });
}

impl World {
    async fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let network = Network::default();
        let weather = Weather::over(network.clone(), seed + 1);
        let clock = Clock::of_runtime(START_MS);
        let mut members = Vec::new();
        for number in 0..SERVERS {
            let config = config(&format!("s{number}.example"));
            let link = weather.link(&config.server_name);
            let (db, number) = (Db::in_memory().await, number as u64);
            let server =
                TestServer::reaching(link, &config, db, clock.clone(), seed * 10 + number).await;
            network.connect(&config.server_name, server.server.router());
            let user = server.register("user").await;
            members.push(Member {
                config,
                server: Some(server),
                user,
                mail: devices::Mail::default(),
            });
        }
        let mut world = Self {
            seed,
            dice,
            network,
            weather,
            clock,
            members,
            room: String::new(),
            acknowledged: Vec::new(),
            written: Vec::new(),
            sent: 0,
            restarts: 0,
        };
        world.begin().await;
        world
    }

    /// The room, with everybody in it.
    async fn begin(&mut self) {
        let version = *self.dice.pick(&["1", "2", "6", "9", "10", "11", "12"]);
        let mut users: BTreeMap<&str, u64> =
            [(&*self.user(1).user_id, 100), (&*self.user(2).user_id, 50)].into();
        if version != "12" {
            users.insert(&self.user(0).user_id, 100);
        }
        let body = json!({
            "preset": "public_chat", "room_version": version,
            "power_level_content_override": {
                "users": users, "state_default": 0,
                "events": { "m.room.power_levels": 50, "m.room.join_rules": 50 },
            },
        });
        self.room = room(self.server(0), self.user(0), body).await;
        if self.seed.is_multiple_of(2) {
            self.network.lose(Some("/_matrix/federation/v1/state_ids"));
        }
        for at in 1..SERVERS {
            self.join(at).await;
            self.check_timeline(0).await;
        }
        self.settle().await;
    }

    fn server(&self, at: usize) -> &TestServer {
        self.members.get(at).unwrap().server.as_ref().unwrap()
    }

    fn user(&self, at: usize) -> &TestUser {
        &self.members.get(at).unwrap().user
    }

    fn name(&self, at: usize) -> &ServerName {
        &self.members.get(at).unwrap().config.server_name
    }

    /// Below `end`.
    fn roll(&self, end: usize) -> usize {
        usize::try_from(self.dice.roll(end as u64)).unwrap()
    }

    fn path(&self, rest: &str) -> String {
        format!("/v3/rooms/{}/{rest}", self.room)
    }

    /// A request may be refused, or find nobody who answers; it must not break.
    fn note(&mut self, at: usize, what: &str, (status, answer): &(StatusCode, Value)) {
        assert_ne!(
            *status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "seed {}: {what} on {}: {answer}",
            self.seed,
            self.name(at),
        );
        if *status == StatusCode::OK
            && let Some(event) = answer["event_id"].as_str()
        {
            self.acknowledged.push((at, event.to_owned()));
        }
    }

    async fn put(&mut self, at: usize, what: &str, content: Value) -> StatusCode {
        let answer = self.server(at).put(&self.path(what), self.user(at), content).await;
        self.note(at, what, &answer);
        answer.0
    }

    async fn post(&mut self, at: usize, what: &str, body: Value) -> StatusCode {
        let answer = self.server(at).post(&self.path(what), Some(self.user(at)), body).await;
        self.note(at, what, &answer);
        answer.0
    }

    async fn join(&mut self, at: usize) -> (StatusCode, Value) {
        let path = format!("/v3/join/{}?via=s0.example&via=s1.example", self.room);
        let answer = self.server(at).post(&path, Some(self.user(at)), json!({})).await;
        self.note(at, "join", &answer);
        answer
    }

    async fn say(&mut self, at: usize) -> StatusCode {
        self.sent += 1;
        let content = json!({ "msgtype": "m.text", "body": format!("{}", self.sent) });
        self.put(at, &format!("send/m.room.message/t{}", self.sent), content).await
    }

    /// Something that a user does, then some time.
    async fn step(&mut self) {
        let actor = self.roll(SERVERS);
        let strong = self.roll(STAYING);
        let weak = STAYING + self.roll(SERVERS - STAYING);
        let target = json!({ "user_id": self.user(weak).user_id });
        match self.dice.roll(100) {
            0..50 => drop(self.say(actor).await),
            50..62 => {
                self.sent += 1;
                let content = json!({ "topic": format!("topic {}", self.sent) });
                self.put(actor, "state/m.room.topic/", content).await;
            }
            62..72 => {
                self.sent += 1;
                let key = self.roll(3);
                let content = json!({ "value": self.sent });
                self.put(actor, &format!("state/org.example.slot/{key}"), content).await;
            }
            72..78 => {
                let path = self.path("state/m.room.power_levels/");
                let (_, mut levels) = self.server(strong).get(&path, Some(self.user(strong))).await;
                let whom = self.user(2 + self.roll(SERVERS - 2)).user_id.clone();
                levels["users"][whom] = json!(*self.dice.pick(&[0, 10, 50]));
                self.put(strong, "state/m.room.power_levels/", levels).await;
            }
            78..82 => {
                if !self.acknowledged.is_empty() {
                    let (_, event) = self.dice.pick(&self.acknowledged);
                    let event = event.replace('/', "%2F").replace('+', "%2B");
                    self.sent += 1;
                    let what = format!("redact/{event}/r{}", self.sent);
                    self.put(actor, &what, json!({})).await;
                }
            }
            82..86 => drop(self.post(weak, "leave", json!({})).await),
            86..92 => drop(self.join(weak).await),
            92..94 => drop(self.post(strong, "kick", target).await),
            94..95 => drop(self.post(strong, "ban", target).await),
            95..97 => drop(self.post(strong, "unban", target).await),
            _ => {
                let rule = *self.dice.pick(&["public", "invite"]);
                let content = json!({ "join_rule": rule });
                self.put(strong, "state/m.room.join_rules/", content).await;
            }
        }
        self.devices_step().await;
        match self.dice.roll(100) {
            0..4 => {
                let side = |at: usize| (self.name(at).to_owned(), self.dice.roll(2));
                self.weather.split((0..SERVERS).map(side).collect());
            }
            4..10 => self.weather.split(HashMap::new()),
            10..12 => {
                let at = self.roll(SERVERS);
                self.check_timeline(at).await;
                self.restart(at).await;
            }
            12..15 => tokio::time::sleep(Duration::from_secs(self.dice.roll(1_000))).await,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(self.dice.roll(4_000))).await;
    }

    /// A server crashes: what it had on disk is what it goes on with.
    async fn restart(&mut self, at: usize) {
        self.restarts += 1;
        let name = self.name(at).to_owned();
        self.weather.crash(&name);
        self.network.disconnect(&name);
        let link = self.weather.link(&name);
        let seed = self.seed * 1_000_003 + self.restarts;
        let member = self.members.get_mut(at).unwrap();
        let db = member.server.take().unwrap().crashed().await;
        let server = TestServer::reaching(link, &member.config, db, self.clock.clone(), seed).await;
        self.network.connect(&name, server.server.router());
        member.server = Some(server);
        self.check_timeline(at).await;
    }

    /// Waits until every server knows all of the room.
    async fn become_whole(&self) {
        for _ in 0..PATIENCE {
            let mut is_whole = true;
            for at in 0..SERVERS {
                let db = &self.server(at).db;
                let rows = PARTIAL_ROOMS.scan(db, &Range::all(), usize::MAX).await.unwrap();
                is_whole &= rows.iter().all(|(_, row)| row.0.whole_since.is_some());
            }
            if is_whole {
                return;
            }
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        panic!("seed {}: not all servers know all of the room", self.seed);
    }

    /// Waits until nothing is on its way any more.
    async fn settle(&self) {
        for _ in 0..PATIENCE {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let mut is_quiet = true;
            for at in 0..SERVERS {
                let db = &self.server(at).db;
                is_quiet &= OUTBOX.scan(db, &Range::all(), 1).await.unwrap().is_empty()
                    && WAITING.scan(db, &Range::all(), 1).await.unwrap().is_empty()
                    && STAGED.scan(db, &Range::all(), 1).await.unwrap().is_empty()
                    && TO_DEVICE_OUT.scan(db, &Range::all(), 1).await.unwrap().is_empty()
                    && UNTAKEN.scan(db, &Range::all(), 1).await.unwrap().is_empty()
                    && DEVICE_LIST_OUTBOX.scan(db, &Range::all(), 1).await.unwrap().is_empty()
                    && DEVICE_LISTS_WAITING.scan(db, &Range::all(), 1).await.unwrap().is_empty();
            }
            if is_quiet {
                return;
            }
        }
        panic!("seed {}: the queues are never empty", self.seed);
    }

    /// The weather clears up, everybody comes back, and says something.
    async fn heal(&mut self) {
        self.network.lose(None);
        self.weather.set_calm(true);
        self.weather.split(HashMap::new());
        self.settle().await;
        // What the others soft-failed of a server becomes part of the room with its next event.
        for strong in 0..STAYING {
            self.say(strong).await;
            self.settle().await;
        }
        // Each may have been refused or lost its power to the others' changes, but not to this one.
        let content = json!({ "join_rule": "public" });
        assert_eq!(self.put(0, "state/m.room.join_rules/", content).await, StatusCode::OK);
        for weak in STAYING..SERVERS {
            let whom = self.user(weak).user_id.clone();
            let is = membership(self.server(0), self.user(0), &self.room, &whom).await;
            if is == "ban" {
                let body = json!({ "user_id": whom });
                assert_eq!(self.post(0, "unban", body).await, StatusCode::OK);
            }
        }
        self.settle().await;
        for weak in STAYING..SERVERS {
            let whom = &self.user(weak).user_id;
            let there = membership(self.server(0), self.user(0), &self.room, whom).await;
            let here = self.server(weak).get("/v3/joined_rooms", Some(self.user(weak))).await.1;
            let here = here["joined_rooms"].as_array().is_some_and(|rooms| !rooms.is_empty());
            // Who is out on one side only comes in anew, as they would by hand.
            if there != "join" || !here {
                self.post(weak, "leave", json!({})).await;
                self.settle().await;
                let (status, answer) = self.join(weak).await;
                assert_eq!(status, StatusCode::OK, "seed {}: {answer}", self.seed);
            }
        }
        self.settle().await;
        self.become_whole().await;
        self.settle().await;
        for at in 0..SERVERS {
            let said = self.say(at).await;
            assert_eq!(said, StatusCode::OK, "seed {}, {}", self.seed, self.name(at));
            self.settle().await;
        }
    }
}

/// How many changes a run of the ordinary tests makes: most are short, some long.
fn usual_length(seed: u64) -> usize {
    match seed % 10 {
        0 => 200,
        1..4 => 80,
        _ => 30,
    }
}

macro_rules! seeds {
    ($($name:ident: $seeds:expr;)*) => {$(
        #[test]
        fn $name() {
            for seed in $seeds {
                simulate(seed, usual_length(seed));
            }
        }
    )*};
}

// In parts, so that they run side by side.
seeds! {
    servers_agree_after_bad_weather_1: 0..25;
    servers_agree_after_bad_weather_2: 25..50;
    servers_agree_after_bad_weather_3: 50..75;
    servers_agree_after_bad_weather_4: 75..100;
}

/// As many runs as `MYELIN_SIMULATION_SEEDS` says (2,000 unless it is set) from seed
/// `MYELIN_SIMULATION_FIRST` (1,000) on, of `MYELIN_SIMULATION_EVENTS` changes (2,000), as many at
/// the same time as there are processors. All are run, and those that fail are named.
#[test]
#[ignore = "takes hours"]
fn servers_agree_after_very_bad_weather() {
    let setting = |name: &str, usual: u64| -> u64 {
        std::env::var(name).map_or(usual, |value| value.parse().unwrap())
    };
    let first = setting("MYELIN_SIMULATION_FIRST", 1_000);
    let events = usize::try_from(setting("MYELIN_SIMULATION_EVENTS", 2_000)).unwrap();
    let end = first + setting("MYELIN_SIMULATION_SEEDS", 2_000);
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            match std::panic::catch_unwind(|| simulate(seed, events)) {
                Ok(()) => println!("seed {seed}: {events} events, all agree"),
                Err(_) => failed.lock().push(seed),
            }
        }
    };
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    assert_eq!(*failed.lock(), [0_u64; 0], "of {events} events");
}
