/// Colours of finished steps, as escape sequences; empty means none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Colors {
    /// Done or cached.
    pub(super) run: String,
    pub(super) cancel: String,
    pub(super) error: String,
    pub(super) warning: String,
    /// Output of steps.
    pub(super) faint: String,
    /// Behind each of them.
    pub(super) reset: String,
}

impl Default for Colors {
    fn default() -> Self {
        let named = |name| named(name).unwrap_or_default();
        Colors {
            run: named("blue"),
            cancel: named("yellow"),
            error: named("red"),
            warning: named("yellow"),
            faint: "\x1b[2m".to_owned(),
            reset: "\x1b[0m".to_owned(),
        }
    }
}

impl Colors {
    /// No escape sequence at all.
    pub(super) fn none() -> Colors {
        let none = String::new;
        Colors { run: none(), cancel: none(), error: none(), warning: none(), faint: none(), reset: none() }
    }

    /// `run=blue:error=255,0,0`: keys `run`, `cancel`, `error`, `warning`; names or decimal RGB. What is wrong is reported
    /// and left out.
    pub(super) fn parse(list: &str) -> Colors {
        let mut colors = Colors::default();
        for entry in list.split(':').filter(|entry| !entry.is_empty()) {
            let pair = entry.split_once('=').map(|(key, value)| (key.to_lowercase(), value.to_lowercase()));
            let parsed = pair.and_then(|(key, value)| Some((key, named(&value).or_else(|| rgb(&value))?)));
            let field = match parsed.as_ref().map(|(key, _)| key.as_str()) {
                Some("run") => &mut colors.run,
                Some("cancel") => &mut colors.cancel,
                Some("error") => &mut colors.error,
                Some("warning") => &mut colors.warning,
                _ => {
                    tracing::warn!(
                        entry,
                        "BUILDKIT_COLORS: expected run, cancel, error or warning = a colour's name or R,G,B"
                    );
                    continue;
                }
            };
            *field = parsed.map(|(_, color)| color).unwrap_or_default();
        }
        colors
    }
}

fn named(name: &str) -> Option<String> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    let (base, name) = match name.strip_prefix("light-") {
        Some(name) => (90, name),
        None => (30, name),
    };
    let code = if (base, name) == (30, "default") { 9 } else { NAMES.iter().position(|one| *one == name)? };
    Some(format!("\x1b[{}m", base + code))
}

/// The nearest of the 216 colours that terminals share.
fn rgb(text: &str) -> Option<String> {
    let mut parts =
        text.split(',').map(|part| part.trim().parse::<u8>().ok().map(|part| usize::from(part) * 6 / 256));
    let (red, green, blue) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then(|| format!("\x1b[38;5;{}m", 16 + 36 * red + 6 * green + blue))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_buildkit_documents() {
        let colors = Colors::parse("run=123,20,245:error=yellow:cancel=Light-Blue:warning=white");
        assert_eq!(colors.run, "\x1b[38;5;93m");
        assert_eq!(
            [colors.error, colors.cancel, colors.warning],
            ["\x1b[33m", "\x1b[94m", "\x1b[37m"].map(str::to_owned)
        );
    }

    #[test]
    fn leaves_out_what_is_wrong() {
        let wrong = "run=mauve:cancel:error=1,2:warning=1,2,300:other=red:run=1,2,3,4";
        assert_eq!(Colors::parse(wrong), Colors::default());
    }
}
