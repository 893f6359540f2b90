use std::fmt;
use std::str::FromStr;

use hash::{StableHash, StableHasher};

/// What `--chmod` does to permissions: an octal number, or clauses such as `u=rwX,go=rX`, with the meaning of BSD's setmode(3), which is
/// what BuildKit's library follows. It differs from GNU's chmod(1) in small things: `X` looks at the mode from before all clauses, and
/// `=` leaves the sticky bit alone unless `t` is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModeChange {
    /// All permission bits, at most `0o7777`.
    Set(u32),
    /// Clauses.
    Symbolic(SymbolicMode),
}

/// Clauses of a symbolic mode, each working on what the ones before it gave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SymbolicMode {
    /// As written.
    text: String,
    commands: Vec<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Command {
    Add(u32),
    Remove(u32),
    /// Adds where the file is a directory or was executable for somebody.
    AddWhereExecutable(u32),
    /// Copies the bits of the class that stands so many places from the right to other classes.
    Copy {
        from: u32,
        to: u32,
        operator: Operator,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operator {
    Add,
    Remove,
    Assign,
}

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHER: u32 = 0o007;
/// What clauses are about that name nobody.
const ALL: u32 = SET_UID | SET_GID | USER | GROUP | OTHER;

impl ModeChange {
    /// The permissions that a file of `mode` gets; whether it is a directory matters for `X`.
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        let before = mode & 0o7777;
        match self {
            ModeChange::Set(mode) => *mode,
            ModeChange::Symbolic(symbolic) => {
                let executable = directory || before & 0o111 != 0;
                symbolic.commands.iter().fold(before, |mode, command| command.apply(mode, executable))
            }
        }
    }

    /// The permissions that every file gets, when they do not depend on those that it has.
    pub fn fixed(&self) -> Option<u32> {
        match self {
            ModeChange::Set(mode) => Some(*mode),
            ModeChange::Symbolic(_) => None,
        }
    }
}

impl Command {
    fn apply(self, mode: u32, executable: bool) -> u32 {
        match self {
            Command::Add(bits) => mode | bits,
            Command::Remove(bits) => mode & !bits,
            Command::AddWhereExecutable(bits) => mode | if executable { bits } else { 0 },
            Command::Copy { from, to, operator } => {
                let value = mode >> from & 0o7;
                let copies = (value << 6 | value << 3 | value) & to;
                match operator {
                    Operator::Add => mode | copies,
                    Operator::Remove => mode & !copies,
                    Operator::Assign => mode & !to | copies,
                }
            }
        }
    }
}

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an octal number up to 7777, or clauses like u=rwX,go=rX")]
pub struct BadMode;

impl FromStr for ModeChange {
    type Err = BadMode;

    fn from_str(text: &str) -> Result<ModeChange, BadMode> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| BadMode)?;
            return if mode <= 0o7777 { Ok(ModeChange::Set(mode)) } else { Err(BadMode) };
        }
        let mut commands = Vec::new();
        for text in text.split(',') {
            clause(text, &mut commands).ok_or(BadMode)?;
        }
        Ok(ModeChange::Symbolic(SymbolicMode { text: text.to_owned(), commands }))
    }
}

/// `go+rX`, `u=rw-x`.
fn clause(text: &str, commands: &mut Vec<Command>) -> Option<()> {
    let start = text.find(['+', '-', '='])?;
    let mut who = 0;
    for letter in text[..start].chars() {
        who |= match letter {
            'u' => SET_UID | USER,
            'g' => SET_GID | GROUP,
            'o' => OTHER,
            'a' => ALL,
            _ => return None,
        };
    }
    let mut rest = &text[start..];
    while let Some(operator) = rest.chars().next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Assign,
            _ => return None,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        action(who, operator, &rest[1..end], commands)?;
        rest = &rest[end..];
    }
    Some(())
}

/// One operator with its letters.
fn action(mut who: u32, operator: Operator, letters: &str, commands: &mut Vec<Command>) -> Option<()> {
    let others_alone = who == OTHER;
    let (mut bits, mut where_executable) = (0, 0);
    let mut assigned = false;
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' if operator == Operator::Remove => bits |= 0o111,
            'X' => where_executable |= 0o111,
            // For others alone neither means anything.
            's' if others_alone => {}
            's' => bits |= SET_UID | SET_GID,
            't' if others_alone => {}
            't' => {
                who |= STICKY;
                bits |= STICKY;
            }
            'u' | 'g' | 'o' => {
                if bits != 0 {
                    add(who, operator, bits, commands);
                    bits = 0;
                }
                assigned |= operator == Operator::Assign;
                if where_executable != 0 {
                    commands.push(Command::AddWhereExecutable(within(who, where_executable)));
                    where_executable = 0;
                }
                let from = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let to = if who & !STICKY == 0 { 0o777 } else { who & 0o777 };
                commands.push(Command::Copy { from, to, operator });
            }
            _ => return None,
        }
    }
    if bits != 0 || operator == Operator::Assign && !assigned {
        add(who, operator, bits, commands);
    }
    if where_executable != 0 {
        commands.push(Command::AddWhereExecutable(within(who, where_executable)));
    }
    Some(())
}

fn add(who: u32, operator: Operator, bits: u32, commands: &mut Vec<Command>) {
    match operator {
        Operator::Add => commands.push(Command::Add(within(who, bits))),
        Operator::Remove => commands.push(Command::Remove(within(who, bits))),
        Operator::Assign => {
            commands.push(Command::Remove(if who == 0 { ALL } else { who }));
            commands.push(Command::Add(within(who, bits)));
        }
    }
}

/// Nobody named is everybody, whatever the umask.
fn within(who: u32, bits: u32) -> u32 {
    if who == 0 { bits } else { bits & who }
}

/// `0755`, or the clauses as they were written.
impl fmt::Display for ModeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModeChange::Set(mode) => write!(f, "{mode:04o}"),
            ModeChange::Symbolic(symbolic) => f.write_str(&symbolic.text),
        }
    }
}

impl StableHash for ModeChange {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.to_string().stable_hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected are the results of BuildKit's library.
    #[test]
    fn modes_as_upstream_gives_them() {
        for (text, mode, directory, expected) in [
            ("0755", 0o644, false, 0o755),
            ("7777", 0, false, 0o7777),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o777, false, 0o555),
            ("g=u", 0o640, false, 0o660),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("o+t", 0o755, false, 0o755),
            ("u=rw-x+x", 0o777, false, 0o777),
            ("go=", 0o777, false, 0o700),
            ("o=", 0o1777, false, 0o1770),
            ("=s", 0o1777, false, 0o7000),
            ("a=r", 0o7777, false, 0o1444),
        ] {
            let change: ModeChange = text.parse().unwrap();
            let got = change.apply(mode, directory);
            assert_eq!(got, expected, "{text} on {mode:o}: {got:o}");
            assert_eq!(change.to_string().parse(), Ok(change), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_modes() {
        for text in ["", "8", "10000", "u", "q+x", "u+q", "u+x,", "0x1", "+u+gy", "99999999999"] {
            assert_eq!(text.parse::<ModeChange>(), Err(BadMode), "{text}");
        }
    }
}
