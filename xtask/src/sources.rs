//! Source packages that hold Dockerfiles, from this machine's Debian mirror.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::shell::{self, Result};

/// The release whose packages are pinned: a mirror has the older ones, too.
const RELEASE: &str = "bookworm";

/// What is pinned, by package; `tests/sources.rs` reads the same file.
const PINS: &str = "tests/sources.tsv";

/// An archive of a source package.
struct Pin {
    package: String,
    file: String,
    sha256: String,
}

/// Fetches what is not there yet and returns the directory that holds the archives.
///
/// # Errors
/// When the mirror cannot be reached or has other files than those that are pinned.
pub(crate) fn ensure() -> Result<PathBuf> {
    let dir = shell::target().join("sources");
    fs::create_dir_all(&dir)?;
    let pins = pins()?;
    let missing = absent(&pins, &dir)?;
    if missing.is_empty() {
        return Ok(dir);
    }
    let mut packages: Vec<&str> = missing.iter().map(|pin| pin.package.as_str()).collect();
    packages.dedup();
    println!("fetching {} source packages from this machine's Debian mirror", packages.len());
    let apt = Apt::new(&dir)?;
    shell::show(apt.get(&dir).arg("update"))?;
    // Whatever arrives is compared below; one package that is not there must not hide the others.
    let fetched = shell::show(
        apt.get(&dir).args(["source", "--download-only", "--tar-only", "--ignore-hold"]).args(&packages),
    );
    let missing = absent(&pins, &dir)?;
    if missing.is_empty() {
        return Ok(dir);
    }
    let names: Vec<&str> = missing.iter().map(|pin| pin.file.as_str()).collect();
    let reason = fetched.err().map_or_else(|| "it has other versions".to_owned(), |error| error.to_string());
    Err(format!("the Debian mirror of this machine did not give {}: {reason}", names.join(", ")).into())
}

fn pins() -> Result<Vec<Pin>> {
    let text = fs::read_to_string(shell::root().join(PINS))?;
    let mut pins = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [package, file, sha256] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(format!("{PINS}: not three columns: {line}").into());
        };
        pins.push(Pin { package: package.into(), file: file.into(), sha256: sha256.into() });
    }
    Ok(pins)
}

/// Those that are not there with the right content. Anything else of that name goes.
fn absent<'a>(pins: &'a [Pin], dir: &Path) -> Result<Vec<&'a Pin>> {
    let mut absent = Vec::new();
    for pin in pins {
        let path = dir.join(&pin.file);
        match sha256(&path)? {
            Some(found) if found == pin.sha256 => continue,
            Some(found) => {
                println!("{}: sha256 is {found}, not {}", pin.file, pin.sha256);
                fs::remove_file(&path)?;
            }
            None => {}
        }
        absent.push(pin);
    }
    Ok(absent)
}

fn sha256(path: &Path) -> Result<Option<String>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display()).into()),
    };
    Ok(Some(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// apt with this machine's way to its mirror, asked for sources of one release, and with lists of its own.
struct Apt {
    dir: tempfile::TempDir,
}

impl Apt {
    fn new(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("apt.").tempdir_in(parent)?;
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.path().join(name))?;
        }
        let mut found = false;
        for (number, path) in crate::bases::apt_sources()?.iter().enumerate() {
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(path)?;
            let codename = crate::bases::codename()?;
            let derived = match extension.as_str() {
                "sources" => stanzas(&text, &codename),
                _ => lines(&text, &codename),
            };
            found |= !derived.is_empty();
            fs::create_dir_all(dir.path().join("parts"))?;
            fs::write(dir.path().join(format!("parts/{number}.{extension}")), derived)?;
        }
        if !found {
            return Err("this machine's apt sources name no mirror of its Debian release".into());
        }
        Ok(Self { dir })
    }

    fn get(&self, into: &Path) -> std::process::Command {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let mut apt = shell::command("apt-get");
        apt.current_dir(into).args(["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
        apt.args(["-o", "Dir::Etc::sourcelist=/dev/null", "-o"]);
        apt.arg(format!("Dir::Etc::sourceparts={}", at("parts")));
        apt.arg("-o").arg(format!("Dir::State::Lists={}", at("lists")));
        apt.arg("-o").arg(format!("Dir::Cache={}", at("cache")));
        apt
    }
}

/// The suite of the pinned release that takes the place of one of this machine's; none for what is no suite of Debian's.
fn pinned(suite: &str, codename: &str) -> Option<String> {
    let rest = suite.strip_prefix(codename)?;
    (rest.is_empty() || rest.starts_with('-')).then(|| format!("{RELEASE}{rest}"))
}

/// Sources for `deb822`-style sources (sources.list(5)).
fn stanzas(text: &str, codename: &str) -> String {
    let mut derived = String::new();
    let live: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in live.split(|line| line.trim().is_empty()) {
        let value = |name: &str| {
            stanza.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let suites: Vec<String> = value("Suites")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|suite| pinned(suite, codename))
            .collect();
        let off = value("Enabled").is_some_and(|value| value == "no");
        if suites.is_empty() || off {
            continue;
        }
        derived += &format!("Types: deb-src\nSuites: {}\nComponents: main\n", suites.join(" "));
        let replaced = ["types", "suites", "components", "architectures"];
        let mut kept = true;
        for line in stanza {
            // A line that begins with a blank continues the one before it.
            if !line.starts_with([' ', '\t']) {
                let key = line.split(':').next().unwrap_or_default().to_lowercase();
                kept = !replaced.contains(&key.as_str());
            }
            if kept {
                derived += &format!("{line}\n");
            }
        }
        derived.push('\n');
    }
    derived
}

/// Sources for one-line-style sources (sources.list(5)).
fn lines(text: &str, codename: &str) -> String {
    let mut derived = String::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("deb ")) {
        let line = line.trim_start();
        let (options, rest) = match line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            Some((options, rest)) => (format!("[{options}] "), rest),
            None => (String::new(), line),
        };
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        if let Some(suite) = pinned(suite, codename) {
            derived += &format!("deb-src {options}{uri} {suite} main\n");
        }
    }
    derived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_the_pinned_release() {
        let text = "# a comment\nTypes: deb\nURIs: http://a/debian\nSuites: trixie trixie-updates\nComponents: main contrib\n\
                    Signed-By: /k.gpg\n\nTypes: deb\nURIs: http://b\nSuites: other\nComponents: x\n";
        let derived = "Types: deb-src\nSuites: bookworm bookworm-updates\nComponents: main\nURIs: http://a/debian\nSigned-By: /k.gpg\n\n";
        assert_eq!(stanzas(text, "trixie"), derived);
        let text = "deb [trusted=yes] http://a/debian trixie main\n#deb http://b trixie main\ndeb http://c trixie-security main x\ndeb http://d trixies main\n";
        let derived =
            "deb-src [trusted=yes] http://a/debian bookworm main\ndeb-src http://c bookworm-security main\n";
        assert_eq!(lines(text, "trixie"), derived);
    }
}
