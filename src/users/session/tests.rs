use ruma::user_id;

use super::{devices::MAX_DISPLAY_NAME_CHARS, *};

struct World {
    db: Db,
    clock: Clock,
    sessions: Sessions,
    user: UserNumber,
}

impl World {
    async fn new() -> Self {
        let (db, clock) = (Db::in_memory().await, Clock::manual(1_000_000));
        let sessions = Sessions::new(db.clone(), clock.clone(), Random::seeded(1));
        let user = db.users().intern(&db, user_id!("@alice:localhost")).await.unwrap();
        Self { db, clock, sessions, user }
    }

    /// The same database after a restart.
    fn restarted(&self) -> Sessions {
        Sessions::new(self.db.clone(), self.clock.clone(), Random::seeded(2))
    }

    async fn login(&self, device_id: Option<&str>, refresh: bool) -> Tokens {
        let new = NewSession {
            user: self.user,
            device_id: device_id.map(OwnedDeviceId::from),
            display_name: Some("phone".to_owned()),
            refresh,
            guest: false,
        };
        let mut batch = Batch::new();
        let (tokens, ended) = self.sessions.open(&mut batch, new).await.unwrap();
        self.sessions.commit(batch, ended).await.unwrap();
        tokens
    }

    async fn knows(&self, token: &str) -> bool {
        self.sessions.authenticate(token, &Caller::default()).await.is_ok()
    }

    async fn refresh(&self, tokens: &Tokens) -> Result<Tokens, AuthError> {
        self.sessions.refresh(tokens.refresh_token.as_deref().unwrap()).await
    }
}

#[tokio::test]
async fn a_token_opens_its_users_session_also_after_a_restart() {
    let world = World::new().await;
    let tokens = world.login(Some("PHONE"), false).await;
    for sessions in [&world.sessions, &world.restarted()] {
        let session =
            sessions.authenticate(&tokens.access_token, &Caller::default()).await.unwrap();
        assert_eq!(session.user_id, "@alice:localhost");
        assert_eq!(session.device_id, "PHONE");
    }
    assert!(!world.knows("myl_nonsense").await);
    assert!(!world.knows("").await);
}

#[tokio::test]
async fn the_token_itself_is_not_in_the_database() {
    let world = World::new().await;
    let tokens = world.login(None, true).await;
    let rows = TOKENS.scan(&world.db, &Range::all(), 10).await.unwrap();
    assert_eq!(rows.len(), 2);
    let text = format!("{rows:?}");
    assert!(!text.contains(&tokens.access_token));
    assert!(!text.contains(tokens.refresh_token.as_deref().unwrap()));
}

#[tokio::test]
async fn logging_in_again_on_a_device_ends_its_old_tokens_and_keeps_the_device() {
    let world = World::new().await;
    let first = world.login(Some("PHONE"), false).await;
    assert!(world.knows(&first.access_token).await);
    let second = world.login(Some("PHONE"), false).await;
    assert!(!world.knows(&first.access_token).await);
    assert!(world.knows(&second.access_token).await);
    assert_eq!(world.sessions.devices(world.user).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_removed_device_is_logged_out_at_once() {
    let world = World::new().await;
    let (phone, laptop) = (world.login(None, false).await, world.login(None, true).await);
    assert!(world.knows(&phone.access_token).await);
    world.sessions.remove_device(world.user, &phone.device_id).await.unwrap();
    assert!(!world.knows(&phone.access_token).await);
    assert!(world.knows(&laptop.access_token).await);
    world.sessions.remove_all(world.user, None).await.unwrap();
    assert!(!world.knows(&laptop.access_token).await);
    assert!(world.refresh(&laptop).await.is_err());
    assert!(TOKENS.scan(&world.db, &Range::all(), 9).await.unwrap().is_empty());
    assert!(DEVICE_TOKENS.scan(&world.db, &Range::all(), 9).await.unwrap().is_empty());
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#soft-logout>
#[tokio::test]
async fn an_expired_token_is_a_soft_logout_until_it_is_refreshed() {
    let world = World::new().await;
    let old = world.login(None, true).await;
    assert_eq!(old.expires_in, Some(ACCESS_TOKEN_LIFETIME));
    world.clock.advance(ACCESS_TOKEN_LIFETIME);
    for sessions in [&world.sessions, &world.restarted()] {
        let refused = sessions.authenticate(&old.access_token, &Caller::default()).await;
        assert!(matches!(refused, Err(AuthError::Unknown { soft_logout: true })));
    }
    let new = world.refresh(&old).await.unwrap();
    assert_eq!(new.device_id, old.device_id);
    assert!(world.knows(&new.access_token).await);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>
#[tokio::test]
async fn the_old_refresh_token_is_valid_until_a_new_token_is_used() {
    let world = World::new().await;
    let first = world.login(None, true).await;
    let lost = world.refresh(&first).await.unwrap();
    // The answer was lost: the client tries again, and the tokens it never saw are void.
    let second = world.refresh(&first).await.unwrap();
    assert!(!world.knows(&lost.access_token).await);
    assert!(world.refresh(&lost).await.is_err());
    assert!(world.knows(&first.access_token).await);
    // The new access token is used: the old tokens end.
    assert!(world.knows(&second.access_token).await);
    assert!(world.refresh(&first).await.is_err());
    assert!(!world.knows(&first.access_token).await);
    // Likewise when the new refresh token is used first.
    let third = world.refresh(&second).await.unwrap();
    let fourth = world.refresh(&third).await.unwrap();
    assert!(world.refresh(&second).await.is_err());
    assert!(!world.knows(&second.access_token).await);
    assert!(world.knows(&fourth.access_token).await);
    assert_eq!(TOKENS.scan(&world.db, &Range::all(), 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_refresh_token_opens_no_requests_and_an_access_token_refreshes_nothing() {
    let world = World::new().await;
    let tokens = world.login(None, true).await;
    assert!(!world.knows(tokens.refresh_token.as_deref().unwrap()).await);
    assert!(world.sessions.refresh(&tokens.access_token).await.is_err());
}

#[tokio::test]
async fn a_device_keeps_its_name_until_it_is_renamed() {
    let world = World::new().await;
    let tokens = world.login(Some("PHONE"), false).await;
    world.login(Some("PHONE"), false).await;
    let device = world.sessions.device(world.user, &tokens.device_id).await.unwrap().unwrap();
    assert_eq!(device.display_name.as_deref(), Some("phone"));
    let long = Some("x".repeat(5_000));
    assert!(world.sessions.rename_device(world.user, &tokens.device_id, long).await.unwrap());
    let device = world.sessions.device(world.user, &tokens.device_id).await.unwrap().unwrap();
    assert_eq!(device.display_name.unwrap().len(), MAX_DISPLAY_NAME_CHARS);
    assert!(!world.sessions.rename_device(world.user, "OTHER".into(), None).await.unwrap());
}
