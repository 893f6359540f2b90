//! What this machine allows, found out by trying it, and what it has for mapping ids.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;
use rustix::thread::UnshareFlags;

use crate::fault::{Context, Fault};
use crate::scratch::Scratch;
use crate::{Error, Rootfs, mount, rootfs, sys, userns};

/// Makes a user namespace, and gives it up again. Call it before any thread exists.
///
/// # Errors
/// [`Error::Unsupported`] names the setting that forbids it.
pub fn try_user_namespace() -> Result<(), Error> {
    in_copy(|| {
        sys::unshare(UnshareFlags::NEWUSER)
            .map_err(|error| Fault::Unsupported(userns::forbidden(&error).to_string()))
    })
}

/// Mounts an overlay as a step has it, with its directories in `dir`, then writes a file and removes another. What is
/// made in `dir` is removed again. Call it in the user namespace of [`crate::enter_user_namespace`]; `userxattr` is
/// [`crate::Identity::needs_userxattr`].
///
/// # Errors
/// What the system said.
pub fn try_overlay(dir: &Path, userxattr: bool) -> Result<(), Error> {
    let parts = ["lower", "upper", "work"].map(|name| dir.join(name));
    let prepare = || -> io::Result<()> {
        for part in &parts {
            fs::create_dir(part)?;
        }
        fs::write(dir.join("lower/old"), "")
    };
    let tried = prepare().map_err(Error::io("prepare an overlay")).and_then(|()| {
        let [lower, upper, work] = parts.clone();
        let overlay = Rootfs::Overlay { lower: vec![lower], upper, work, userxattr, volatile: false };
        // A mount namespace can be that of one thread, and goes with it.
        let tried = std::thread::spawn(move || use_overlay(&overlay)).join();
        tried.map_err(|_| Error::Killed(String::new()))?.map_err(Error::from)
    });
    for part in &parts {
        // Whoever gave the directory learns what could not be removed when they remove it.
        let _left = fs::remove_dir_all(part);
    }
    tried
}

fn use_overlay(overlay: &Rootfs) -> Result<(), Fault> {
    sys::unshare(UnshareFlags::NEWNS).context(|| "create a mount namespace")?;
    mount::make_all_private()?;
    let flags = rustix::mount::MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = rootfs::mount(overlay, &mut Scratch::mount()?, flags)?.dir;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::openat(&root, "new", flags, mode).context(|| "write a file in an overlay")?;
    rustix::fs::unlinkat(&root, "old", AtFlags::empty()).context(|| "remove a file from an overlay")
}

/// What the machine has for giving a user further ids in a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubordinateIds {
    /// Whom it is for: the user's name, else the number.
    pub user: String,
    /// First id and number of ids of each range in `/etc/subuid`.
    pub uids: Vec<(u32, u32)>,
    /// Likewise in `/etc/subgid`.
    pub gids: Vec<(u32, u32)>,
    /// The program that maps user ids.
    pub newuidmap: Option<PathBuf>,
    /// The program that maps group ids.
    pub newgidmap: Option<PathBuf>,
}

impl SubordinateIds {
    /// Those of the calling user; [`crate::enter_user_namespace`] makes it another one.
    pub fn of_caller() -> SubordinateIds {
        let uid = rustix::process::geteuid().as_raw();
        let name = userns::user_name(uid);
        let ranges =
            |file| userns::subordinate(&fs::read_to_string(file).unwrap_or_default(), name.as_deref(), uid);
        SubordinateIds {
            uids: ranges("/etc/subuid"),
            gids: ranges("/etc/subgid"),
            newuidmap: userns::find_tool("newuidmap"),
            newgidmap: userns::find_tool("newgidmap"),
            user: name.unwrap_or_else(|| uid.to_string()),
        }
    }
}

/// Does something in a copy of this process, so that this one stays where it is.
fn in_copy(work: impl FnOnce() -> Result<(), Fault>) -> Result<(), Error> {
    let failed = |error: io::Error| Error::io("try something in a copy of this process")(error);
    let (answer, writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let writer = fs::File::from(writer);
    let copy = sys::fork(|| match work() {
        Ok(()) => 0,
        Err(fault) => {
            let _lost = serde_json::to_writer(&writer, &fault);
            1
        }
    })
    .map_err(failed)?;
    drop(writer);
    let mut text = Vec::new();
    fs::File::from(answer).read_to_end(&mut text).map_err(failed)?;
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(copy), WaitOptions::empty()))
        .map_err(|error| failed(error.into()))?;
    match serde_json::from_slice::<Fault>(&text) {
        Ok(fault) => Err(fault.into()),
        Err(_) if ended.is_some_and(|(_, status)| status.exit_status() == Some(0)) => Ok(()),
        Err(_) => Err(Error::Killed(String::new())),
    }
}
