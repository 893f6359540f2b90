//! Serialisation of operating system strings: as text where they are UTF-8, else as a list of bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something that is a string of bytes.
pub(crate) trait Bytes {
    fn as_bytes(&self) -> &[u8];
    fn from_bytes(bytes: Vec<u8>) -> Self;
}

impl Bytes for Vec<u8> {
    fn as_bytes(&self) -> &[u8] {
        self
    }
    fn from_bytes(bytes: Vec<u8>) -> Self {
        bytes
    }
}

impl Bytes for OsString {
    fn as_bytes(&self) -> &[u8] {
        OsStrExt::as_bytes(self.as_os_str())
    }
    fn from_bytes(bytes: Vec<u8>) -> Self {
        Self::from_vec(bytes)
    }
}

impl Bytes for PathBuf {
    fn as_bytes(&self) -> &[u8] {
        OsStrExt::as_bytes(self.as_os_str())
    }
    fn from_bytes(bytes: Vec<u8>) -> Self {
        Self::from(OsString::from_vec(bytes))
    }
}

/// The form on the wire, borrowed.
#[derive(Serialize)]
#[serde(untagged)]
enum Borrowed<'a> {
    Text(&'a str),
    Raw(&'a [u8]),
}

impl<'a> Borrowed<'a> {
    fn new(value: &'a impl Bytes) -> Self {
        let bytes = value.as_bytes();
        std::str::from_utf8(bytes).map_or(Self::Raw(bytes), Self::Text)
    }
}

/// The form on the wire, owned.
#[derive(Deserialize)]
#[serde(untagged)]
enum Owned {
    Text(String),
    Raw(Vec<u8>),
}

impl Owned {
    fn decode<T: Bytes>(self) -> T {
        T::from_bytes(match self {
            Self::Text(text) => text.into_bytes(),
            Self::Raw(bytes) => bytes,
        })
    }
}

/// For one value.
pub(crate) mod bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer, T: Bytes>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        Borrowed::new(value).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Bytes>(deserializer: D) -> Result<T, D::Error> {
        Ok(Owned::deserialize(deserializer)?.decode())
    }
}

/// For a list of values.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer, T: Bytes>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(Borrowed::new))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Bytes>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        Ok(Vec::<Owned>::deserialize(deserializer)?.into_iter().map(Owned::decode).collect())
    }
}

/// For a list of pairs.
pub(crate) mod pairs {
    use super::*;

    pub(crate) fn serialize<S: Serializer, T: Bytes>(
        values: &[(T, T)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|(a, b)| (Borrowed::new(a), Borrowed::new(b))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Bytes>(
        deserializer: D,
    ) -> Result<Vec<(T, T)>, D::Error> {
        let pairs = Vec::<(Owned, Owned)>::deserialize(deserializer)?;
        Ok(pairs.into_iter().map(|(a, b)| (a.decode(), b.decode())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Sample {
        #[serde(with = "bytes")]
        path: PathBuf,
        #[serde(with = "list")]
        args: Vec<OsString>,
        #[serde(with = "pairs")]
        env: Vec<(OsString, OsString)>,
    }

    #[test]
    fn keeps_bytes_that_are_not_text() {
        let raw = OsString::from_vec(vec![b'/', 0xff, b'"', 0xc3, 0xa9]);
        let sample = Sample {
            path: PathBuf::from(&raw),
            args: vec![raw.clone(), "plain".into(), "".into()],
            env: vec![("K".into(), raw)],
        };
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(serde_json::from_str::<Sample>(&text).unwrap(), sample);
    }
}
