//! The little of JSON (RFC 8259) that Dockerfiles need beside the grammar's arrays of strings. Nothing here is
//! recursive: brackets may be nested without end.

use std::ops::Range;

/// Brackets within brackets before a text counts as no JSON.
const MAX_DEPTH: usize = 10_000;

/// The first member that is not a string, if `text` is a JSON array with nothing after it.
pub(crate) fn non_string_member(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = None;
    let mut at = blanks(bytes, 1);
    if bytes.first() != Some(&b'[') || bytes.get(at) == Some(&b']') {
        return None;
    }
    loop {
        let end = value(bytes, at)?;
        if bytes[at] != b'"' && found.is_none() {
            found = Some(at..end);
        }
        at = blanks(bytes, end);
        match bytes.get(at)? {
            b',' => at = blanks(bytes, at + 1),
            b']' if blanks(bytes, at + 1) == bytes.len() => return found,
            _ => return None,
        }
    }
}

/// What keeps a text that begins like an array of strings from being one; nothing when it is one.
pub(crate) fn mistake(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let mut at = blanks(bytes, 1);
    if bytes.get(at) == Some(&b']') && blanks(bytes, at + 1) == bytes.len() {
        return None;
    }
    loop {
        match bytes.get(at) {
            None => return Some("the `]` at the end is missing"),
            Some(b']') => return Some("there is a comma too many in front of the `]`"),
            Some(b',') => return Some("there is a comma too many"),
            Some(b'"') => {}
            Some(_) => return Some("JSON strings stand in double quotes"),
        }
        let Some(end) = string(bytes, at) else {
            return Some(match text[at + 1..].contains('"') {
                true => {
                    "in a JSON string, a backslash is written `\\\\`, and a control character such as a tab as `\\t`"
                }
                false => "a string is without its closing `\"`",
            });
        };
        at = blanks(bytes, end);
        match bytes.get(at) {
            Some(b',') => at = blanks(bytes, at + 1),
            Some(b']') if blanks(bytes, at + 1) == bytes.len() => return None,
            Some(b']') => return Some("nothing may follow the `]`"),
            Some(_) => return Some("a comma is missing between two strings"),
            None => return Some("the `]` at the end is missing"),
        }
    }
}

/// The value of a member of a JSON object, if `text` is an object with nothing after it and the member is there
/// and a string: where it stands, without the quotes. The last one of that name counts.
pub(crate) fn string_member(text: &str, name: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = None;
    let mut at = blanks(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    at = blanks(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return None;
    }
    loop {
        let key_end = string(bytes, at)?;
        let is_it = decode(&text[at + 1..key_end - 1]) == name;
        at = key(bytes, at)?;
        let end = value(bytes, at)?;
        if is_it {
            found = (bytes[at] == b'"').then(|| at + 1..end - 1);
        }
        at = blanks(bytes, end);
        match bytes.get(at)? {
            b',' => at = blanks(bytes, at + 1),
            b'}' if blanks(bytes, at + 1) == bytes.len() => return found,
            _ => return None,
        }
    }
}

/// What the inside of a valid JSON string stands for. Half a surrogate pair becomes U+FFFD.
pub(crate) fn decode(inside: &str) -> String {
    let mut text = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(backslash) = rest.find('\\') {
        text.push_str(&rest[..backslash]);
        rest = &rest[backslash + 1..];
        let Some(escaped) = rest.chars().next() else { break };
        rest = &rest[escaped.len_utf8()..];
        match escaped {
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'u' => {
                let unit = code_unit(&mut rest);
                text.push(match unit {
                    0xD800..0xDC00 => low_surrogate(&mut rest, unit),
                    _ => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                });
            }
            other => text.push(other),
        }
    }
    text.push_str(rest);
    text
}

fn low_surrogate(rest: &mut &str, high: u32) -> char {
    let mut after = *rest;
    if let Some(digits) = after.strip_prefix("\\u") {
        after = digits;
        let low = code_unit(&mut after);
        if (0xDC00..0xE000).contains(&low) {
            *rest = after;
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
    }
    char::REPLACEMENT_CHARACTER
}

fn code_unit(rest: &mut &str) -> u32 {
    let unit = rest.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    *rest = rest.get(4..).unwrap_or("");
    unit.unwrap_or(0xFFFD)
}

/// The end of the value that begins at `at`, if it is one.
fn value(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut open = Vec::new();
    loop {
        at = blanks(bytes, at);
        match bytes.get(at)? {
            bracket @ (b'{' | b'[') => {
                let close = if *bracket == b'{' { b'}' } else { b']' };
                at = blanks(bytes, at + 1);
                if bytes.get(at) == Some(&close) {
                    at += 1;
                } else if open.len() == MAX_DEPTH {
                    return None;
                } else {
                    open.push(close);
                    if close == b'}' {
                        at = key(bytes, at)?;
                    }
                    continue;
                }
            }
            b'"' => at = string(bytes, at)?,
            b'-' | b'0'..=b'9' => at = number(bytes, at)?,
            _ => at = literal(bytes, at)?,
        }
        // A value has ended: what is open goes on with a comma or ends too.
        loop {
            let Some(&close) = open.last() else { return Some(at) };
            at = blanks(bytes, at);
            match bytes.get(at)? {
                b',' => {
                    at = blanks(bytes, at + 1);
                    if close == b'}' {
                        at = key(bytes, at)?;
                    }
                    break;
                }
                byte if *byte == close => {
                    open.pop();
                    at += 1;
                }
                _ => return None,
            }
        }
    }
}

/// The byte after `"key" :`.
fn key(bytes: &[u8], at: usize) -> Option<usize> {
    let colon = blanks(bytes, string(bytes, at)?);
    (bytes.get(colon)? == &b':').then(|| blanks(bytes, colon + 1))
}

fn string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at)? != &b'"' {
        return None;
    }
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => match bytes.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' if bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => at += 6,
                _ => return None,
            },
            0..0x20 => return None,
            _ => at += 1,
        }
    }
}

fn number(bytes: &[u8], mut at: usize) -> Option<usize> {
    if bytes[at] == b'-' {
        at += 1;
    }
    at = match bytes.get(at)? {
        b'0' => at + 1,
        _ => digits(bytes, at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = digits(bytes, at)?;
    }
    Some(at)
}

fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let count = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then_some(at + count)
}

fn literal(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    [&b"true"[..], b"false", b"null"]
        .into_iter()
        .find(|word| rest.starts_with(word))
        .map(|word| at + word.len())
}

fn blanks(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count()
}

#[cfg(test)]
mod tests {
    use super::{decode, mistake, non_string_member, string_member};

    #[test]
    fn finds_the_member_that_is_no_string() {
        for (text, member) in [
            (r#"["a",42,"b"]"#, "42"),
            (r#"["a",123.456e-7,"b"]"#, "123.456e-7"),
            (r#"["a",{},"b"]"#, "{}"),
            (r#"["a", {"c": ["d", {"e": []}]} ,"b"]"#, r#"{"c": ["d", {"e": []}]}"#),
            (r#"[null]"#, "null"),
            (r#"[true, false]"#, "true"),
        ] {
            assert_eq!(non_string_member(text).map(|part| &text[part]), Some(member), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_has_no_members() {
        for text in [
            "[", "[]", "[1", "[1,]", "[1] x", "[01]", "[1.]", "['a', 1]", "[{1:2}]", "[[1]", "[\"a\"]", "[-]",
        ] {
            assert_eq!(non_string_member(text), None, "{text}");
        }
        assert_eq!(non_string_member(&"[".repeat(1_000_000)), None);
        assert_eq!(non_string_member(&format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000))), None);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            ("['a']", "double quotes"),
            ("[a]", "double quotes"),
            (r#"["a", 'b']"#, "double quotes"),
            ("[“a”]", "double quotes"),
            (r#"["a""#, "the `]`"),
            (r#"["a","#, "the `]`"),
            (r#"["a]"#, "closing"),
            (r#"["a",]"#, "comma too many"),
            (r#"["a",,"b"]"#, "comma too many"),
            (r#"["a" "b"]"#, "comma is missing"),
            (r#"["a"] b"#, "follow"),
            (r#"["\d"]"#, "backslash"),
            ("[", "the `]`"),
        ] {
            assert!(
                mistake(text).is_some_and(|found| found.contains(expected)),
                "{text}: {:?}",
                mistake(text)
            );
        }
        for text in ["[]", "[ ] ", r#"["a"]"#, r#"[ "a" , "b" ] "#] {
            assert_eq!(mistake(text), None, "{text}");
        }
    }

    #[test]
    fn finds_a_member_of_an_object() {
        let member = |text: &'static str| string_member(text, "syntax").map(|part| &text[part]);
        assert_eq!(member(r#"{"syntax": "a"}"#), Some("a"));
        assert_eq!(member(r#" { "x": {"syntax": "no"}, "\u0073yntax" : "a" } "#), Some("a"));
        assert_eq!(member(r#"{"syntax": 1}"#), None);
        assert_eq!(member(r#"{"syntax": "a"} x"#), None);
        assert_eq!(member("{}"), None);
    }

    #[test]
    fn decodes_escapes() {
        assert_eq!(decode(r#"a\"\\\/\b\f\n\r\t\u0041"#), "a\"\\/\u{8}\u{c}\n\r\tA");
        assert_eq!(decode(r"\ud83d\ude00"), "😀");
        assert_eq!(decode(r"\ud83dx\ude00"), "\u{fffd}x\u{fffd}");
    }
}
