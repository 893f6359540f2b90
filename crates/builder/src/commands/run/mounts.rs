//! What of this machine, or of its memory, a program sees besides the image: `-v`, `--mount`, `--tmpfs`, in Docker's words.

use std::path::{Path, PathBuf};

use executor::{Mount, MountKind};

use crate::commands::build::size;
use crate::failure::Failure;

const NO_VOLUMES: &str = "named volumes do not exist here: name a directory";

/// `HOST:PATH[:ro]`, as `docker run -v` has it.
pub(super) fn volume(volume: &str) -> Result<Mount, Failure> {
    let wrong = |reason: &str| Failure::usage(format!("-v {volume}: {reason}"));
    let mut parts = volume.split(':');
    let (host, target) = match (parts.next(), parts.next()) {
        (Some(host), Some(target)) if !host.is_empty() => (Path::new(host), Path::new(target)),
        _ => return Err(wrong("give HOST:PATH, a place of this machine and one of the program's")),
    };
    let read_only = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(wrong("behind the paths only ro or rw can stand")),
    };
    let target = inside(target).map_err(&wrong)?;
    let source =
        host.canonicalize().map_err(|_| wrong("there is no such file or directory").hint(NO_VOLUMES))?;
    Ok(Mount { target, kind: MountKind::Bind { source }, read_only })
}

/// `PATH[:size=64m,mode=1777,ro]`, as `docker run --tmpfs` has it.
pub(super) fn tmpfs(text: &str) -> Result<Mount, Failure> {
    let wrong = |reason: String| Failure::usage(format!("--tmpfs {text}: {reason}"));
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = inside(Path::new(target)).map_err(|reason| wrong(reason.to_owned()))?;
    let (mut limit, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => limit = Some(size(value).map_err(wrong)?),
            Some(("mode", value)) => mode = Some(octal(value).map_err(wrong)?),
            None if option == "ro" => read_only = true,
            // What it is anyway.
            None if matches!(option, "rw" | "nosuid" | "nodev") => {}
            _ => return Err(wrong(format!("`{option}` is not supported; use size=, mode=, ro or rw"))),
        }
    }
    Ok(Mount { target, kind: MountKind::Tmpfs { size: limit, mode }, read_only })
}

/// `type=bind,source=HOST,target=PATH[,readonly]` or `type=tmpfs,target=PATH[,tmpfs-size=64m][,tmpfs-mode=1777]`, as `docker run --mount`
/// has it.
pub(super) fn mount(text: &str) -> Result<Mount, Failure> {
    let wrong = |reason: String| Failure::usage(format!("--mount {text}: {reason}"));
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut limit, mut mode, mut read_only) = (None, None, false);
    for option in text.split(',') {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("type", Some(value)) => kind = value,
            ("source" | "src", Some(value)) => source = Some(value),
            ("target" | "dst" | "destination", Some(value)) => target = Some(value),
            ("readonly" | "ro", None | Some("true" | "1")) => read_only = true,
            ("readonly" | "ro", Some("false" | "0")) => read_only = false,
            ("tmpfs-size", Some(value)) => limit = Some(size(value).map_err(wrong)?),
            ("tmpfs-mode", Some(value)) => mode = Some(octal(value).map_err(wrong)?),
            _ => {
                return Err(wrong(format!(
                    "`{option}` is not supported; there are type, source, target, readonly, tmpfs-size and tmpfs-mode"
                )));
            }
        }
    }
    let target = target.ok_or_else(|| wrong("the target is missing: target=PATH".to_owned()))?;
    let target = inside(Path::new(target)).map_err(|reason| wrong(reason.to_owned()))?;
    let of_tmpfs = limit.is_some() || mode.is_some();
    let kind = match (kind, source) {
        ("tmpfs", None) => MountKind::Tmpfs { size: limit, mode },
        ("tmpfs", Some(_)) => return Err(wrong("a tmpfs has no source".to_owned())),
        ("bind", Some(source)) if !of_tmpfs => {
            let source = Path::new(source).canonicalize();
            MountKind::Bind { source: source.map_err(|_| wrong("there is no such source".to_owned()))? }
        }
        ("bind", Some(_)) => return Err(wrong("tmpfs-size and tmpfs-mode are for type=tmpfs".to_owned())),
        ("bind", None) => return Err(wrong("the source is missing: source=HOST".to_owned())),
        ("volume", _) => {
            return Err(wrong("its type is volume".to_owned()).hint(format!("{NO_VOLUMES}, with type=bind")));
        }
        (other, _) => return Err(wrong(format!("there is no type `{other}`; known are bind and tmpfs"))),
    };
    Ok(Mount { target, kind, read_only })
}

/// A place of the program's.
fn inside(target: &Path) -> Result<PathBuf, &'static str> {
    if !target.is_absolute() || target == Path::new("/") {
        return Err("the program's path must be absolute, and not /");
    }
    Ok(target.to_owned())
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("`{text}` is no mode; write 1777"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let volume =
            |text: &str| volume(text).map(|mount| (mount.target, mount.read_only)).map_err(|f| f.code());
        assert_eq!(volume("/usr:/x"), Ok(("/x".into(), false)));
        assert_eq!(volume("/usr:/x/y:ro"), Ok(("/x/y".into(), true)));
        for wrong in ["/usr", ":/x", "/usr:x", "/usr:/", "/usr:/x:rx", "/usr:/x:ro:ro", "name-of-a-volume:/x"]
        {
            assert_eq!(volume(wrong), Err(2), "{wrong}");
        }
    }

    #[test]
    fn memory() {
        let tmpfs = |text: &str| {
            let mount = tmpfs(text).ok()?;
            let MountKind::Tmpfs { size, mode } = mount.kind else { return None };
            Some((mount.target, size, mode, mount.read_only))
        };
        assert_eq!(tmpfs("/x"), Some(("/x".into(), None, None, false)));
        let all = Some(("/x".into(), Some(1 << 20), Some(0o700), true));
        assert_eq!(tmpfs("/x:size=1m,mode=700,ro,nosuid"), all);
        for wrong in ["x", "/", "/x:noexec", "/x:size=big", "/x:mode=9"] {
            assert_eq!(tmpfs(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn in_long() {
        let mount = |text: &str| mount(text).map_err(|failure| failure.code());
        let bind = mount("type=bind,src=/usr,dst=/x,ro").unwrap();
        assert!(
            bind.read_only && matches!(bind.kind, MountKind::Bind { source } if source == Path::new("/usr"))
        );
        let tmpfs = mount("type=tmpfs,target=/x,tmpfs-size=1m").unwrap();
        assert!(matches!(tmpfs.kind, MountKind::Tmpfs { size: Some(1_048_576), mode: None }));
        for wrong in [
            "source=name,target=/x",
            "type=bind,target=/x",
            "type=bind,source=/usr",
            "type=bind,source=/no-such,target=/x",
            "type=bind,source=/usr,target=/x,tmpfs-size=1m",
            "type=tmpfs,source=/usr,target=/x",
            "type=tmpfs,target=x",
            "type=npipe,target=/x",
            "type=bind,source=/usr,target=/x,bind-propagation=shared",
        ] {
            assert!(matches!(mount(wrong), Err(2)), "{wrong}");
        }
    }
}
