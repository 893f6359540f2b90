//! The ordinary user by whom a scenario is run.

use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::shell::{self, Result};

/// `nobody`, with 65,536 subordinate ids that only a mount namespace knows of: the machine's files stay as they are.
pub(crate) struct User {
    home: PathBuf,
    /// Keeps the mount namespace.
    keeper: Child,
}

const ID: u32 = 65_534;

/// With the directory of the ranges as its argument.
const KEEP: &str = "mount --bind \"$0/subuid\" /etc/subuid; mount --bind \"$0/subgid\" /etc/subgid; echo made; exec sleep infinity";

impl User {
    /// With a home directory of its own.
    ///
    /// # Errors
    /// When this process is not root, or the namespace cannot be made.
    pub(crate) fn new(home: PathBuf) -> Result<Self> {
        if !shell::is_root() {
            return Err("root is needed to become another user".into());
        }
        fs::create_dir_all(&home)?;
        for name in ["subuid", "subgid"] {
            fs::write(home.join(name), "nobody:100000:65536\n")?;
        }
        chown(&home, Some(ID), Some(ID))?;
        let mut keep = shell::command("unshare");
        keep.args(["--mount", "--propagation=private", "sh", "-e", "-c", KEEP]).arg(&home);
        let mut keeper = keep.stdout(Stdio::piped()).spawn()?;
        let made = keeper.stdout.take().map(|mut stdout| stdout.read_exact(&mut [0]));
        let user = Self { home, keeper };
        match made {
            Some(Ok(())) => Ok(user),
            _ => Err("no mount namespace for an ordinary user".into()),
        }
    }

    /// Where its files are.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// A command run by the user; one more program is executed before it, which takes a millisecond.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        let mut command = shell::command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()));
        command.args([format!("--setuid={ID}"), format!("--setgid={ID}")]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("HOME", &self.home).env("USER", "nobody").env("LOGNAME", "nobody");
        command.env_remove("XDG_RUNTIME_DIR").env_remove("TMPDIR");
        command
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // It waits for nothing else.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
