//! Records as bytes.
//!
//! Variable-length integers: the format, the depth, whether there is a parent and whether the
//! record is whole, the parent, and for each entry the distance from the last key with a bit for
//! removal, and the distance from the last event. States list members in the order in which they
//! came, so both distances tend to be small.

use super::{Change, Record, SnapshotError, SnapshotId};
use crate::ids::{EventIx, KeyIx, NONE};

const FORMAT: u64 = 1;
const HAS_PARENT: u64 = 1;
const WHOLE: u64 = 2;

impl Record {
    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + 4 * self.entries.len());
        write(&mut bytes, FORMAT);
        write(&mut bytes, self.depth);
        let parent_flag = if self.parent.is_some() { HAS_PARENT } else { 0 };
        write(&mut bytes, parent_flag | if self.whole { WHOLE } else { 0 });
        if let Some(parent) = self.parent {
            write(&mut bytes, parent.0);
        }
        let (mut last_key, mut last_event) = (0, 0_i64);
        for (key, event) in &self.entries {
            let distance = u64::from(key.0.wrapping_sub(last_key));
            last_key = key.0;
            write(&mut bytes, distance << 1 | u64::from(event.is_none()));
            if let Some(event) = event {
                let number = i64::from(event.0);
                write(&mut bytes, zigzag(number - last_event));
                last_event = number;
            }
        }
        bytes
    }

    /// The parent of the record that begins with these bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Malformed`] if none begins so.
    pub fn parent_in(beginning: &[u8]) -> Result<Option<SnapshotId>, SnapshotError> {
        Ok(Self::head(&mut Reader { bytes: beginning, at: 0 })?.parent)
    }

    /// What comes before the entries.
    fn head(reader: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        if reader.number()? != FORMAT {
            return Err(SnapshotError::Malformed(0));
        }
        let depth = reader.number()?;
        let flags = reader.number()?;
        if flags > HAS_PARENT | WHOLE {
            return Err(reader.malformed());
        }
        let parent =
            if flags & HAS_PARENT != 0 { Some(SnapshotId(reader.number()?)) } else { None };
        let whole = flags & WHOLE != 0;
        // The first state of a tree has no parent and is whole, all others have one: following
        // parents always comes to an end.
        if parent.is_none() != (depth == 0) || (depth == 0 && !whole) {
            return Err(reader.malformed());
        }
        Ok(Self { depth, parent, whole, entries: Vec::new() })
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// [`SnapshotError::Malformed`] for bytes that [`Record::to_bytes`] does not make.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut reader = Reader { bytes, at: 0 };
        let Self { depth, parent, whole, .. } = Self::head(&mut reader)?;
        let mut entries: Vec<Change> = Vec::new();
        let (mut last_key, mut last_event) = (0_u64, 0_i64);
        while reader.at < bytes.len() {
            let number = reader.number()?;
            let (distance, removed) = (number >> 1, number & 1 != 0);
            let key = last_key.checked_add(distance).and_then(|key| u32::try_from(key).ok());
            let key = key.filter(|_| entries.is_empty() || distance > 0);
            let key = key.ok_or_else(|| reader.malformed())?;
            last_key = u64::from(key);
            let event = if removed {
                None
            } else {
                let event = last_event.checked_add(unzigzag(reader.number()?));
                let event = event.and_then(|event| u32::try_from(event).ok());
                let event = event.filter(|event| *event != NONE);
                let event = event.ok_or_else(|| reader.malformed())?;
                last_event = i64::from(event);
                Some(EventIx(event))
            };
            entries.push((KeyIx(key), event));
        }
        Ok(Self { depth, parent, whole, entries })
    }
}

fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

/// Small numbers of either sign as small numbers.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn number(&mut self) -> Result<u64, SnapshotError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.malformed())?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has one bit left, and no number ends in an empty byte.
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return Err(self.malformed());
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.malformed())
    }

    fn malformed(&self) -> SnapshotError {
        SnapshotError::Malformed(self.at)
    }
}
