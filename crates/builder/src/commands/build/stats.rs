//! Which file systems are believed when they say that a file is what it was.
//!
//! A file counts as unchanged when its number, size, time of modification and time of change are what they were. That says something
//! where numbers stay and the time of change is the file system's own affair. Where a program may set it, where it comes out of an image, or
//! where another machine may not have told yet, it says nothing: there every file is read. So it is with what is in memory alone (tmpfs, ramfs):
//! there a program that has mapped a file may change it for as long as it likes, and no time moves. A disk's does once the page is written to it.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use files::{StatCache, StatIdentity};
use rustix::fs::{makedev, statfs};

/// `f_type` of those that are believed (`statfs(2)`, linux/magic.h), and their names in /proc/self/mountinfo.
const BELIEVED: [(u64, &str); 8] = [
    (0xef53, "ext"),
    (0x5846_5342, "xfs"),
    (BTRFS, "btrfs"),
    (OVERLAY, "overlay"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x3153_464a, "jfs"),
];
const BTRFS: u64 = 0x9123_683e;
const OVERLAY: u64 = 0x794c_7630;

fn type_of(directory: &Path) -> Option<u64> {
    // It has 32 bits; on some architectures they are signed.
    statfs(directory).ok().map(|found| u64::from(found.f_type as u32))
}

/// Whether what is remembered of the files of a directory counts.
pub(super) fn are_believed(directory: &Path) -> bool {
    type_of(directory).is_some_and(|kind| BELIEVED.iter().any(|(known, _)| *known == kind))
}

/// What is remembered, without the files of file systems that are mounted inside of the directory and are not believed, or that an overlay shows.
pub(super) struct Believed {
    stats: Arc<dyn StatCache>,
    /// Where the directory itself is: device and type.
    own: Option<(u64, u64)>,
    mounts: OnceLock<Mounts>,
}

impl Believed {
    pub(super) fn new(stats: Arc<dyn StatCache>, directory: &Path) -> Believed {
        let device = std::fs::metadata(directory).ok().map(|found| found.dev());
        Believed { stats, own: device.zip(type_of(directory)), mounts: OnceLock::new() }
    }

    fn is_believed(&self, identity: &StatIdentity) -> bool {
        // A kernel's clock is never at a whole second. Such times were made up by what wrote an image, and another image may have the same:
        // an overlay over one shows them as its own.
        if identity.ctime.1 == 0 {
            return false;
        }
        match self.own {
            // Of overlays not all are believed.
            Some((device, kind)) if device == identity.file_system && kind != OVERLAY => return true,
            _ => {}
        }
        let read = || {
            let xino_auto = std::fs::read_to_string("/sys/module/overlay/parameters/xino_auto");
            let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            of_mounts(&mountinfo, xino_auto.is_ok_and(|value| value.trim() == "N"))
        };
        let mounts = self.mounts.get_or_init(read);
        // The kernel does not list the devices of btrfs' subvolumes, nor those that an overlay gives the file systems that it lies over.
        let is_subvolume = || !mounts.have_overlays && self.own.is_some_and(|(_, kind)| kind == BTRFS);
        mounts.believed.get(&identity.file_system).copied().unwrap_or_else(is_subvolume)
    }
}

impl StatCache for Believed {
    fn get(&self, identity: &StatIdentity) -> Option<[u8; 32]> {
        if self.is_believed(identity) { self.stats.get(identity) } else { None }
    }

    fn put(&self, identity: &StatIdentity, digest: [u8; 32]) {
        if self.is_believed(identity) {
            self.stats.put(identity, digest);
        }
    }
}

/// What is mounted somewhere.
struct Mounts {
    /// By device.
    believed: HashMap<u64, bool>,
    have_overlays: bool,
}

/// Reads `proc_pid_mountinfo(5)`.
///
/// Where an overlay lies over several file systems, their files have devices of their own, unless the option `xino` gives all of them the
/// overlay's: `no_xino` says that this is not so where nothing is said. With one device, all is on one file system, on which files can be changed, removed and
/// have attributes: the kernel takes no other for the upper directory.
fn of_mounts(mountinfo: &str, no_xino: bool) -> Mounts {
    let mount = |line: &str| {
        let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
        let (kind, rest) = line.split_once(" - ")?.1.split_once(' ')?;
        // ext2, ext3 and ext4 are one.
        let is_known =
            |name: &str| kind == name || (name == "ext" && kind.starts_with("ext") && kind.len() == 4);
        let options = rest.rsplit(' ').next()?;
        let has = |wanted: &str| options.split(',').any(|option| option.starts_with(wanted));
        let is_told_apart = || has("upperdir=") && (has("xino=off") || no_xino && !has("xino="));
        let believed =
            BELIEVED.iter().any(|(_, name)| is_known(name)) && (kind != "overlay" || is_told_apart());
        Some((makedev(major.parse().ok()?, minor.parse().ok()?), believed))
    };
    Mounts {
        believed: mountinfo.lines().filter_map(mount).collect(),
        have_overlays: mountinfo.contains(" - overlay "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_are_not_believed() {
        let text = "\
36 35 98:0 / / rw,noatime shared:1 - ext4 /dev/root rw,errors=continue
37 36 7:1 / /mnt/a\\040b rw - squashfs /dev/loop1 ro
38 36 0:44 / /net rw shared:2 master:1 - nfs4 server:/x rw
39 36 0:45 / /tmp rw - tmpfs tmpfs rw
40 36 0:46 / /fat rw - exfat /dev/sdb1 rw
41 36 0:47 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
42 36 0:48 / /x rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,xino=on
43 36 0:49 / /y rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,xino=off
44 36 0:50 / /z ro - overlay overlay ro,lowerdir=/l:/m,xino=off
nonsense";
        let Mounts { believed: mounts, have_overlays } = of_mounts(text, true);
        assert!(have_overlays && !of_mounts("36 35 98:0 / / rw - btrfs /dev/root rw", true).have_overlays);
        let believed = |major, minor| mounts.get(&makedev(major, minor)).copied();
        assert_eq!(believed(98, 0), Some(true));
        for (major, minor) in [(7, 1), (0, 44), (0, 45), (0, 46)] {
            assert_eq!(believed(major, minor), Some(false), "{major}:{minor}");
        }
        let overlays = |mounts: &HashMap<u64, bool>| [47, 48, 49, 50].map(|minor| mounts[&makedev(0, minor)]);
        assert_eq!(overlays(&mounts), [true, false, true, false]);
        assert_eq!(overlays(&of_mounts(text, false).believed), [false, false, true, false]);
        assert_eq!((believed(1, 1), mounts.len()), (None, 9));
    }
}
