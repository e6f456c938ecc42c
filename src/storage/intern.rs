//! Short numbers for long identifiers. Tables hold the numbers; identifiers appear at the edge.

use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId};
use tokio::sync::Mutex;

use super::{
    Batch, Db, StorageError,
    key::{AsKey, Key, number},
    schema::{META, ROOM_IDS, ROOM_NUMBERS, USER_IDS, USER_NUMBERS},
    table::Table,
    value::Value,
};

number! {
    /// Stands for a user ID, local or remote.
    UserNumber
}
number! {
    /// Stands for a room ID.
    RoomNumber
}

impl UserNumber {
    /// No user has it: whoever sends to other servers waits under this number for what there is to
    /// be sent.
    pub(crate) const FOR_OTHER_SERVERS: Self = Self(u64::MAX);
    /// No user's: whoever waits for it is woken by every event.
    pub(crate) const EVERYBODY: Self = Self(0);
}

/// How many numbers are reserved at a time.
const BLOCK: u64 = 1_000;
/// How many identifiers are kept in memory, each way.
const CACHED: usize = 50_000;

/// The numbers of one kind of identifier.
pub(crate) struct Interner<I: 'static, N: 'static> {
    numbers: &'static Table<I, N>,
    names: &'static Table<N, I>,
    counter_key: &'static str,
    to_number: Cache<I, N>,
    to_name: Cache<N, I>,
    /// Next number and the ceiling on disk; none until first used.
    counter: Mutex<Option<(u64, u64)>>,
}

/// The numbers of users.
pub(crate) type UserNumbers = Interner<OwnedUserId, UserNumber>;
/// The numbers of rooms.
pub(crate) type RoomNumbers = Interner<OwnedRoomId, RoomNumber>;

impl UserNumbers {
    pub(super) fn of_users() -> Self {
        Self::new(&USER_NUMBERS, &USER_IDS, "ceiling.user_numbers")
    }
}

impl RoomNumbers {
    pub(super) fn of_rooms() -> Self {
        Self::new(&ROOM_NUMBERS, &ROOM_IDS, "ceiling.room_numbers")
    }
}

impl<I, N> Interner<I, N>
where
    I: Key + Value + Clone + Eq + std::hash::Hash + Send + Sync + 'static,
    N: Key + Value + Copy + From<u64> + Eq + std::hash::Hash + Send + Sync + 'static,
{
    fn new(
        numbers: &'static Table<I, N>,
        names: &'static Table<N, I>,
        counter_key: &'static str,
    ) -> Self {
        Self {
            numbers,
            names,
            counter_key,
            to_number: Cache::new(CACHED),
            to_name: Cache::new(CACHED),
            counter: Mutex::new(None),
        }
    }

    /// The number of `id`, if it ever got one.
    pub(crate) async fn find<Q>(&self, db: &Db, id: &Q) -> Result<Option<N>, StorageError>
    where
        Q: AsKey<I> + ToOwned<Owned = I> + Eq + std::hash::Hash + ?Sized,
        I: std::borrow::Borrow<Q>,
    {
        if let Some(number) = self.to_number.get(id) {
            return Ok(Some(number));
        }
        let found = self.numbers.get(db, &id).await?;
        if let Some(number) = found {
            self.to_number.insert(id.to_owned(), number);
        }
        Ok(found)
    }

    /// The number of `id`, given now if it has none.
    ///
    /// The rows go out in an unsynced batch of their own. The log keeps its order, so they are on
    /// disk with the first synced batch that refers to them.
    pub(crate) async fn intern<Q>(&self, db: &Db, id: &Q) -> Result<N, StorageError>
    where
        Q: AsKey<I> + ToOwned<Owned = I> + Eq + std::hash::Hash + ?Sized,
        I: std::borrow::Borrow<Q>,
    {
        loop {
            if let Some(number) = self.find(db, id).await? {
                return Ok(number);
            }
            match self.give(db, id).await {
                // Somebody else was faster.
                Err(StorageError::Precondition { .. }) => (),
                result => return result,
            }
        }
    }

    /// Gives `id` the next number, if it has none.
    async fn give<Q>(&self, db: &Db, id: &Q) -> Result<N, StorageError>
    where
        Q: AsKey<I> + ToOwned<Owned = I> + Eq + std::hash::Hash + ?Sized,
        I: std::borrow::Borrow<Q>,
    {
        let owned = id.to_owned();
        let mut batch = Batch::unsynced();
        let mut counter = self.counter.lock().await;
        let (next, ceiling) = match *counter {
            Some((next, ceiling)) if next < ceiling => (next, ceiling),
            _ => {
                let start = match META.get(db, self.counter_key).await? {
                    Some(bytes) => u64::from_bytes(&bytes)
                        .ok_or(StorageError::Corrupt { table: META.id.name() })?,
                    None => 1,
                };
                let mut bytes = Vec::new();
                (start + BLOCK).to_bytes(&mut bytes);
                // A batch of its own, since the other may be refused. It goes first, and if it
                // fails so does everything after it.
                let mut ceiling = Batch::unsynced();
                META.put(&mut ceiling, self.counter_key, &bytes);
                drop(db.enqueue(ceiling));
                (start, start + BLOCK)
            }
        };
        let number = N::from(next);
        self.numbers.require_absent(&mut batch, &owned);
        self.numbers.put(&mut batch, &owned, &number);
        self.names.put(&mut batch, &number, &owned);
        let queued = db.enqueue(batch);
        // The number is gone from here on, even if this future is dropped before the outcome.
        *counter = Some((next + 1, ceiling));
        queued.await?;
        self.to_number.insert(owned.clone(), number);
        self.to_name.insert(number, owned);
        Ok(number)
    }

    /// Takes the number away from `id`: it gets another when it is next met. What the number stands
    /// for can still be read.
    pub(crate) async fn release<Q>(&self, db: &Db, id: &Q, number: N) -> Result<(), StorageError>
    where
        Q: AsKey<I> + ToOwned<Owned = I> + Eq + std::hash::Hash + ?Sized,
        I: std::borrow::Borrow<Q>,
    {
        if self.numbers.get(db, &id).await? == Some(number) {
            let mut batch = Batch::new();
            self.numbers.delete(&mut batch, &id);
            db.commit(batch).await?;
        }
        self.to_number.remove(id);
        Ok(())
    }

    /// The identifier that `number` stands for.
    pub(crate) async fn name(&self, db: &Db, number: N) -> Result<I, StorageError> {
        if let Some(id) = self.to_name.get(&number) {
            return Ok(id);
        }
        let id = self
            .names
            .get(db, &number)
            .await?
            .ok_or(StorageError::Corrupt { table: self.names.id.name() })?;
        self.to_name.insert(number, id.clone());
        Ok(id)
    }

    /// The identifiers that `numbers` stand for, in their order.
    pub(crate) async fn names(&self, db: &Db, numbers: &[N]) -> Result<Vec<I>, StorageError> {
        let mut found: Vec<Option<I>> =
            numbers.iter().map(|number| self.to_name.get(number)).collect();
        let missing: Vec<N> = numbers
            .iter()
            .zip(&found)
            .filter_map(|(number, id)| id.is_none().then_some(*number))
            .collect();
        if !missing.is_empty() {
            let read = self.names.multi_get(db, missing.iter().copied()).await?;
            let mut read = missing.into_iter().zip(read);
            for slot in found.iter_mut().filter(|slot| slot.is_none()) {
                if let Some((number, Some(id))) = read.next() {
                    self.to_name.insert(number, id.clone());
                    *slot = Some(id);
                }
            }
        }
        found
            .into_iter()
            .map(|id| id.ok_or(StorageError::Corrupt { table: self.names.id.name() }))
            .collect()
    }
}
