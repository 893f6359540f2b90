//! Owners and device numbers that the file system cannot hold, kept beside what they belong to.
//!
//! In a user namespace no device can be made: one is an empty file that carries `user.builder.device` = `c:1:3`. With a single id
//! nothing can be given to another owner either: a file or directory then carries `user.builder.owner` = `uid:gid`. Symbolic links and
//! pipes take no such attribute. They take file capabilities, which mean nothing for what is never executed, and which root of a user
//! namespace may set: their owner stands in the fields of `security.capability`, marked as ours. So it goes where the file goes, through
//! renames, further names and overlay's copying up, also in a step, and goes with it; nothing has to be kept of paths or numbers of
//! inodes. Where the file system or a security module refuses that, they stand in a [`Sidecar`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{Kind, Metadata, xattrs};

/// The prefix of all attributes that are our own books and no part of a file.
pub(crate) const PREFIX: &str = "user.builder.";
pub(crate) const OWNER: &str = "user.builder.owner";
pub(crate) const DEVICE: &str = "user.builder.device";

/// A user and a group.
pub(crate) type Owner = (u32, u32);

pub(crate) fn encode_owner((uid, gid): Owner) -> String {
    format!("{uid}:{gid}")
}

pub(crate) fn decode_owner(text: &[u8]) -> Option<Owner> {
    let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

pub(crate) fn encode_device(kind: Kind, (major, minor): (u32, u32)) -> String {
    let letter = if kind == Kind::BlockDevice { 'b' } else { 'c' };
    format!("{letter}:{major}:{minor}")
}

fn decode_device(text: &[u8]) -> Option<(Kind, (u32, u32))> {
    let mut fields = std::str::from_utf8(text).ok()?.split(':');
    let kind = match fields.next()? {
        "b" => Kind::BlockDevice,
        "c" => Kind::CharDevice,
        _ => return None,
    };
    let device = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    fields.next().is_none().then_some((kind, device))
}

/// The owner in the form of `struct vfs_cap_data` of revision 2 (linux/capability.h), little-endian: the magic number, then permitted and
/// inheritable capabilities, the first 32 of each, which are user and group, and the next, of which the first ones are the mark.
pub(crate) fn encode_capability((uid, gid): Owner) -> [u8; 20] {
    let mut value = [0; 20];
    value[..4].copy_from_slice(&REVISION_2);
    value[4..8].copy_from_slice(&uid.to_le_bytes());
    value[8..12].copy_from_slice(&gid.to_le_bytes());
    value[12..16].copy_from_slice(MARK);
    value
}

/// `None` for capabilities. Outside of the namespace there is a further field, in revision 3.
pub(crate) fn decode_capability(value: &[u8]) -> Option<Owner> {
    let number = |at: usize| Some(u32::from_le_bytes(*value.get(at..)?.first_chunk()?));
    let is_ours = value.get(12..16) == Some(MARK) && value.get(16..20) == Some(&[0; 4]);
    if is_ours { Some((number(4)?, number(8)?)) } else { None }
}

const REVISION_2: [u8; 4] = 0x0200_0000_u32.to_le_bytes();
const MARK: &[u8; 4] = b"bown";

/// Replaces what the file system says by what is recorded. `read` fetches one attribute.
pub(crate) fn apply(
    metadata: &mut Metadata,
    path: &Path,
    sidecar: &Sidecar,
    read: impl Fn(&str) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<()> {
    let owner = match metadata.kind {
        Kind::File | Kind::Directory => match read(OWNER)? {
            Some(text) => Some(decode_owner(&text).ok_or_else(|| broken(OWNER))?),
            None => None,
        },
        Kind::Symlink | Kind::Fifo | Kind::Socket => {
            let carried = read(xattrs::CAPABILITY)?.and_then(|value| decode_capability(&value));
            carried.or_else(|| sidecar.get(path))
        }
        Kind::CharDevice | Kind::BlockDevice => sidecar.get(path),
    };
    (metadata.uid, metadata.gid) = owner.unwrap_or((0, 0));
    apply_device(metadata, read)
}

/// Makes a device of an empty file that is recorded as one.
pub(crate) fn apply_device(
    metadata: &mut Metadata,
    read: impl Fn(&str) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<()> {
    if metadata.kind == Kind::File
        && metadata.size == 0
        && let Some(text) = read(DEVICE)?
    {
        (metadata.kind, metadata.device) = decode_device(&text).ok_or_else(|| broken(DEVICE))?;
    }
    Ok(())
}

fn broken(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged attribute {name}"))
}

/// Owners of symbolic links and pipes that cannot carry them, by path, in one file: a heading, then `uid:gid path` for each, NUL after each.
#[derive(Debug, Default)]
pub(crate) struct Sidecar(BTreeMap<Vec<u8>, Owner>);

const HEADING: &[u8] = b"builder-owners-v1";

impl Sidecar {
    /// Reads the file; none is an empty sidecar.
    pub(crate) fn load(file: &Path) -> io::Result<Sidecar> {
        match fs::read(file) {
            Ok(bytes) => Sidecar::decode(&bytes)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged record of owners")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Sidecar::default()),
            Err(error) => Err(error),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Sidecar> {
        let mut records = bytes.strip_suffix(b"\0")?.split(|&byte| byte == 0);
        if records.next()? != HEADING {
            return None;
        }
        let mut owners = BTreeMap::new();
        for record in records {
            let space = record.iter().position(|&byte| byte == b' ')?;
            owners.insert(record[space + 1..].to_vec(), decode_owner(&record[..space])?);
        }
        Some(Sidecar(owners))
    }

    /// Writes the file whole, by rename.
    pub(crate) fn save(&self, file: &Path) -> io::Result<()> {
        let mut bytes = HEADING.to_vec();
        bytes.push(0);
        for (path, owner) in &self.0 {
            bytes.extend_from_slice(encode_owner(*owner).as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        let mut name = file.as_os_str().to_owned();
        name.push(".new");
        let temporary = Path::new(&name);
        fs::File::create(temporary)?.write_all(&bytes)?;
        fs::rename(temporary, file)
    }

    pub(crate) fn get(&self, path: &Path) -> Option<Owner> {
        self.0.get(path.as_os_str().as_bytes()).copied()
    }

    pub(crate) fn set(&mut self, path: &Path, owner: Owner) {
        let path = path.as_os_str().as_bytes();
        if owner == (0, 0) {
            self.0.remove(path);
        } else {
            self.0.insert(path.to_vec(), owner);
        }
    }

    /// Forgets a path and all below it.
    pub(crate) fn forget(&mut self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        self.0.remove(path);
        let below: Vec<Vec<u8>> = self
            .0
            .range([path, b"/"].concat()..[path, b"0"].concat())
            .map(|(path, _)| path.clone())
            .collect();
        for path in below {
            self.0.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecar_survives_a_round_trip_and_refuses_damage() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("owners");
        let mut sidecar = Sidecar::load(&file).unwrap();
        sidecar.set(Path::new("a link\nwith: odd name"), (5, 6));
        sidecar.set(Path::new("d/x"), (1, 1));
        sidecar.set(Path::new("d-e"), (2, 2));
        sidecar.set(Path::new("gone"), (1, 1));
        sidecar.set(Path::new("gone"), (0, 0));
        sidecar.forget(Path::new("d"));
        sidecar.save(&file).unwrap();
        let read = Sidecar::load(&file).unwrap();
        assert_eq!(read.get(Path::new("a link\nwith: odd name")), Some((5, 6)));
        assert_eq!(read.get(Path::new("d/x")), None);
        assert_eq!(read.get(Path::new("d-e")), Some((2, 2)));
        assert_eq!(read.0.len(), 2);
        for damage in [&b""[..], b"other\0", b"builder-owners-v1", b"builder-owners-v1\0x:1 p\0"] {
            fs::write(&file, damage).unwrap();
            assert!(Sidecar::load(&file).is_err());
        }
    }

    #[test]
    fn capabilities_are_told_from_owners() {
        let value = encode_capability((7, u32::MAX - 1));
        assert_eq!(decode_capability(&value), Some((7, u32::MAX - 1)));
        // As it is read outside of the user namespace.
        assert_eq!(
            decode_capability(&[&value[..], &1000_u32.to_le_bytes()].concat()),
            Some((7, u32::MAX - 1))
        );
        let mut all = value;
        all[12..].fill(0xff);
        for other in [&all[..], &value[..19], &[]] {
            assert_eq!(decode_capability(other), None, "{other:?}");
        }
    }

    #[test]
    fn records_decode_what_they_encode() {
        assert_eq!(decode_owner(encode_owner((7, u32::MAX - 1)).as_bytes()), Some((7, u32::MAX - 1)));
        assert_eq!(
            decode_device(encode_device(Kind::BlockDevice, (8, 1)).as_bytes()),
            Some((Kind::BlockDevice, (8, 1)))
        );
        for text in ["", "c", "c:1", "c:1:2:3", "x:1:2", "c:-1:2"] {
            assert_eq!(decode_device(text.as_bytes()), None, "{text}");
        }
    }
}
