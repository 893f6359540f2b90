//! `BUILDER_DISABLE`: fast paths that are not to be taken. Results are the same without them, only slower: it is for telling whether
//! one of them is at fault.

use crate::failure::Failure;

const VARIABLE: &str = "BUILDER_DISABLE";

/// What is switched off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disabled {
    /// Each version of a layer is written in full.
    pub(crate) versions: bool,
    /// Every file that is selected from a context is read.
    pub(crate) stat_cache: bool,
    /// All of a layer is compressed anew.
    pub(crate) chunks: bool,
    /// RUN works in a full copy of its file system.
    pub(crate) overlay: bool,
    /// What COPY copies is read and written, not shared or left to the kernel.
    pub(crate) reflink: bool,
}

impl Disabled {
    /// As the environment says.
    ///
    /// # Errors
    /// When it names something that is no fast path.
    pub(crate) fn from_env() -> Result<Disabled, Failure> {
        match std::env::var_os(VARIABLE) {
            Some(text) => Disabled::parse(&text.to_string_lossy()),
            None => Ok(Disabled::default()),
        }
    }

    /// Names, with commas between them.
    fn parse(text: &str) -> Result<Disabled, Failure> {
        let mut disabled = Disabled::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "versions" => disabled.versions = true,
                "stat-cache" => disabled.stat_cache = true,
                "chunks" => disabled.chunks = true,
                "overlay" => disabled.overlay = true,
                "reflink" => disabled.reflink = true,
                _ => {
                    return Err(Failure::usage(format!("{VARIABLE}: there is no fast path {name:?}")).hint(
                        "there are versions, stat-cache, chunks, overlay and reflink; write a comma between several",
                    ));
                }
            }
        }
        Ok(disabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let parse = |text: &str| Disabled::parse(text).ok();
        assert_eq!(parse(""), Some(Disabled::default()));
        assert_eq!(parse("versions"), Some(Disabled { versions: true, ..Disabled::default() }));
        assert_eq!(parse("reflink"), Some(Disabled { reflink: true, ..Disabled::default() }));
        assert_eq!(parse("chunks"), Some(Disabled { chunks: true, ..Disabled::default() }));
        assert_eq!(
            parse(" stat-cache, chunks,"),
            Some(Disabled { stat_cache: true, chunks: true, ..Disabled::default() })
        );
        let failure = Disabled::parse("link").unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().contains("stat-cache"), "{failure}");
    }
}
