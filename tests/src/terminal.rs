//! A terminal that a test types into and looks at.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{run, tempdir, tool};

/// Longer than anything takes that a test looks for here, on a machine that does much else.
const MOST: Duration = Duration::from_secs(120);

/// A terminal of a size with one program in it, by a tmux server of its own, which ends with the value.
pub struct Terminal(tempfile::TempDir);

impl Terminal {
    /// Starts a program in it, with its arguments; `home` is the builder's state directory there.
    #[track_caller]
    pub fn start(columns: usize, rows: usize, home: &Path, program: &[&str]) -> Self {
        let terminal = Self(tempdir());
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let mut start = terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows]);
        run(start.args(program).env("BUILDER_HOME", home)).ok();
        terminal
    }

    /// A command of tmux for it.
    pub fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = tool("tmux");
        command.arg("-S").arg(self.0.path().join("socket")).args(["-f", "/dev/null"]).args(arguments);
        command
    }

    /// Types keys: texts, or names such as `Enter` and `C-c`.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        run(self.tmux(&["send-keys"]).args(keys)).ok();
    }

    /// What it shows.
    #[track_caller]
    pub fn screen(&self) -> String {
        run(&mut self.tmux(&["capture-pane", "-p"])).ok().stdout
    }

    /// Waits until what it shows is as it should be.
    ///
    /// # Panics
    /// When it never is, with what is shown instead.
    #[track_caller]
    pub fn until(&self, what: &str, mut so: impl FnMut(&str) -> bool) {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if so(&screen) {
                return;
            }
            assert!(start.elapsed() < MOST, "no {what} within {MOST:?}:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a line ends with a text.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        self.until(text, |screen| screen.lines().any(|line| line.trim_end().ends_with(text)));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}
