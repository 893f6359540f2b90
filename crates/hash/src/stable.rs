use std::collections::{BTreeMap, BTreeSet};

use crate::counted;

/// A value that can be fed into a [`StableHasher`], the same way on every machine.
///
/// Two different values of a type must feed different bytes: variable-length parts carry their length in
/// front, enums their variant. A change of an implementation is a change of every key made with it, so it
/// goes with a new domain (and a new golden value in the tests).
pub trait StableHash {
    /// Feeds `self`.
    fn stable_hash(&self, hasher: &mut StableHasher);
}

/// A blake3 hash of length-prefixed fields, begun with a domain.
///
/// Fields are short and many, and blake3 takes long for each piece that it is given, however short. So they are gathered, and most
/// values are hashed in one piece.
#[derive(Clone, Debug)]
pub struct StableHasher {
    /// What was fed and not hashed yet.
    gathered: Vec<u8>,
    /// What of it did not fit; nothing for most values.
    begun: Option<Box<blake3::Hasher>>,
}

/// So many bytes are gathered. More than most values have, few enough to stay near.
const GATHERED: usize = 4 << 10;

impl StableHasher {
    /// A hasher for one purpose; `domain` names it and its version, as in `"key-v1"`.
    pub fn new(domain: &str) -> StableHasher {
        let mut hasher = StableHasher { gathered: Vec::with_capacity(512), begun: None };
        domain.stable_hash(&mut hasher);
        hasher
    }

    /// Feeds a variable-length field, its length in front.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.raw(&(bytes.len() as u64).to_le_bytes());
        self.raw(bytes);
    }

    /// Feeds bytes of a length that the type alone determines.
    pub fn raw(&mut self, bytes: &[u8]) {
        if self.gathered.len() + bytes.len() <= GATHERED {
            return self.gathered.extend_from_slice(bytes);
        }
        let begun = self.begun.get_or_insert_default();
        begun.update(&self.gathered).update(bytes);
        self.gathered.clear();
    }

    /// Feeds a value; for chains of calls.
    pub fn with(mut self, value: &(impl StableHash + ?Sized)) -> StableHasher {
        value.stable_hash(&mut self);
        self
    }

    /// The hash of all that was fed.
    pub fn finish(&self) -> [u8; 32] {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.count());
        counted::blake3(begun + self.gathered.len() as u64);
        let hash = match &self.begun {
            None => blake3::hash(&self.gathered),
            Some(begun) => begun.clone().update(&self.gathered).finalize(),
        };
        *hash.as_bytes()
    }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl StableHash for $int {
            fn stable_hash(&self, hasher: &mut StableHasher) {
                hasher.raw(&self.to_le_bytes());
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i32, i64);

impl StableHash for bool {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        u8::from(*self).stable_hash(hasher);
    }
}

impl StableHash for str {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        hasher.bytes(self.as_bytes());
    }
}

impl StableHash for String {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.as_str().stable_hash(hasher);
    }
}

impl<const N: usize> StableHash for [u8; N] {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        hasher.raw(self);
    }
}

impl<T: StableHash> StableHash for [T] {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        (self.len() as u64).stable_hash(hasher);
        for item in self {
            item.stable_hash(hasher);
        }
    }
}

impl<T: StableHash> StableHash for Vec<T> {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.as_slice().stable_hash(hasher);
    }
}

impl<T: StableHash> StableHash for Option<T> {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        match self {
            None => 0u8.stable_hash(hasher),
            Some(value) => {
                1u8.stable_hash(hasher);
                value.stable_hash(hasher);
            }
        }
    }
}

impl<T: StableHash> StableHash for BTreeSet<T> {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        (self.len() as u64).stable_hash(hasher);
        for item in self {
            item.stable_hash(hasher);
        }
    }
}

impl<K: StableHash, V: StableHash> StableHash for BTreeMap<K, V> {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        (self.len() as u64).stable_hash(hasher);
        for (key, value) in self {
            key.stable_hash(hasher);
            value.stable_hash(hasher);
        }
    }
}

impl<A: StableHash, B: StableHash> StableHash for (A, B) {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.0.stable_hash(hasher);
        self.1.stable_hash(hasher);
    }
}

impl<T: StableHash + ?Sized> StableHash for &T {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        (**self).stable_hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(value: &(impl StableHash + ?Sized)) -> [u8; 32] {
        StableHasher::new("test-v1").with(value).finish()
    }

    /// A change here changes every cache key on every machine: give the domains a new version.
    #[test]
    fn golden() {
        let value = (vec!["a".to_owned(), String::new()], (Some(7u64), BTreeMap::from([("k", true)])));
        assert_eq!(
            crate::CacheKey::from_bytes(hash(&value)).to_string(),
            "732b0cea54e0f0fedbe9c29b473dc81102130d628240463ca9e091147a588d6b"
        );
    }

    #[test]
    fn the_domain_counts() {
        assert_ne!(StableHasher::new("a").with("bc").finish(), StableHasher::new("ab").with("c").finish());
    }

    /// How it is fed does not count, only what.
    #[test]
    fn long_values_are_hashed_as_one() {
        let bytes: Vec<u8> = (0..3 * GATHERED).map(|n| (n % 251) as u8).collect();
        for piece in [1, 7, 1000, GATHERED - 9, GATHERED - 8, GATHERED, GATHERED + 1, bytes.len()] {
            let mut hasher = StableHasher::new("");
            for piece in bytes.chunks(piece) {
                hasher.raw(piece);
            }
            let all = [&[0; 8], bytes.as_slice()].concat();
            assert_eq!(hasher.finish(), *blake3::hash(&all).as_bytes(), "{piece}");
        }
    }

    proptest! {
        #[test]
        fn different_lists_differ(a: Vec<String>, b: Vec<String>) {
            prop_assert_eq!(a == b, hash(&a) == hash(&b));
        }

        #[test]
        fn moving_a_border_between_fields_differs(a in "[a-c]{0,4}", b in "[a-c]{0,4}", c in "[a-c]{0,4}", d in "[a-c]{0,4}") {
            let (left, right) = ((a, b), (c, d));
            prop_assert_eq!(left == right, hash(&left) == hash(&right));
        }
    }
}
