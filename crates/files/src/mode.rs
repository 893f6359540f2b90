use std::fmt;
use std::str::FromStr;

use hash::{StableHash, StableHasher};

/// What `--chmod` does to permissions: an octal number, or clauses such as `u=rwX,go=rX` as in chmod(1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModeChange {
    /// All permission bits, at most `0o7777`.
    Set(u32),
    /// Clauses, each working on what the ones before it gave.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode: `go+rX`, `u=rw-x`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Whose bits: any of [`USER`], [`GROUP`] and [`OTHER`]. Nobody named means all three, whatever the umask.
    who: u32,
    actions: Vec<Action>,
}

/// An operator with its permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Action {
    operator: Operator,
    permissions: Permissions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operator {
    Add,
    Remove,
    Assign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Permissions {
    /// `r`, `w` and `x` as bits of one class, and the letters that depend on something else.
    Letters { bits: u32, x_where_executable: bool, set_id: bool, sticky: bool },
    /// The present bits of another class: how many places they are shifted to the left.
    Copy { shift: u32 },
}

const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHER: u32 = 0o007;

impl ModeChange {
    /// The permissions that a file of `mode` gets, and whether it is a directory matters for `X`.
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            ModeChange::Set(mode) => *mode,
            ModeChange::Symbolic(clauses) => {
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, directory))
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

impl Clause {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        self.actions.iter().fold(mode, |mode, action| action.apply(self.who, mode, directory))
    }
}

impl Action {
    fn apply(self, who: u32, mode: u32, directory: bool) -> u32 {
        let (bits, special) = match self.permissions {
            Permissions::Copy { shift } => (mode >> shift & 0o7, 0),
            Permissions::Letters { bits, x_where_executable, set_id, sticky } => {
                let x = u32::from(x_where_executable && (directory || mode & 0o111 != 0));
                let mut special = 0;
                if set_id {
                    special |= if who & USER != 0 { 0o4000 } else { 0 };
                    special |= if who & GROUP != 0 { 0o2000 } else { 0 };
                }
                if sticky {
                    special |= 0o1000;
                }
                (bits | x, special)
            }
        };
        let change = (bits << 6 | bits << 3 | bits) & who | special;
        match self.operator {
            Operator::Add => mode | change,
            Operator::Remove => mode & !change,
            Operator::Assign => mode & !who & !self.special_of(who) | change,
        }
    }

    /// The bits beyond `rwx` that an assignment to `who` clears.
    fn special_of(self, who: u32) -> u32 {
        let mut special = 0;
        special |= if who & USER != 0 { 0o4000 } else { 0 };
        special |= if who & GROUP != 0 { 0o2000 } else { 0 };
        special | if who & OTHER != 0 { 0o1000 } else { 0 }
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
        text.split(',').map(clause).collect::<Option<_>>().map(ModeChange::Symbolic).ok_or(BadMode)
    }
}

fn clause(text: &str) -> Option<Clause> {
    let start = text.find(['+', '-', '='])?;
    let mut who = 0;
    for letter in text[..start].chars() {
        who |= match letter {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHER,
            'a' => USER | GROUP | OTHER,
            _ => return None,
        };
    }
    if start == 0 {
        who = USER | GROUP | OTHER;
    }
    let mut actions = Vec::new();
    let mut rest = &text[start..];
    while let Some(operator) = rest.chars().next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Assign,
            _ => return None,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        actions.push(Action { operator, permissions: permissions(&rest[1..end])? });
        rest = &rest[end..];
    }
    Some(Clause { who, actions })
}

fn permissions(text: &str) -> Option<Permissions> {
    match text {
        "u" => return Some(Permissions::Copy { shift: 6 }),
        "g" => return Some(Permissions::Copy { shift: 3 }),
        "o" => return Some(Permissions::Copy { shift: 0 }),
        _ => {}
    }
    let (mut bits, mut x_where_executable, mut set_id, mut sticky) = (0, false, false, false);
    for letter in text.chars() {
        match letter {
            'r' => bits |= 4,
            'w' => bits |= 2,
            'x' => bits |= 1,
            'X' => x_where_executable = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(Permissions::Letters { bits, x_where_executable, set_id, sticky })
}

/// As it is written: `0755`, `u=rwX,go=rX`; equal changes are written alike.
impl fmt::Display for ModeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModeChange::Set(mode) => write!(f, "{mode:04o}"),
            ModeChange::Symbolic(clauses) => {
                for (index, clause) in clauses.iter().enumerate() {
                    f.write_str(if index > 0 { "," } else { "" })?;
                    clause.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (class, letter) in [(USER, "u"), (GROUP, "g"), (OTHER, "o")] {
            f.write_str(if self.who & class != 0 { letter } else { "" })?;
        }
        for action in &self.actions {
            f.write_str(match action.operator {
                Operator::Add => "+",
                Operator::Remove => "-",
                Operator::Assign => "=",
            })?;
            match action.permissions {
                Permissions::Copy { shift } => f.write_str(["o", "g", "u"][shift as usize / 3])?,
                Permissions::Letters { bits, x_where_executable, set_id, sticky } => {
                    let letters = [
                        (bits & 4 != 0, "r"),
                        (bits & 2 != 0, "w"),
                        (bits & 1 != 0, "x"),
                        (x_where_executable, "X"),
                        (set_id, "s"),
                        (sticky, "t"),
                    ];
                    for (present, letter) in letters {
                        f.write_str(if present { letter } else { "" })?;
                    }
                }
            }
        }
        Ok(())
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

    #[test]
    fn modes_as_chmod_gives_them() {
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
            ("u=rw-x+x", 0o777, false, 0o777),
            ("go=", 0o777, false, 0o700),
            ("a=r", 0o7777, false, 0o444),
        ] {
            let change: ModeChange = text.parse().unwrap();
            let got = change.apply(mode, directory);
            assert_eq!(got, expected, "{text} on {mode:o}: {got:o}");
            assert_eq!(change.to_string().parse(), Ok(change), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_modes() {
        for text in ["", "8", "10000", "u", "q+x", "u+q", "u+x,", "0x1", "+u+gx", "99999999999"] {
            assert_eq!(text.parse::<ModeChange>(), Err(BadMode), "{text}");
        }
    }
}
