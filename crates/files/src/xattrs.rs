//! Extended attributes that belong to a file, told from those that belong to a machine or a store.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::io::Errno;

use crate::owners;

/// File capabilities (capabilities(7)).
pub(crate) const CAPABILITY: &str = "security.capability";

/// Whether an attribute is part of a layer: what users set, and file capabilities. Labels of a security module, access control
/// lists and the books of overlay and of this program are not; `trusted.` ones can be seen by root alone, and a key must not
/// depend on who builds.
pub(crate) fn belongs(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == CAPABILITY.as_bytes()
        || name.starts_with(b"user.")
            && !name.starts_with(owners::PREFIX.as_bytes())
            && !name.starts_with(b"user.overlay.")
}

/// The attributes of an open file that belong to it. A file system without attributes has none.
pub(crate) fn read(file: BorrowedFd<'_>) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let names = match grow(|buffer| rustix::fs::flistxattr(file, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(found),
        names => names?,
    };
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        if belongs(name)
            && let Some(mut value) = get(file, name)?
        {
            if name == CAPABILITY {
                value = plain_capability(value);
            }
            found.insert(OsString::from_vec(name.as_bytes().to_vec()), value);
        }
    }
    Ok(found)
}

/// One attribute of an open file.
pub(crate) fn get(file: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    present(grow(|buffer| rustix::fs::fgetxattr(file, name, buffer)))
}

/// One attribute of what stands at `path`, a link not followed.
pub(crate) fn get_at(path: &[u8], name: &str) -> io::Result<Option<Vec<u8>>> {
    present(grow(|buffer| rustix::fs::lgetxattr(path, name, buffer)))
}

fn present(value: Result<Vec<u8>, Errno>) -> io::Result<Option<Vec<u8>>> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Calls with a buffer that is made larger until the answer fits (64 KiB is the kernel's limit of names and of values).
fn grow(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match call(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut buffer = vec![0; 64 * 1024];
    let length = call(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// A capability set in a user namespace carries the namespace's root id (revision 3 of `vfs_cap_data`); an image has none, so
/// that it means the same whoever built it.
fn plain_capability(value: Vec<u8>) -> Vec<u8> {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    let Some(magic) = value.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) else { return value };
    if magic & 0xff00_0000 != REVISION_3 || value.len() != 24 {
        return value;
    }
    let mut plain = (magic & 0x00ff_ffff | REVISION_2).to_le_bytes().to_vec();
    plain.extend_from_slice(&value[4..20]);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_the_file() {
        for (name, expected) in [
            ("security.capability", true),
            ("user.mime_type", true),
            ("security.selinux", false),
            ("system.posix_acl_access", false),
            ("trusted.overlay.opaque", false),
            ("user.overlay.opaque", false),
            ("user.builder.owner", false),
        ] {
            assert_eq!(belongs(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_capability_loses_its_namespace() {
        let mut value = vec![1, 0, 0, 3];
        value.extend_from_slice(&[9; 16]);
        value.extend_from_slice(&1000u32.to_le_bytes());
        let plain = plain_capability(value);
        assert_eq!((plain.len(), &plain[..4]), (20, &[1, 0, 0, 2][..]));
        assert_eq!(plain_capability(plain.clone()), plain);
        assert_eq!(plain_capability(vec![3]), [3]);
    }
}
