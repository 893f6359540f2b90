use std::fmt;
use std::str::FromStr;

use hash::{StableHash, StableHasher};
use serde::{Deserialize, Serialize};

/// What an image runs on, with Go's names (image spec, `image-index.md`, "platform").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`, `windows`, …
    pub os: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system's version, for Windows.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

/// A text is not `os[/arch[/variant]]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform `{0}`: expected os[/arch[/variant]], as in linux/arm64")]
pub struct ParsePlatformError(pub(crate) String);

/// Operating systems that stand alone in a text (Go's `syslist.go`, as containerd's `platforms` lists them).
const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// Architectures that stand alone in a text (same source).
const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// A platform in normal form.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
        let (architecture, variant) = normalise(&architecture.to_ascii_lowercase(), variant);
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        Platform { os, architecture, variant, os_version: None }
    }

    /// The platform of this machine.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Platform::new("linux", architecture, variant)
    }

    /// The same platform with containerd's normal names: `x86_64` is `amd64`, `arm` is `arm/v7`, `arm64/v8` is `arm64`.
    pub fn normalised(&self) -> Platform {
        Platform {
            os_version: self.os_version.clone(),
            ..Platform::new(&self.os, &self.architecture, self.variant.as_deref())
        }
    }

    /// Whether programs of `other` run here without emulation, and how well they fit: 0 is an exact fit, larger numbers
    /// are older variants or the 32-bit sibling. The order is that of containerd's `platforms.Only`.
    pub fn rank(&self, other: &Platform) -> Option<usize> {
        let wanted = self.normalised();
        let other = other.normalised();
        if other.os != wanted.os || (wanted.os_version.is_some() && other.os_version != wanted.os_version) {
            return None;
        }
        let other = (other.architecture, other.variant);
        runnable(&wanted.architecture, wanted.variant.as_deref()).iter().position(|one| *one == other)
    }
}

/// Architectures and variants, in normal form, that run on one of `architecture` and `variant`; the best fit first.
fn runnable(architecture: &str, variant: Option<&str>) -> Vec<(String, Option<String>)> {
    let number = variant.and_then(|variant| variant.strip_prefix('v'));
    let mut list = vec![(architecture.to_owned(), variant.map(str::to_owned))];
    match architecture {
        "amd64" => {
            let version: u32 = number.and_then(|number| number.parse().ok()).unwrap_or(1).min(9);
            for version in (1..version).rev() {
                list.push(normalise("amd64", Some(format!("v{version}"))));
            }
            list.push(("386".to_owned(), None));
        }
        "arm" => {
            let version: u32 = number.and_then(|number| number.parse().ok()).unwrap_or(5).min(9);
            list.extend((5..version).rev().map(|version| normalise("arm", Some(format!("v{version}")))));
        }
        "arm64" => {
            let version = number.unwrap_or("8");
            let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
            // Armv9.n contains Armv8.(n + 5); Armv8.n goes up to 8.9.
            let steps = match (major, minor.parse::<u32>()) {
                ("8", Ok(minor @ 0..=9)) => vec![(8, minor)],
                ("9", Ok(minor @ 0..=7)) => vec![(9, minor), (8, (minor + 5).min(9))],
                _ => vec![],
            };
            if !steps.is_empty() {
                list.clear();
            }
            for (major, newest) in steps {
                list.extend((0..=newest).rev().map(|minor| {
                    let variant = if minor == 0 { format!("v{major}") } else { format!("v{major}.{minor}") };
                    normalise("arm64", Some(variant))
                }));
            }
            list.extend(runnable("arm", Some("v8")));
        }
        _ => {}
    }
    list
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    /// `os[/arch[/variant]]`, or one word that names an operating system, an architecture or `local`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParsePlatformError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Platform> {
    let parts: Vec<&str> = text.split('/').collect();
    let valid = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    if parts.len() > 3 || !parts.iter().all(valid) {
        return None;
    }
    let host = Platform::host();
    match parts[..] {
        ["local"] => Some(host),
        [word] => {
            let os = Platform::new(word, "", None).os;
            if SYSTEMS.contains(&os.as_str()) {
                return Some(Platform { os, ..host });
            }
            let named = Platform::new(&host.os, word, None);
            ARCHITECTURES.contains(&named.architecture.as_str()).then_some(named)
        }
        [os, architecture] => Some(Platform::new(os, architecture, None)),
        [os, architecture, variant] => Some(Platform::new(os, architecture, Some(variant))),
        _ => None,
    }
}

/// Other names of architectures, as containerd maps them (`platforms/database.go`).
fn normalise(architecture: &str, variant: Option<String>) -> (String, Option<String>) {
    let (architecture, variant) = match (architecture, variant.as_deref()) {
        ("i386", _) => ("386", None),
        ("x86_64" | "x86-64" | "amd64", Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", _) => ("amd64", variant),
        ("aarch64" | "arm64", Some("8" | "v8" | "v8.0")) => ("arm64", None),
        ("aarch64" | "arm64", Some("9" | "9.0" | "v9.0")) => ("arm64", Some("v9".to_owned())),
        ("aarch64" | "arm64", _) => ("arm64", variant),
        ("armhf", _) => ("arm", Some("v7".to_owned())),
        ("armel", _) => ("arm", Some("v6".to_owned())),
        ("arm", None | Some("7")) => ("arm", Some("v7".to_owned())),
        ("arm", Some(number @ ("5" | "6" | "8"))) => ("arm", Some(format!("v{number}"))),
        (other, _) => (other, variant),
    };
    (architecture.to_owned(), variant)
}

impl StableHash for Platform {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.os.stable_hash(hasher);
        self.architecture.stable_hash(hasher);
        self.variant.stable_hash(hasher);
        self.os_version.stable_hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn reads_texts_as_containerd_normalises_them() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/x86-64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/i386", "linux/386"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v8.0", "linux/arm64"),
            ("linux/arm64/9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("Linux/AMD64", "linux/amd64"),
            ("macos/arm64", "darwin/arm64"),
            ("arm64", "linux/arm64"),
            ("armhf", "linux/arm/v7"),
            ("riscv64", "linux/riscv64"),
            ("linux/made-up", "linux/made-up"),
        ] {
            assert_eq!(platform(text).to_string(), expected, "{text}");
        }
        assert_eq!(platform("local"), Platform::host());
        assert_eq!(platform("linux"), Platform::host());
        assert_eq!(platform("windows").os, "windows");
        for text in
            ["", "/", "linux/", "/amd64", "linux/amd64/v1/x", "linux/*", "a b", "nonsense", "linux//v7"]
        {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranks_as_containerd_orders_what_runs() {
        let ranked = |wanted: &str, others: &[&str]| -> Vec<Option<usize>> {
            others.iter().map(|other| platform(wanted).rank(&platform(other))).collect()
        };
        assert_eq!(
            ranked("linux/amd64", &["linux/amd64", "linux/386", "linux/arm64", "windows/amd64"]),
            [Some(0), Some(1), None, None]
        );
        assert_eq!(
            ranked("linux/amd64/v3", &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
            [Some(0), Some(1), Some(2), Some(3)]
        );
        assert_eq!(
            ranked("linux/arm/v7", &["linux/arm", "linux/arm/v6", "linux/arm/v5", "linux/arm/v8"]),
            [Some(0), Some(1), Some(2), None]
        );
        assert_eq!(
            ranked("linux/arm64", &["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v5"]),
            [Some(0), Some(1), Some(2), Some(4)]
        );
        assert_eq!(
            ranked(
                "linux/arm64/v9",
                &["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64", "linux/arm64/v8.6"]
            ),
            [Some(0), Some(1), Some(6), None]
        );
        // A variant is never newer than what was asked for.
        assert_eq!(ranked("linux/amd64", &["linux/amd64/v2"]), [None]);
        assert_eq!(ranked("linux/riscv64", &["linux/riscv64", "linux/386"]), [Some(0), None]);
    }
}
