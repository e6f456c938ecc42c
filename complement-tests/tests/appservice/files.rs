//! Registration files: checked before the server starts, read again while it runs.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#registration>

use complement_tests::{Appservice, Server};
use serde_json::json;

use crate::{config_with, server_with};

#[tokio::test]
async fn check_and_start_name_what_is_wrong_with_files() {
    let (one, two) = (Appservice::start("one", "").await, Appservice::start("two", "").await);
    let config = config_with(&[&one, &two]);
    assert!(Server::run(&config, &["check"]).await.status.success());
    two.write(&one.registration("").replace("_one_.*", "_one_(.*"));
    let exit = Server::run(&config, &["check"]).await;
    assert!(!exit.status.success());
    assert!(exit.output.contains("appservice.registrations[1]"), "{}", exit.output);
    assert!(exit.output.contains("namespaces.users"), "{}", exit.output);
    two.write(&one.registration(""));
    for command in ["check", "serve"] {
        let exit = Server::run(&config, &[command]).await;
        assert!(!exit.status.success());
        for what in [one.path(), two.path(), "the id \"one\"".to_owned(), "as_token".to_owned()] {
            assert!(exit.output.contains(&what), "{what}: {}", exit.output);
        }
        assert!(!exit.output.contains(&one.as_token()), "tokens are no one's business");
    }
    std::fs::remove_file(two.path()).unwrap();
    let exit = Server::run(&config, &["check"]).await;
    assert!(!exit.status.success() && exit.output.contains(&two.path()), "{}", exit.output);
}

#[tokio::test]
async fn files_are_read_again_without_a_restart() {
    let (one, two) = (Appservice::start("one", "").await, Appservice::start("two", "").await);
    let server = server_with(&[&one]);
    two.bot(&server).get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    let files = vec![toml::Value::from(one.path()), two.path().into()];
    server.configure(|config| config.with("appservice.registrations", files));
    server.hang_up();
    server.wait_for_log(|log| {
        log.contains("registrations of application services read again").then_some(())
    });
    let room = two.bot(&server).create_room(json!({})).await;
    two.item("events", |event| event["room_id"] == room.as_str()).await;

    // A file that is wrong changes nothing.
    one.write("id: [");
    server.hang_up();
    server.wait_for_log(|log| log.contains("registrations not read again").then_some(()));
    one.bot(&server).get("account/whoami").await.ok();

    // One that is taken out is no longer let in.
    one.write(&one.registration(""));
    let files = vec![toml::Value::from(one.path())];
    server.configure(|config| config.with("appservice.registrations", files));
    server.hang_up();
    server.wait_for_log(|log| {
        (log.matches("registrations of application services read again").count() == 2).then_some(())
    });
    two.bot(&server).get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    one.bot(&server).create_room(json!({})).await;
}

#[tokio::test]
async fn limits_of_rate_spare_those_that_the_file_spares() {
    let slow = Appservice::start("slow", "rate_limited: true").await;
    let fast = Appservice::start("fast", "rate_limited: false").await;
    let config = config_with(&[&slow, &fast])
        .with("rate_limits.enabled", true)
        .with("rate_limits.upload_user.burst", 2)
        .with("rate_limits.upload_user.per_minute", 1);
    let server = Server::start(&config);
    for (who, spared) in [
        (slow.ghost(&server, "a").await, false),
        (slow.bot(&server), true),
        (fast.ghost(&server, "a").await, true),
    ] {
        let mut last = 200;
        for _ in 0..4 {
            last = who.post("/_matrix/media/v1/create", json!({})).await.status;
        }
        assert_eq!(last == 200, spared, "{}", who.user_id);
    }
}
