//! The base `debian`: a minimal Debian of this machine's release, with this machine's way to its packages.

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::EPOCH;
use super::rootfs::Rootfs;
use crate::shell::{self, Result};

/// As in the slim images of Debian: nobody reads manuals in a container. The licences stay.
const WITHOUT: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    // A layer that is lost in a power failure is built again: no need to sync every file.
    "force-unsafe-io",
];

/// As in Docker's images of Debian: no archives and caches that only make layers larger.
const SMALL: &str = r#"
APT::Keep-Downloaded-Packages "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"#;

pub(super) fn recipe() -> Result<String> {
    let mut recipe = format!("debian 1\n{}\n{}", release()?, acquire()?);
    for source in sources()? {
        recipe += &fs::read_to_string(source)?;
    }
    Ok(recipe)
}

pub(super) fn rootfs() -> Result<Rootfs> {
    let sources = sources()?;
    let dir = tempfile::tempdir()?;
    let tar = dir.path().join("rootfs.tar");
    let mut bootstrap = shell::command("mmdebstrap");
    bootstrap
        .args(["--variant=minbase", "--quiet", "--format=tar"])
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    for option in WITHOUT {
        bootstrap.arg(format!("--dpkgopt={option}"));
    }
    if uses_tls(&sources)? {
        bootstrap.arg("--include=ca-certificates");
    }
    shell::show(bootstrap.arg(release()?).arg(&tar).args(&sources))?;

    let mut rootfs = Rootfs::from_tar(BufReader::new(fs::File::open(tar)?))?;
    for rubbish in ["var/cache/debconf/templates.dat-old", "var/cache/debconf/config.dat-old", "etc/hostname"]
    {
        rootfs.remove(rubbish);
    }
    rootfs.remove("etc/resolv.conf").remove("dev").directory("dev", 0o755);
    rootfs.file("etc/apt/apt.conf.d/90small", 0o644, SMALL.trim_start());
    rootfs.file("etc/apt/apt.conf.d/95host", 0o644, acquire()?);
    for file in keys_and_logins()? {
        let path = file.display().to_string();
        let mode = if path.contains("auth.conf") { 0o600 } else { 0o644 };
        rootfs.file(path.trim_start_matches('/'), mode, fs::read(&file)?);
    }
    if uses_tls(&sources)? {
        let bundle = "etc/ssl/certs/ca-certificates.crt";
        rootfs.file(bundle, 0o644, fs::read(Path::new("/").join(bundle))?);
    }
    Ok(rootfs)
}

/// The code name of this machine's release.
pub(crate) fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.ok_or("/etc/os-release names no VERSION_CODENAME: the debian base is made on Debian")?.to_owned())
}

/// This machine's apt sources.
pub(crate) fn sources() -> Result<Vec<PathBuf>> {
    let mut sources = files("/etc/apt/sources.list.d", &["list", "sources"])?;
    sources.insert(0, "/etc/apt/sources.list".into());
    sources.retain(|path| {
        let live = |line: &str| line.starts_with("deb") || line.starts_with("URIs:");
        fs::read_to_string(path).is_ok_and(|text| text.lines().any(live))
    });
    if sources.is_empty() {
        return Err("this machine has no apt sources".into());
    }
    Ok(sources)
}

fn uses_tls(sources: &[PathBuf]) -> Result<bool> {
    for source in sources {
        if fs::read_to_string(source)?.lines().any(|line| !line.starts_with('#') && line.contains("https:")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How this machine's apt fetches: proxies, checks, timeouts.
fn acquire() -> Result<String> {
    let dump = shell::output(shell::command("apt-config").arg("dump"))?;
    // `Acquire::Changelogs` only lists where changelogs are; the languages are set above.
    let ours = |line: &&str| {
        line.starts_with("Acquire::") && !line.contains("::Changelogs") && !line.contains("::Languages")
    };
    Ok(dump.lines().filter(ours).map(|line| format!("{line}\n")).collect())
}

/// The files that let apt trust and enter this machine's sources.
fn keys_and_logins() -> Result<Vec<PathBuf>> {
    let mut all = files("/etc/apt/keyrings", &["gpg", "asc"])?;
    all.extend(files("/etc/apt/trusted.gpg.d", &["gpg", "asc"])?);
    all.extend(files("/etc/apt/auth.conf.d", &["conf"])?);
    all.extend(
        ["/etc/apt/trusted.gpg", "/etc/apt/auth.conf"].map(PathBuf::from).into_iter().filter(|p| p.is_file()),
    );
    for source in sources()? {
        for line in fs::read_to_string(source)?.lines() {
            let key = line.strip_prefix("Signed-By:").map(str::trim).or_else(|| {
                line.strip_prefix("deb")?
                    .split_once("signed-by=")
                    .and_then(|(_, rest)| rest.split([']', ' ']).next())
            });
            all.extend(key.filter(|key| key.starts_with('/')).map(PathBuf::from));
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn files(dir: &str, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extensions.iter().any(|known| extension == *known)) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
