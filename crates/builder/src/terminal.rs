//! Words for people and programs: standard output and standard error. Writing to them never panics, whatever is at the
//! other end.

use std::io::{self, IsTerminal as _, Write as _};

use crate::failure::Failure;

/// Writes a command's result to standard output. A reader that went away, as `head` does, has what it wanted.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::standard_output(&error)),
        _ => Ok(()),
    }
}

/// Tells the user something on standard error. Nobody can be told when that fails.
pub(crate) fn tell(text: &str) {
    let mut stderr = anstream::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Whether a person reads standard error.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Columns of the terminal that standard output goes to; without one there is no reason to cut lines.
pub(crate) fn columns() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(usize::MAX, |(width, _)| width.0.into())
}

/// Asks a question that is answered with y or n; anything else is no.
pub(crate) fn confirm(question: &str) -> bool {
    tell(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.is_ok() && is_yes(&answer)
}

/// Reads a line from the terminal without showing it; `None` when the user gives up (Ctrl-C, or Ctrl-D on an empty line).
pub(crate) fn read_hidden() -> io::Result<Option<String>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    use std::io::Read as _;

    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut hidden = before.clone();
    // Without signals, so that Ctrl-C cannot leave the terminal as it is now.
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
    let mut line = Vec::new();
    let mut byte = [0];
    let read = loop {
        match stdin.lock().read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
            Ok(0) => break Ok(false),
            Ok(_) => match byte[0] {
                b'\n' | b'\r' => break Ok(true),
                CTRL_C => break Ok(false),
                CTRL_D if line.is_empty() => break Ok(false),
                0x08 | 0x7f => {
                    // A character may have several bytes.
                    while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
                }
                other => line.push(other),
            },
        }
    };
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    Ok(read?.then(|| String::from_utf8_lossy(&line).into_owned()))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Whether there is a person to ask: a terminal to read from, another to see the question on.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && is_watched()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes(" YES\r\n"));
        assert!(!is_yes("\n") && !is_yes("yeah") && !is_yes("n"));
    }
}
