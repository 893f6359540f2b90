use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

use crate::counted;
use crate::newtypes::{from_hex, write_hex};
use crate::stable::{StableHash, StableHasher};

/// A sha256 digest as OCI writes it: `sha256:` and 64 lower-case hexadecimal digits.
///
/// See the image spec, `descriptor.md`, "Digests". Other algorithms of the spec are refused: no
/// image in use needs them, and one algorithm means one way to compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        counted::sha256(bytes.len() as u64);
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// A digest from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        // Writing to a `String` cannot fail.
        let _ = write_hex(&self.0, &mut text);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest `{0}`: expected sha256: and 64 lower-case hexadecimal digits")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("sha256:")
            .and_then(from_hex)
            .map(Digest)
            .ok_or_else(|| ParseDigestError(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl StableHash for Digest {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.0.stable_hash(hasher);
    }
}

/// A running sha256.
#[derive(Clone, Default)]
pub struct Sha256 {
    hash: sha2::Sha256,
    size: u64,
}

impl Sha256 {
    /// A hash of nothing yet.
    pub fn new() -> Sha256 {
        Sha256::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        counted::sha256(self.size);
        Digest(self.hash.finalize().into())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

/// Passes bytes on to a writer, counting and hashing them.
#[derive(Debug)]
pub struct DigestWriter<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Hashes what is written to `inner` from now on.
    pub fn new(inner: W) -> Self {
        DigestWriter { inner, hash: Sha256::new(), size: 0 }
    }

    /// What is written to. What is written to it directly is not hashed.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Counts and hashes bytes that the writer got from somebody else.
    pub fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The number of bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The writer, the digest of what went through and its size in bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hash.finish(), self.size)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes bytes on from a reader, counting and hashing them.
#[derive(Debug)]
pub struct DigestReader<R> {
    inner: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> DigestReader<R> {
    /// Hashes what is read from `inner` from now on.
    pub fn new(inner: R) -> Self {
        DigestReader { inner, hash: Sha256::new(), size: 0 }
    }

    /// The number of bytes read so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The reader, the digest of what went through and its size in bytes.
    pub fn finish(self) -> (R, Digest, u64) {
        (self.inner, self.hash.finish(), self.size)
    }
}

impl<R: Read> Read for DigestReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.size += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn prints_and_parses_the_text_of_the_spec() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn refuses_other_texts() {
        for text in
            ["", "sha256:", "sha256:E3", "md5:00", &EMPTY[7..], &format!("{EMPTY}0"), &EMPTY.to_uppercase()]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn readers_and_writers_see_the_same_bytes() {
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"hello").unwrap();
        let (bytes, digest, size) = writer.finish();
        assert_eq!((digest, size), (Digest::of(b"hello"), 5));
        let mut reader = DigestReader::new(&bytes[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish().1, digest);
    }
}
