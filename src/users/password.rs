//! Hashing passwords: argon2id, off the threads that answer requests, few at a time.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use tokio::sync::Semaphore;

use crate::{clock::Random, config};

/// The longest password: hashing reads all of it.
pub(crate) const MAX_PASSWORD_BYTES: usize = 512;
/// How many may wait for their turn: more than this answer late anyway.
const MAX_WAITING: usize = 256;

/// Why a password was not hashed or compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// It is empty.
    #[error("the password is empty")]
    Empty,
    /// It is too long.
    #[error("a password may have at most {MAX_PASSWORD_BYTES} bytes")]
    TooLong,
    /// Too many others wait already.
    #[error("too many passwords are being checked")]
    Busy,
    /// The configured cost is impossible, or the hashing thread broke.
    #[error("cannot hash a password: {reason}")]
    Hash {
        /// What the hash function said.
        reason: String,
    },
}

/// Hashes and compares passwords.
#[derive(Clone)]
pub(crate) struct Passwords {
    shared: Arc<Shared>,
}

struct Shared {
    params: Params,
    random: Random,
    /// One permit per processor.
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    /// A hash that no password has, of the usual cost.
    nobodys: String,
}

impl Passwords {
    /// Hashing at the configured cost.
    ///
    /// # Errors
    /// [`PasswordError::Hash`] if argon2 has no such cost.
    pub(crate) fn new(settings: &config::Password, random: Random) -> Result<Self, PasswordError> {
        let params = Params::new(settings.argon2_memory_kib, settings.argon2_iterations, 1, None)
            .map_err(|error| PasswordError::Hash { reason: error.to_string() })?;
        let nobodys = hash(&params, &random.bytes::<32>(), &random.bytes())?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            shared: Arc::new(Shared {
                params,
                random,
                turns: Arc::new(Semaphore::new(processors)),
                waiting: Semaphore::new(MAX_WAITING),
                nobodys,
            }),
        })
    }

    /// The hash of a new password, as a PHC string.
    ///
    /// # Errors
    /// [`PasswordError`]: empty, too long, or too many others wait.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::TooLong);
        }
        let password = password.to_owned();
        let salt = self.shared.random.bytes();
        self.off_thread(move |shared| hash(&shared.params, password.as_bytes(), &salt)).await?
    }

    /// Whether `password` is the one behind `hash`. Without a hash it is not, after the same time.
    ///
    /// # Errors
    /// [`PasswordError::Busy`] if too many others wait.
    pub(crate) async fn verify(
        &self,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool, PasswordError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        let password = password.to_owned();
        let known = hash.is_some();
        let hash = hash.unwrap_or(&self.shared.nobodys).to_owned();
        self.off_thread(move |_| {
            let parsed = PasswordHash::new(&hash)
                .map_err(|error| PasswordError::Hash { reason: error.to_string() })?;
            // The cost is the one the hash was made with.
            let same = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
            Ok(same && known)
        })
        .await?
    }

    /// Whether `hash` was made at another cost than the one configured now.
    pub(crate) fn is_outdated(&self, hash: &str) -> bool {
        let Ok(parsed) = PasswordHash::new(hash) else { return true };
        Params::try_from(&parsed).is_ok_and(|params| {
            (params.m_cost(), params.t_cost())
                != (self.shared.params.m_cost(), self.shared.params.t_cost())
        })
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _waiting = self.shared.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let broken =
            |error: &dyn std::error::Error| PasswordError::Hash { reason: error.to_string() };
        let turn = Arc::clone(&self.shared.turns).acquire_owned().await;
        let turn = turn.map_err(|error| broken(&error))?;
        let shared = Arc::clone(&self.shared);
        // The turn goes along: a request that is given up does not end the work it began.
        let work = move || {
            let _turn = turn;
            work(&shared)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| broken(&error))
    }
}

fn hash(params: &Params, password: &[u8], salt: &[u8; 16]) -> Result<String, PasswordError> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_with_salt(password, salt)
        .map(|hash| hash.to_string())
        .map_err(|error| PasswordError::Hash { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords(memory: u32) -> Passwords {
        let settings = config::Password { argon2_memory_kib: memory, argon2_iterations: 1 };
        Passwords::new(&settings, Random::seeded(1)).unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_fits_its_hash() {
        let passwords = passwords(64);
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
        assert!(passwords.verify("correct horse", Some(&hash)).await.unwrap());
        assert!(!passwords.verify("battery staple", Some(&hash)).await.unwrap());
        assert!(!passwords.verify("correct horse", None).await.unwrap());
        assert_ne!(passwords.hash("correct horse").await.unwrap(), hash);
    }

    #[tokio::test]
    async fn a_hash_of_another_cost_still_fits_and_is_known_as_outdated() {
        let old = passwords(64).hash("secret").await.unwrap();
        let passwords = passwords(128);
        assert!(passwords.verify("secret", Some(&old)).await.unwrap());
        assert!(passwords.is_outdated(&old));
        assert!(!passwords.is_outdated(&passwords.hash("secret").await.unwrap()));
    }

    #[tokio::test]
    async fn length_is_bounded() {
        let passwords = passwords(64);
        assert!(matches!(passwords.hash("").await, Err(PasswordError::Empty)));
        assert!(matches!(passwords.hash(&"x".repeat(513)).await, Err(PasswordError::TooLong)));
        assert!(!passwords.verify(&"x".repeat(1 << 20), None).await.unwrap());
    }
}
