//! Environment variables on the command line and in files, as `docker run` has them.

use std::path::Path;

use crate::failure::Failure;

/// The lines of a file as `--env-file` has them: `NAME=VALUE` with the value as it stands, `NAME` alone for what it is here, `#` before a
/// comment. Blanks before a name do not count.
pub(super) fn from_file(path: &Path) -> Result<Vec<String>, Failure> {
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let text =
        text.map_err(|error| Failure::io("read", path, &error).with_code(crate::failure::WRONG_USAGE))?;
    parse(&text).map_err(|(line, reason)| Failure::usage(format!("{}:{line}: {reason}", path.display())))
}

fn parse(text: &str) -> Result<Vec<String>, (usize, String)> {
    let mut variables = Vec::new();
    for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        match name {
            "" => return Err((number, "the name in front of = is missing".to_owned())),
            _ if name.contains(char::is_whitespace) => {
                return Err((number, format!("`{name}` has a blank in it: expected NAME=VALUE")));
            }
            _ => variables.push(line.to_owned()),
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let text = "\u{feff}# comment\n\n  A=1\nB = \n";
        assert_eq!(parse(text).unwrap_err().0, 4);
        let text = "A=1\r\nB=\"as it stands\" # all of it\nHOME\nC=\nD=a=b\n";
        let expected = ["A=1", "B=\"as it stands\" # all of it", "HOME", "C=", "D=a=b"];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("\n=x\n").unwrap_err().0, 2);
    }
}
