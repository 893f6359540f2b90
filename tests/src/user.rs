//! Builds by an ordinary user.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Context, Done, Image, base, binary, need_root, run, tempdir, tool};

/// The user `nobody`, with a home directory, and subordinate ids and a /dev/net/tun that only its own mount namespace knows of: the
/// machine's stay as they are.
pub struct User {
    dir: TempDir,
    /// Of /dev/net/tun.
    tun_mode: &'static str,
}

/// Its id.
const ID: u32 = 65_534;

impl User {
    /// With 65,536 subordinate ids.
    ///
    /// # Panics
    /// When the test does not run as root.
    pub fn with_range() -> Self {
        Self::new("nobody:100000:65536\n")
    }

    /// Without any.
    ///
    /// # Panics
    /// As [`User::with_range`].
    pub fn with_one_id() -> Self {
        Self::new("")
    }

    fn new(ranges: &str) -> Self {
        need_root();
        let dir = tempdir();
        fs::copy(binary(), dir.path().join("builder"))
            .expect("copy the binary to where everyone may read it");
        for name in ["busybox", "debian"] {
            run(Command::new("cp").arg("-r").arg(base(name)).arg(dir.path().join(name))).ok();
        }
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(dir.path())).ok();
        for name in ["subuid", "subgid"] {
            fs::write(dir.path().join(name), ranges).expect("write the ranges");
        }
        for name in ["home", "out", "tmp"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("make a directory");
            chown(&path, Some(ID), Some(ID)).expect("give it to the user");
        }
        Self { dir, tun_mode: "666" }
    }

    /// The same on a machine that keeps /dev/net/tun for root.
    #[must_use]
    pub fn without_tun(self) -> Self {
        Self { tun_mode: "600", ..self }
    }

    /// A path in its directory, which holds its `home`, its `tmp` and `out`, and the base images.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program run by the user, `arguments` after it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = tool("unshare");
        let script = format!(
            "mount --bind '{0}/subuid' /etc/subuid; mount --bind '{0}/subgid' /etc/subgid; if [ -d /dev/net ]; then \
             mount -t tmpfs -o mode=755 none /dev/net; mknod -m {1} /dev/net/tun c 10 200; fi; exec setpriv --reuid={ID} --regid={ID} --clear-groups --inh-caps=-all -- \"$@\"",
            self.dir.path().display(),
            self.tun_mode
        );
        command.args(["--mount", "--propagation=private", "sh", "-e", "-c", &script, "sh"]).arg(program);
        command.current_dir(self.at("home")).env("HOME", self.at("home")).env("TMPDIR", self.at("tmp"));
        command.env("USER", "nobody").env("LOGNAME", "nobody");
        for variable in
            ["BUILDER_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "SOURCE_DATE_EPOCH", "DOCKER_CONFIG"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// `builder SUBCOMMAND` with the state in its home directory.
    pub fn builder(&self, subcommand: &str) -> Command {
        let mut command = self.command(&self.at("builder"));
        command.arg(subcommand);
        command
    }

    /// `builder build CONTEXT` with the base images under their names.
    ///
    /// # Panics
    /// When the context cannot be opened to the user.
    pub fn build(&self, context: &Context) -> Command {
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(context.path())).ok();
        let mut command = self.builder("build");
        for name in ["busybox", "debian"] {
            command.arg(format!("--build-context={name}=oci-layout://{}", self.at(name).display()));
        }
        command.arg(context.path());
        command
    }

    /// Builds with `--progress=rawjson`.
    ///
    /// # Panics
    /// When the build fails.
    #[track_caller]
    pub fn built(&self, context: &Context) -> Done {
        run(self.build(context).arg("--progress=rawjson")).ok()
    }

    /// Builds with fixed times and exports a layout.
    ///
    /// # Panics
    /// When the build fails.
    pub fn image(&self, context: &Context) -> Image {
        let layout = self.at("out").join("layout");
        let mut build = self.build(context);
        build.env("SOURCE_DATE_EPOCH", "1600000000");
        run(build.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())])).ok();
        Image::open(layout, None)
    }
}
