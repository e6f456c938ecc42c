//! Values above the size of a row, kept in pieces.

use super::{
    Batch, MAX_VALUE_BYTES, Range, Read, StorageError, Table,
    key::{Key, take},
    value::Value,
};

/// The first piece begins with the size of the whole.
const HEADER_BYTES: usize = size_of::<u64>();

/// A table whose values may be larger than a row: a key's pieces are rows one after the other.
/// A batch bounds how large, [`super::MAX_BATCH_BYTES`].
pub(crate) struct Chunks<K: 'static>(pub(crate) &'static Table<(K, u32), Vec<u8>>);

/// What a value begins with, out of its first piece.
pub(crate) fn beginning(first: &[u8]) -> Option<&[u8]> {
    first.get(HEADER_BYTES..)
}

impl<K: Key + Clone> Chunks<K> {
    /// The value at `key`, in one round trip.
    pub(crate) async fn get(
        &self,
        at: &impl Read,
        key: &K,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let pieces = self.0.scan(at, &Range::prefix(&(key,)), usize::MAX).await?;
        let mut pieces = pieces.into_iter().map(|(_, bytes)| bytes);
        let Some(first) = pieces.next() else { return Ok(None) };
        let corrupt = || StorageError::Corrupt { table: self.0.id.name() };
        let mut rest = first.as_slice();
        let size = take(&mut rest, HEADER_BYTES).and_then(u64::from_bytes).ok_or_else(corrupt)?;
        let mut value = rest.to_vec();
        value.extend(pieces.flatten());
        if u64::try_from(value.len()) != Ok(size) {
            return Err(corrupt());
        }
        Ok(Some(value))
    }

    /// Queues an insertion at a key that was never used.
    pub(crate) fn put_new(&self, batch: &mut Batch, key: &K, value: &[u8]) {
        self.put_pieces(batch, key, value);
    }

    #[cfg_attr(not(test), expect(dead_code, reason = "no table replaces values that large yet"))]
    /// Queues an insertion or replacement. Reads what is there now, to remove what the new value
    /// does not replace: nobody else may write this key until the batch is committed.
    pub(crate) async fn put(
        &self,
        at: &impl Read,
        batch: &mut Batch,
        key: &K,
        value: &[u8],
    ) -> Result<(), StorageError> {
        let count = self.put_pieces(batch, key, value);
        self.delete_from(at, batch, key, count).await
    }

    /// How many pieces there are.
    fn put_pieces(&self, batch: &mut Batch, key: &K, value: &[u8]) -> u32 {
        let mut whole = Vec::with_capacity(HEADER_BYTES + value.len());
        (value.len() as u64).to_bytes(&mut whole);
        whole.extend_from_slice(value);
        let mut count = 0;
        for piece in whole.chunks(MAX_VALUE_BYTES) {
            self.0.put(batch, &(key, count), &piece.to_vec());
            count += 1;
        }
        count
    }

    /// Queues a deletion, under the same condition as [`Chunks::put`].
    pub(crate) async fn delete(
        &self,
        at: &impl Read,
        batch: &mut Batch,
        key: &K,
    ) -> Result<(), StorageError> {
        self.delete_from(at, batch, key, 0).await
    }

    async fn delete_from(
        &self,
        at: &impl Read,
        batch: &mut Batch,
        key: &K,
        first: u32,
    ) -> Result<(), StorageError> {
        let range = Range::prefix(&(key,)).from(&(key, first));
        for (piece, _) in self.0.scan(at, &range, usize::MAX).await? {
            self.0.delete(batch, &piece);
        }
        Ok(())
    }
}
