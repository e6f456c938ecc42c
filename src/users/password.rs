//! Hashing passwords: argon2id, off the threads that answer requests, few at a time.
//!
//! The threads are hashing's own and keep the megabytes that a hash needs. Allocated anew for each
//! hash, they would leave hundreds of megabytes with the allocator, which splits what was freed.

use std::sync::{Arc, mpsc};

use parking_lot::Mutex;

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use tokio::sync::{Semaphore, oneshot};

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
    /// What the threads have yet to do. They end when this is dropped.
    jobs: mpsc::Sender<Job>,
    waiting: Semaphore,
    /// A hash that no password has, of the usual cost.
    nobodys: String,
}

/// Something to do on a thread of hashing's own.
type Job = Box<dyn FnOnce(&mut Memory) + Send>;

/// What a hash is computed in; it grows to the largest cost it was ever used for.
type Memory = Vec<Block>;

/// Starts as many threads as there are processors.
fn start_threads() -> Result<mpsc::Sender<Job>, std::io::Error> {
    let (sender, receiver) = mpsc::channel::<Job>();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        let receiver = Arc::clone(&receiver);
        std::thread::Builder::new().name("password".to_owned()).spawn(move || {
            let mut memory = Memory::new();
            loop {
                // The lock is held while waiting: whoever has it takes the next job.
                let job = receiver.lock().recv();
                let Ok(job) = job else { return };
                // Whoever waits for a job that panicked is told by its dropped channel.
                let work = std::panic::AssertUnwindSafe(|| job(&mut memory));
                let _ = std::panic::catch_unwind(work);
            }
        })?;
    }
    Ok(sender)
}

impl Passwords {
    /// Hashing at the configured cost.
    ///
    /// # Errors
    /// [`PasswordError::Hash`] if argon2 has no such cost, or no thread can be started.
    pub(crate) fn new(settings: &config::Password, random: Random) -> Result<Self, PasswordError> {
        let params = Params::new(settings.argon2_memory_kib, settings.argon2_iterations, 1, None)
            .map_err(broken)?;
        let nobodys = hash(&params, &random.bytes::<32>(), &random.bytes(), &mut Memory::new())?;
        let jobs =
            start_threads().map_err(|error| PasswordError::Hash { reason: error.to_string() })?;
        let waiting = Semaphore::new(MAX_WAITING);
        Ok(Self { shared: Arc::new(Shared { params, random, jobs, waiting, nobodys }) })
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
        let params = self.shared.params.clone();
        self.off_thread(move |memory| hash(&params, password.as_bytes(), &salt, memory)).await?
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
        self.off_thread(move |memory| Ok(fits(password.as_bytes(), &hash, memory)? && known))
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
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _waiting = self.shared.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let (done, result) = oneshot::channel();
        let job = move |memory: &mut Memory| {
            // Nobody waits any more for a request that was given up: then there is nothing to do.
            if !done.is_closed() {
                let _ = done.send(work(memory));
            }
        };
        self.shared.jobs.send(Box::new(job)).map_err(|_| broken("the threads are gone"))?;
        result.await.map_err(|_| broken("the thread broke"))
    }
}

fn broken(error: impl std::fmt::Display) -> PasswordError {
    PasswordError::Hash { reason: error.to_string() }
}

/// The argon2id hash of a password as a PHC string.
fn hash(
    params: &Params,
    password: &[u8],
    salt: &[u8; 16],
    memory: &mut Memory,
) -> Result<String, PasswordError> {
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(broken)?,
        salt: Some(Salt::new(salt).map_err(broken)?),
        hash: Some(output(params, password, salt, memory)?),
    };
    Ok(hash.to_string())
}

/// Whether `password` is the one behind a PHC string, at the cost that it was made with.
fn fits(password: &[u8], hash: &str, memory: &mut Memory) -> Result<bool, PasswordError> {
    let parsed = PasswordHash::new(hash).map_err(broken)?;
    let params = Params::try_from(&parsed).map_err(broken)?;
    let (Some(salt), Some(expected)) = (&parsed.salt, &parsed.hash) else {
        return Err(broken("a stored hash lacks its salt or itself"));
    };
    // Outputs are compared in constant time.
    Ok(output(&params, password, salt, memory)? == *expected)
}

fn output(
    params: &Params,
    password: &[u8],
    salt: &[u8],
    memory: &mut Memory,
) -> Result<Output, PasswordError> {
    if memory.len() < params.block_count() {
        memory.resize(params.block_count(), Block::default());
    }
    let mut bytes = [0; Params::DEFAULT_OUTPUT_LEN];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into_with_memory(password, salt, &mut bytes, memory.as_mut_slice())
        .map_err(broken)?;
    Output::new(&bytes).map_err(broken)
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
