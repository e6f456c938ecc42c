//! Values as bytes.

use serde::{Serialize, de::DeserializeOwned};

use super::key::{Key, take};

/// A value that a table can hold.
pub(crate) trait Value: Sized {
    /// Appends the encoded value.
    fn to_bytes(&self, out: &mut Vec<u8>);
    /// Reads the value back; `None` if the bytes are no such value.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// A value kept as JSON: records that are read one at a time, away from hot paths, and may grow
/// fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize + DeserializeOwned> Value for Json<T> {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, &self.0)
            .expect("stored records have string keys only and a Vec takes every write");
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self)
    }
}

impl Value for () {
    fn to_bytes(&self, _out: &mut Vec<u8>) {}

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

impl Value for u64 {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

impl Value for Vec<u8> {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

impl Value for String {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

macro_rules! identifier_value {
    ($($owned:ty),* $(,)?) => {$(
        impl Value for $owned {
            fn to_bytes(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_bytes());
            }

            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                std::str::from_utf8(bytes).ok()?.try_into().ok()
            }
        }
    )*};
}

identifier_value!(
    ruma::OwnedEventId,
    ruma::OwnedRoomId,
    ruma::OwnedServerName,
    ruma::OwnedUserId,
    ruma::OwnedDeviceId,
);

/// Two values of fixed size, one after the other.
impl<A: Key, B: Key> Value for (A, B) {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let pair = (A::decode(&mut bytes)?, B::decode(&mut bytes)?);
        bytes.is_empty().then_some(pair)
    }
}

/// Reads a length-prefixed (`u32`, big-endian) part.
pub(crate) fn take_part<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::decode(input)?;
    take(input, len.try_into().ok()?)
}
