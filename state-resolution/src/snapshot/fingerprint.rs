//! Recognising a state that was seen before.

use super::Change;
use crate::{
    ids::{EventIx, KeyIx},
    state_map::StateMap,
};

/// The secret with which states are hashed, made once per database.
///
/// Members choose the entries of a state; without a secret they could make different states with
/// the same hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FingerprintKey(pub [u64; 2]);

impl std::fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FingerprintKey(..)")
    }
}

/// A keyed hash of a state: the sum of the hashes of its entries, so that it follows a change
/// without looking at the rest.
///
/// Equal states have equal fingerprints. The reverse is likely, not certain: compare the states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// The fingerprint of a state.
    pub fn of(key: FingerprintKey, state: &StateMap) -> Self {
        state.iter().fold(Self::default(), |sum, (at, event)| sum.with(key, at, event))
    }

    /// The fingerprint after changes to the state `before`, whose fingerprint this is.
    #[must_use]
    pub fn after(self, key: FingerprintKey, before: &StateMap, changes: &[Change]) -> Self {
        changes.iter().fold(self, |mut sum, (at, event)| {
            if let Some(old) = before.get(*at) {
                sum.0 = sum.0.wrapping_sub(hash(key, *at, old));
            }
            event.map_or(sum, |event| sum.with(key, *at, event))
        })
    }

    fn with(self, key: FingerprintKey, at: KeyIx, event: EventIx) -> Self {
        Self(self.0.wrapping_add(hash(key, at, event)))
    }
}

fn hash(key: FingerprintKey, at: KeyIx, event: EventIx) -> u64 {
    siphash(key.0, u64::from(at.0) << 32 | u64::from(event.0))
}

/// SipHash-2-4 of the eight bytes of `word`, little-endian.
fn siphash([k0, k1]: [u64; 2], word: u64) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    for word in [word, 8 << 56] {
        v[3] ^= word;
        rounds(&mut v, 2);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    rounds(&mut v, 4);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn rounds([v0, v1, v2, v3]: &mut [u64; 4], count: usize) {
    for _ in 0..count {
        *v0 = v0.wrapping_add(*v1);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v3);
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.wrapping_add(*v3);
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.wrapping_add(*v1);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v2 = v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector for eight bytes from the paper's reference implementation.
    #[test]
    fn the_hash_is_siphash_2_4() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash(key, 0x0706_0504_0302_0100), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn a_fingerprint_follows_changes() {
        let key = FingerprintKey([1, 2]);
        let before: StateMap = (0..50).map(|i| (KeyIx(i), EventIx(i * 3))).collect();
        let changes =
            [(KeyIx(7), Some(EventIx(99))), (KeyIx(8), None), (KeyIx(60), Some(EventIx(1)))];
        let mut after = before.clone();
        after.insert(KeyIx(7), EventIx(99));
        after.remove(KeyIx(8));
        after.insert(KeyIx(60), EventIx(1));
        let followed = Fingerprint::of(key, &before).after(key, &before, &changes);
        assert_eq!(followed, Fingerprint::of(key, &after));
        assert_ne!(followed, Fingerprint::of(key, &before));
        assert_ne!(followed, Fingerprint::of(FingerprintKey([1, 3]), &after));
    }
}
