//! Flags of `docker buildx build` and `docker run` that are not there yet: refused by name, never ignored.

use std::ffi::OsString;
use std::fmt;

/// A flag that is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) has_value: bool,
    /// What does the same here, when something does.
    instead: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} is not supported yet", self.name)?;
        if self.instead.is_empty() { Ok(()) } else { write!(f, "\n\n  tip: {}", self.instead) }
    }
}

const fn switch(name: &'static str, short: Option<char>, instead: &'static str) -> Refused {
    Refused { name, short, has_value: false, instead }
}

const fn valued(name: &'static str, short: Option<char>, instead: &'static str) -> Refused {
    Refused { name, short, has_value: true, instead }
}

/// Of `docker buildx build`.
pub(crate) const BUILD: &[Refused] = &[
    valued("attest", None, ""),
    valued("builder", None, "there is only one builder, and no daemon: leave it out"),
    switch("compress", None, ""),
    switch("debug", Some('D'), ""),
    valued("isolation", None, ""),
    valued("policy", None, ""),
    valued("provenance", None, ""),
    valued("sbom", None, ""),
    valued("security-opt", None, ""),
    switch("squash", None, ""),
];

/// Of `docker run`, those that people type most.
pub(crate) const RUN: &[Refused] = &[
    valued("add-host", None, ""),
    valued("cap-add", None, ""),
    valued("cap-drop", None, ""),
    valued("cpus", None, ""),
    switch("detach", Some('d'), "a run stays in the foreground; a shell's `&` puts it elsewhere"),
    valued("device", None, ""),
    valued("env-file", None, ""),
    valued("hostname", None, ""),
    switch("init", None, ""),
    valued("label", Some('l'), ""),
    valued("memory", Some('m'), ""),
    valued("mount", None, ""),
    valued("name", None, "a run leaves nothing behind that would need a name"),
    valued("platform", None, ""),
    switch("privileged", None, ""),
    valued("publish", Some('p'), "the program has the host's network: its ports are the host's"),
    switch("publish-all", Some('P'), "the program has the host's network: its ports are the host's"),
    valued("pull", None, ""),
    switch("read-only", None, ""),
    valued("restart", None, ""),
    valued("security-opt", None, ""),
    valued("shm-size", None, ""),
    valued("tmpfs", None, ""),
    valued("ulimit", None, ""),
];

/// The first refused flag on a command line that could not be understood, perhaps because of it.
pub(crate) fn in_arguments(arguments: &[OsString]) -> Option<&'static Refused> {
    let (command, rest) = (arguments.get(1)?, arguments.get(2..)?);
    let flags = match command.to_str()? {
        "build" => BUILD,
        "run" => RUN,
        _ => return None,
    };
    let words = rest.iter().filter_map(|word| word.to_str()).take_while(|word| *word != "--");
    words.filter_map(|word| word.strip_prefix("--")).find_map(|word| {
        let name = word.split('=').next().unwrap_or(word);
        flags.iter().find(|flag| flag.name == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tip_says_what_to_do_instead() {
        let text = |name| BUILD.iter().find(|flag| flag.name == name).unwrap().to_string();
        assert_eq!(text("squash"), "--squash is not supported yet");
        assert!(text("builder").starts_with("--builder is not supported yet\n\n  tip: "));
    }

    #[test]
    fn values_and_what_follows_two_dashes_are_no_flags() {
        let find = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            in_arguments(&words).map(|flag| flag.name)
        };
        assert_eq!(find("builder build --sbom="), Some("sbom"));
        assert_eq!(find("builder build -t sbom -- --sbom"), None);
        assert_eq!(find("builder images --sbom"), None);
        assert_eq!(find("builder"), None);
    }
}
