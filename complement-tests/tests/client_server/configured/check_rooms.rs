//! `myelin check --rooms`: is what is stored about rooms what follows from their events?

use std::path::Path;
use std::process::{Command, Output};

use complement_tests::{Config, Server, homeserver_binary};
use serde_json::json;

use crate::crowd::come_and_go;

fn check(directory: &Path) -> Output {
    let mut command = Command::new(homeserver_binary());
    command.args(["check", "--rooms", "--config", "myelin.toml"]).current_dir(directory);
    command.output().expect("the binary runs")
}

/// Files of the database whose blocks have checksums.
fn tables(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tables(&path));
        } else if path.extension().is_some_and(|extension| extension == "sst") {
            found.push(path);
        }
    }
    found
}

/// What many did at once is what follows from the events, on the server and without it.
#[tokio::test]
async fn what_a_crowd_leaves_behind_is_sound() {
    let server = Server::start(&Config::default());
    let admin = server.register_admin("admin").await;
    let (_, room) = come_and_go(&server).await;
    let online = admin.post(["/_myelin/admin/v1/rooms", &room, "check"], json!({})).await.ok();
    assert_eq!(online["problems"], json!([]));
    assert!(online["events"].as_u64().unwrap() > 48, "{online}");
    let exit = server.terminate().await;
    assert_eq!(exit.status.code(), Some(0));
    let sound = check(server.directory());
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    assert_eq!(String::from_utf8_lossy(&sound.stdout), "1 rooms checked\n");
}

#[tokio::test]
async fn sound_rooms_pass_and_damaged_ones_are_told() {
    let server = Server::start(&Config::default());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for version in ["1", "6", "11", "12"] {
        let body = json!({ "preset": "public_chat", "room_version": version });
        let room = alice.create_room(body).await;
        bob.join(&room).await;
        for n in 0..20 {
            alice.say(&room, &format!("{n} {}", "words ".repeat(50))).await;
            alice.set_state(&room, "m.room.topic", "", json!({ "topic": n })).await;
        }
        bob.leave(&room).await;
    }
    // Not while a server has it open.
    let busy = check(server.directory());
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    let exit = server.terminate().await;
    assert_eq!(exit.status.code(), Some(0));

    let sound = check(server.directory());
    let told = String::from_utf8_lossy(&sound.stdout).into_owned();
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    assert_eq!(told, "4 rooms checked\n");

    // A disk that forgets: one byte of each table is another one.
    let tables = tables(server.directory());
    assert!(!tables.is_empty(), "a server that stops writes its tables");
    for table in tables {
        let mut bytes = std::fs::read(&table).unwrap();
        bytes[20] ^= 0x55;
        std::fs::write(&table, bytes).unwrap();
    }
    let damaged = check(server.directory());
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    let told = [&damaged.stdout[..], &damaged.stderr[..]].concat();
    let told = String::from_utf8_lossy(&told).to_lowercase();
    assert!(told.contains("corrupt") || told.contains("checksum"), "{told}");
}
