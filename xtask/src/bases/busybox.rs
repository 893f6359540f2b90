//! The base `busybox`: Debian's busybox-static, a link for each applet, and the few files that programs expect.

use std::fs;

use super::rootfs::Rootfs;
use crate::shell::{self, Result};

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";

const GROUP: &str = "\
root:x:0:
daemon:x:1:
staff:x:50:
users:x:100:
www-data:x:33:
nogroup:x:65534:
";

const SHADOW: &str = "root:*:::::::\ndaemon:*:::::::\nwww-data:*:::::::\nnobody:*:::::::\n";

pub(super) fn recipe() -> Result<String> {
    let version =
        shell::output(shell::command("dpkg-query").args(["-W", "-f", "${Version}", "busybox-static"]))?;
    Ok(format!("busybox 1\n{version}\n"))
}

pub(super) fn rootfs() -> Result<Rootfs> {
    let busybox = shell::find("busybox").ok_or("busybox is not on the PATH")?;
    let mut rootfs = Rootfs::default();
    for dir in ["bin", "dev", "etc", "home", "proc", "run", "sbin", "sys", "usr", "usr/bin", "usr/sbin"] {
        rootfs.directory(dir, 0o755);
    }
    for dir in ["var", "var/log", "var/spool", "var/www"] {
        rootfs.directory(dir, 0o755);
    }
    rootfs.directory("root", 0o700).directory("tmp", 0o1777).directory("var/tmp", 0o1777);
    rootfs.file("etc/passwd", 0o644, PASSWD).file("etc/group", 0o644, GROUP).file(
        "etc/shadow",
        0o600,
        SHADOW,
    );
    rootfs.file("bin/busybox", 0o755, fs::read(&busybox)?);
    for applet in shell::output(shell::command(busybox).arg("--list-full"))?.lines() {
        // `linuxrc` is for the kernel, which starts no process of a container.
        if applet.contains('/') && applet != "bin/busybox" {
            rootfs.symlink(applet, "/bin/busybox");
        }
    }
    Ok(rootfs)
}
