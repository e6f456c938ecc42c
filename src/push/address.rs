//! Pushers that tell by mail: to whom, and how whoever gets it stops it without logging in.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::pushers::{Kind, PusherError, PusherKey, Pushers, queue_removal};
use crate::{
    clock::Random,
    storage::{
        Batch, Db, Json, Range, StorageError,
        intern::UserNumber,
        schema::{PUSH_SECRETS, PUSHERS, USER_THREEPIDS},
    },
    users::threepid::{EMAIL, normalised_email},
};

/// The key's name in `push_secrets`.
const UNSUBSCRIBE: &str = "unsubscribe";
/// Bytes of the key, and of what is made with it.
const KEY_BYTES: usize = 32;

/// Requires that a pushkey is an address of the user, also when the batch is committed.
pub(super) async fn require(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    pushkey: &str,
) -> Result<(), PusherError> {
    let address = normalised_email(pushkey).ok_or(PusherError::ForeignAddress)?;
    let key = (user, EMAIL, address.as_str());
    let row = USER_THREEPIDS.get(db, &key).await?.ok_or(PusherError::ForeignAddress)?;
    USER_THREEPIDS.require_equals(batch, &key, &row);
    Ok(())
}

/// Queues the removal of the pushers that send mail to an address, which its user gives up. The
/// batch fails if they change in the meantime.
///
/// # Errors
/// [`StorageError`] if the database fails.
pub(crate) async fn queue_address_removal(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    address: &str,
) -> Result<(), StorageError> {
    for (key, Json(pusher)) in PUSHERS.scan(db, &Range::prefix(&(user,)), usize::MAX).await? {
        if pusher.kind == Kind::Email && normalised_email(&key.2).as_deref() == Some(address) {
            queue_removal(db, batch, &key).await?;
        }
    }
    Ok(())
}

impl Pushers {
    /// The address of the user that a pusher sends mail to; none if it is not theirs.
    pub(super) async fn address(&self, key: &PusherKey) -> Result<Option<String>, StorageError> {
        let Some(address) = normalised_email(&key.2) else { return Ok(None) };
        let row = USER_THREEPIDS.get(&self.db, &(key.0, EMAIL, address.as_str())).await?;
        Ok(row.map(|_| address))
    }

    /// What a link carries by which a pusher is removed.
    pub(super) async fn unsubscribe_token(&self, key: &PusherKey) -> Result<String, StorageError> {
        let mut token = key.0.0.to_be_bytes().to_vec();
        token.extend_from_slice(&mac(&self.secret().await?, key).finalize().into_bytes());
        Ok(BASE64.encode(token))
    }

    /// Removes the pusher that a link was made for; nothing happens if it is gone already.
    ///
    /// # Errors
    /// [`PusherError::Invalid`] if it was made for none.
    pub(crate) async fn unsubscribe(&self, token: &str) -> Result<(), PusherError> {
        let broken = PusherError::Invalid("this link is broken");
        let Ok(token) = BASE64.decode(token) else { return Err(broken) };
        let Some((user, given)) = token.split_first_chunk() else { return Err(broken) };
        if given.len() != KEY_BYTES {
            return Err(broken);
        }
        let user = UserNumber(u64::from_be_bytes(*user));
        let secret = self.secret().await?;
        for (key, pusher) in self.of_user(user).await? {
            let fits = mac(&secret, &key).verify_slice(given).is_ok();
            if fits && pusher.kind == Kind::Email {
                self.remove(&key).await?;
            }
        }
        Ok(())
    }

    /// The key of these links, made the first time.
    async fn secret(&self) -> Result<Vec<u8>, StorageError> {
        secret(&self.db, &self.random).await
    }
}

async fn secret(db: &Db, random: &Random) -> Result<Vec<u8>, StorageError> {
    if let Some(secret) = PUSH_SECRETS.get(db, UNSUBSCRIBE).await? {
        return Ok(secret);
    }
    let new = random.bytes::<KEY_BYTES>().to_vec();
    let mut batch = Batch::new();
    PUSH_SECRETS.require_absent(&mut batch, UNSUBSCRIBE);
    PUSH_SECRETS.put(&mut batch, UNSUBSCRIBE, &new);
    match db.commit(batch).await {
        Ok(()) => Ok(new),
        // Somebody else made one at the same time.
        Err(error @ StorageError::Precondition { .. }) => {
            PUSH_SECRETS.get(db, UNSUBSCRIBE).await?.ok_or(error)
        }
        Err(error) => Err(error),
    }
}

fn mac(secret: &[u8], (user, app_id, pushkey): &PusherKey) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC accepts keys of any length");
    mac.update(&user.0.to_be_bytes());
    // Neither can hold a zero byte in its place: an address has none, and the app ID is fixed.
    for part in [app_id, pushkey] {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    mac
}
