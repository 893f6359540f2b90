use std::collections::{BTreeMap, BTreeSet};

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
#[derive(Clone, Debug)]
pub struct StableHasher(blake3::Hasher);

impl StableHasher {
    /// A hasher for one purpose; `domain` names it and its version, as in `"key-v1"`.
    pub fn new(domain: &str) -> StableHasher {
        let mut hasher = StableHasher(blake3::Hasher::new());
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
        self.0.update(bytes);
    }

    /// Feeds a value; for chains of calls.
    pub fn with(mut self, value: &(impl StableHash + ?Sized)) -> StableHasher {
        value.stable_hash(&mut self);
        self
    }

    /// The hash of all that was fed.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
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
