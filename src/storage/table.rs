//! Typed tables over the engine's bytes.

use std::marker::PhantomData;

use super::{
    Batch, Read, StorageError,
    key::{AsKey, Key, Prefix},
    schema::TableId,
    value::Value,
};

/// A table with typed keys and values. Declared once, in [`super::schema`].
pub(crate) struct Table<K, V> {
    pub(crate) id: TableId,
    types: PhantomData<fn() -> (K, V)>,
}

/// Rows of a table with keys of type `K`, by the bytes of their keys.
#[derive(Clone, Debug)]
pub(crate) struct Range<K> {
    /// The first key.
    start: Vec<u8>,
    /// The first key that is past the range; none: up to the table's end.
    end: Option<Vec<u8>>,
    key: PhantomData<fn() -> K>,
}

impl<K> Range<K> {
    /// The whole table.
    pub(crate) fn all() -> Self {
        Self { start: Vec::new(), end: None, key: PhantomData }
    }

    /// All keys that begin with these parts.
    pub(crate) fn prefix(prefix: &impl Prefix<K>) -> Self {
        let mut start = Vec::new();
        prefix.encode_prefix(&mut start);
        let end = after_all_beginning_with(&start);
        Self { start, end, key: PhantomData }
    }

    /// All keys whose first part is a text that begins with `text`, which has no zero byte.
    pub(crate) fn text_beginning_with(text: &str) -> Self {
        let start = text.as_bytes().to_vec();
        let end = after_all_beginning_with(&start);
        Self { start, end, key: PhantomData }
    }

    /// Without what comes before `key`.
    #[must_use]
    pub(crate) fn from(mut self, key: &(impl AsKey<K> + ?Sized)) -> Self {
        let start = encoded(key);
        if start > self.start {
            self.start = start;
        }
        self
    }

    /// Without `key` and what comes before it.
    #[must_use]
    pub(crate) fn after(mut self, key: &(impl AsKey<K> + ?Sized)) -> Self {
        let mut start = encoded(key);
        start.push(0);
        if start > self.start {
            self.start = start;
        }
        self
    }

    /// Without what comes after `key`.
    #[must_use]
    pub(crate) fn upto(mut self, key: &(impl AsKey<K> + ?Sized)) -> Self {
        let mut end = encoded(key);
        end.push(0);
        if self.end.as_ref().is_none_or(|old| end < *old) {
            self.end = Some(end);
        }
        self
    }

    /// Without `key` and what comes after it.
    #[must_use]
    pub(crate) fn before(mut self, key: &(impl AsKey<K> + ?Sized)) -> Self {
        let end = encoded(key);
        if self.end.as_ref().is_none_or(|old| end < *old) {
            self.end = Some(end);
        }
        self
    }
}

/// The smallest key greater than all that begin with `prefix`; none if there is no such key.
pub(super) fn after_all_beginning_with(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

fn encoded<K>(key: &(impl AsKey<K> + ?Sized)) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    key.encode(&mut out);
    out
}

impl<K: Key, V: Value> Table<K, V> {
    /// The table behind `id`.
    pub(super) const fn new(id: TableId) -> Self {
        Self { id, types: PhantomData }
    }

    /// The value at `key`.
    pub(crate) async fn get(
        &self,
        at: &impl Read,
        key: &(impl AsKey<K> + ?Sized),
    ) -> Result<Option<V>, StorageError> {
        let bytes = at.get(self.id, &encoded(key)).await?;
        bytes.map(|bytes| self.value(&bytes)).transpose()
    }

    /// Whether there is a row at `key`.
    pub(crate) async fn contains(
        &self,
        at: &impl Read,
        key: &(impl AsKey<K> + ?Sized),
    ) -> Result<bool, StorageError> {
        Ok(at.get(self.id, &encoded(key)).await?.is_some())
    }

    /// The values at `keys`, in their order, in one round trip.
    pub(crate) async fn multi_get<Q: AsKey<K>>(
        &self,
        at: &impl Read,
        keys: impl IntoIterator<Item = Q>,
    ) -> Result<Vec<Option<V>>, StorageError> {
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| encoded(&key)).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let found = at.multi_get(self.id, &keys).await?;
        found.into_iter().map(|bytes| bytes.map(|bytes| self.value(&bytes)).transpose()).collect()
    }

    /// The first `limit` rows of `range`, in ascending order.
    pub(crate) async fn scan(
        &self,
        at: &impl Read,
        range: &Range<K>,
        limit: usize,
    ) -> Result<Vec<(K, V)>, StorageError> {
        self.rows(at.scan(self.id, &range.start, range.end.as_deref(), limit, false).await?)
    }

    /// The last `limit` rows of `range`, in descending order.
    pub(crate) async fn scan_back(
        &self,
        at: &impl Read,
        range: &Range<K>,
        limit: usize,
    ) -> Result<Vec<(K, V)>, StorageError> {
        self.rows(at.scan(self.id, &range.start, range.end.as_deref(), limit, true).await?)
    }

    /// Queues an insertion or replacement; nothing is visible before the batch commits.
    pub(crate) fn put(&self, batch: &mut Batch, key: &(impl AsKey<K> + ?Sized), value: &V) {
        batch.put(self.id, &|out| key.encode(out), &|out| value.to_bytes(out));
    }

    /// Queues a deletion.
    pub(crate) fn delete(&self, batch: &mut Batch, key: &(impl AsKey<K> + ?Sized)) {
        batch.delete(self.id, &|out| key.encode(out));
    }

    /// The batch fails if there is a row at `key` when it is its turn.
    pub(crate) fn require_absent(&self, batch: &mut Batch, key: &(impl AsKey<K> + ?Sized)) {
        batch.require(self.id, &|out| key.encode(out), None);
    }

    /// The batch fails unless the row at `key` holds just `value` when it is its turn.
    pub(crate) fn require_equals(
        &self,
        batch: &mut Batch,
        key: &(impl AsKey<K> + ?Sized),
        value: &V,
    ) {
        batch.require(self.id, &|out| key.encode(out), Some(&|out| value.to_bytes(out)));
    }

    fn value(&self, bytes: &[u8]) -> Result<V, StorageError> {
        V::from_bytes(bytes).ok_or(StorageError::Corrupt { table: self.id.name() })
    }

    fn rows(&self, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<(K, V)>, StorageError> {
        let corrupt = || StorageError::Corrupt { table: self.id.name() };
        rows.into_iter()
            .map(|(key, value)| {
                let mut rest = key.as_slice();
                let key = K::decode(&mut rest).ok_or_else(corrupt)?;
                if !rest.is_empty() {
                    return Err(corrupt());
                }
                Ok((key, self.value(&value)?))
            })
            .collect()
    }
}
