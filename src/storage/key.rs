//! Keys as bytes: big-endian and prefix-free, so that byte order is the order of the parts and a
//! range over the first parts of a key finds just the rows that begin with them.

use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    OwnedTransactionId, OwnedUserId,
};

/// Something that can stand for a key of type `K`: the owned key, or a borrowed form of it.
pub(crate) trait AsKey<K> {
    /// Appends the encoded key.
    fn encode(&self, out: &mut Vec<u8>);
}

/// A key that can be read back from its bytes.
pub(crate) trait Key: AsKey<Self> + Sized {
    /// Takes the key from the front of `input`; `None` if the bytes are no such key.
    fn decode(input: &mut &[u8]) -> Option<Self>;
}

/// The first parts of a key of type `K`.
pub(crate) trait Prefix<K> {
    /// Appends the encoded parts.
    fn encode_prefix(&self, out: &mut Vec<u8>);
}

/// Splits `len` bytes off the front.
pub(crate) fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(head)
}

impl<K, T: AsKey<K> + ?Sized> AsKey<K> for &T {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl AsKey<()> for () {
    fn encode(&self, _out: &mut Vec<u8>) {}
}

impl Key for () {
    fn decode(_input: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

macro_rules! unsigned_key {
    ($($int:ty),*) => {$(
        impl AsKey<$int> for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }
        impl Key for $int {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                take(input, size_of::<$int>())?.try_into().ok().map(<$int>::from_be_bytes)
            }
        }
    )*};
}

unsigned_key!(u8, u16, u32, u64);

/// The sign bit is flipped, so that negative numbers come first.
impl AsKey<i64> for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self ^ i64::MIN).to_be_bytes());
    }
}

impl Key for i64 {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        take(input, 8)?.try_into().ok().map(|bytes| i64::from_be_bytes(bytes) ^ i64::MIN)
    }
}

/// A SHA-256 digest, or another value of just that size.
impl AsKey<[u8; 32]> for [u8; 32] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Key for [u8; 32] {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        take(input, 32)?.try_into().ok()
    }
}

/// Text ends with `00 00` and a zero within it becomes `00 FF`: no text's encoding begins another's,
/// and byte order is the order of the texts.
fn encode_text(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    if bytes.contains(&0) {
        for byte in bytes {
            out.push(*byte);
            if *byte == 0 {
                out.push(0xFF);
            }
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0, 0]);
}

fn decode_text(input: &mut &[u8]) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let zero = input.iter().position(|byte| *byte == 0)?;
        text.extend_from_slice(take(input, zero)?);
        match take(input, 2)? {
            [0, 0] => return String::from_utf8(text).ok(),
            [0, 0xFF] => text.push(0),
            _ => return None,
        }
    }
}

impl AsKey<String> for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_text(self, out);
    }
}

impl AsKey<String> for str {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_text(self, out);
    }
}

impl Key for String {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        decode_text(input)
    }
}

macro_rules! identifier_key {
    ($($owned:ty => $borrowed:ty),* $(,)?) => {$(
        impl AsKey<$owned> for $owned {
            fn encode(&self, out: &mut Vec<u8>) {
                encode_text(self.as_str(), out);
            }
        }
        impl AsKey<$owned> for $borrowed {
            fn encode(&self, out: &mut Vec<u8>) {
                encode_text(self.as_str(), out);
            }
        }
        impl Key for $owned {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                decode_text(input)?.try_into().ok()
            }
        }
    )*};
}

identifier_key! {
    OwnedEventId => ruma::EventId,
    OwnedRoomAliasId => ruma::RoomAliasId,
    OwnedRoomId => ruma::RoomId,
    OwnedServerName => ruma::ServerName,
    OwnedUserId => ruma::UserId,
    OwnedDeviceId => ruma::DeviceId,
    OwnedTransactionId => ruma::TransactionId,
}

macro_rules! tuple_key {
    ($($part:ident $key:ident),*) => {
        impl<$($part, $key),*> AsKey<($($key,)*)> for ($($part,)*)
        where $($part: AsKey<$key>),*
        {
            #[expect(non_snake_case, reason = "the type parameters name the parts")]
            fn encode(&self, out: &mut Vec<u8>) {
                let ($($part,)*) = self;
                $($part.encode(out);)*
            }
        }
        impl<$($key: Key),*> Key for ($($key,)*) {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                Some(($($key::decode(input)?,)*))
            }
        }
    };
}

tuple_key!(A KA, B KB);
tuple_key!(A KA, B KB, C KC);
tuple_key!(A KA, B KB, C KC, D KD);

macro_rules! tuple_prefix {
    ($($part:ident $key:ident),* ; $($rest:ident),*) => {
        impl<$($part, $key,)* $($rest),*> Prefix<($($key,)* $($rest,)*)> for ($($part,)*)
        where $($part: AsKey<$key>),*
        {
            #[expect(non_snake_case, reason = "the type parameters name the parts")]
            fn encode_prefix(&self, out: &mut Vec<u8>) {
                let ($($part,)*) = self;
                $($part.encode(out);)*
            }
        }
    };
}

tuple_prefix!(A KA; R1);
tuple_prefix!(A KA; R1, R2);
tuple_prefix!(A KA; R1, R2, R3);
tuple_prefix!(A KA, B KB; R1);
tuple_prefix!(A KA, B KB; R1, R2);
tuple_prefix!(A KA, B KB, C KC; R1);

/// Declares a number of its own type, stored big-endian.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[derive(serde::Deserialize, serde::Serialize)]
        pub(crate) struct $name(pub(crate) u64);

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }
        impl $crate::storage::key::AsKey<$name> for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
        }
        impl $crate::storage::key::Key for $name {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                <u64 as $crate::storage::key::Key>::decode(input).map(Self)
            }
        }
        impl $crate::storage::value::Value for $name {
            fn to_bytes(&self, out: &mut Vec<u8>) {
                self.0.to_bytes(out);
            }
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                <u64 as $crate::storage::value::Value>::from_bytes(bytes).map(Self)
            }
        }
    };
}
pub(crate) use number;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes<K>(key: &impl AsKey<K>) -> Vec<u8> {
        let mut out = Vec::new();
        key.encode(&mut out);
        out
    }

    fn round_trips<K: Key + PartialEq + std::fmt::Debug>(key: &K) {
        let encoded = bytes::<K>(key);
        let mut input = encoded.as_slice();
        assert_eq!(K::decode(&mut input).as_ref(), Some(key));
        assert!(input.is_empty());
    }

    proptest! {
        #[test]
        fn keys_round_trip(text: String, unsigned: u64, signed: i64) {
            round_trips(&(text.clone(), unsigned));
            round_trips(&(signed, text));
        }

        #[test]
        fn byte_order_is_key_order(a: (String, i64), b: (String, i64)) {
            prop_assert_eq!(bytes::<(String, i64)>(&a).cmp(&bytes(&b)), a.cmp(&b));
        }

        #[test]
        fn no_key_begins_another(a: String, b: String) {
            prop_assume!(a != b);
            prop_assert!(!bytes::<String>(&a).starts_with(&bytes(&b)));
        }

        #[test]
        fn rubbish_is_no_key(rubbish: Vec<u8>) {
            let _ = <(String, u64)>::decode(&mut rubbish.as_slice());
        }
    }

    #[test]
    fn a_borrowed_key_is_stored_like_the_owned_one() {
        let user: OwnedUserId = "@alice:localhost".try_into().unwrap();
        assert_eq!(bytes::<(OwnedUserId, u64)>(&(&*user, 7_u64)), bytes(&(user.clone(), 7_u64)));
    }
}
