//! The attributes in which owners are recorded.
//!
//! Symbolic links, pipes and sockets take no attributes of users. They take file capabilities, of which the kernel makes something only
//! when a file is executed: the numbers of the owner stand there. An attribute goes where its file goes, whatever the step does.

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

/// The attribute of files and directories: `uid:gid` in decimal. None stands for `0:0`.
const OWNER: &str = "user.builder.owner";
/// That of symbolic links, pipes and sockets: `struct vfs_cap_data` of linux/capability.h, little-endian. Of its five numbers the first
/// is the revision, then come user and group, and these two.
const CAPABILITY: &str = "security.capability";
const REVISION_2: u32 = 0x0200_0000;
const MARK: [u32; 2] = [u32::from_le_bytes(*b"bown"), 0];

/// Where a file carries its owner.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Owner,
    Capability,
}

impl Place {
    /// `None` for devices: what a step has of them is the machine's.
    pub(super) fn of(stat: &rustix::fs::Stat) -> Option<Self> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => Some(Self::Owner),
            FileType::Symlink | FileType::Fifo | FileType::Socket => Some(Self::Capability),
            _ => None,
        }
    }

    /// The owner that is recorded for the file at a path.
    pub(super) fn read(self, path: &str) -> Result<Option<(u32, u32)>, Errno> {
        let mut value = [0; 32];
        let name = match self {
            Self::Owner => OWNER,
            Self::Capability => CAPABILITY,
        };
        match rustix::fs::getxattr(path, name, &mut value) {
            Ok(length) => Ok(self.decode(&value[..length])),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn decode(self, value: &[u8]) -> Option<(u32, u32)> {
        match self {
            Self::Owner => {
                let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
                Some((uid.parse().ok()?, gid.parse().ok()?))
            }
            Self::Capability => {
                let (numbers, _) = value.as_chunks::<4>();
                match numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect::<Vec<_>>()[..] {
                    [_, uid, gid, mark, end, ..] if [mark, end] == MARK => Some((uid, gid)),
                    _ => None,
                }
            }
        }
    }

    pub(super) fn write(self, path: &str, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        match self {
            Self::Owner => {
                let text = format!("{uid}:{gid}");
                rustix::fs::setxattr(path, OWNER, text.as_bytes(), XattrFlags::empty())
            }
            Self::Capability => {
                let numbers = [REVISION_2, uid, gid, MARK[0], MARK[1]].map(u32::to_le_bytes);
                match rustix::fs::setxattr(path, CAPABILITY, numbers.as_flattened(), XattrFlags::empty()) {
                    // A security module may have something against it.
                    Err(Errno::PERM | Errno::ACCESS) => Err(Errno::OPNOTSUPP),
                    other => other,
                }
            }
        }
    }
}
