//! Lines for which the grammar is not needed: their words are what blanks part.
//!
//! Nearly every line of nearly every file is one: no quotes in its flags, no array, nothing missing. Such a line is taken apart here, at
//! a small part of what the grammar costs. All others, and so all mistakes, are the grammar's, which alone says what the language is:
//! what is read here is what it would have read, or nothing at all.

use crate::grammar::{Node, Rule};
use crate::instruction::is_blank;
use crate::keyword::Keyword;

/// The parts of an instruction, if the line is a plain one: its flags, then its arguments. `line` is the input of the grammar, with the
/// escape character in front.
pub(crate) fn instruction<'i>(keyword: Keyword, line: &'i str) -> Option<Vec<Node<'i>>> {
    let mut parts = Vec::with_capacity(4);
    let arguments = head(line, &mut parts)?;
    let rest = &line[arguments..];
    let flags = parts.len();
    match keyword {
        Keyword::Run | Keyword::Cmd | Keyword::Entrypoint if rest.is_empty() => {}
        Keyword::Run | Keyword::Cmd | Keyword::Entrypoint => {
            no_array(rest)?;
            parts.push(text(rest, arguments)?);
        }
        Keyword::Onbuild | Keyword::Maintainer | Keyword::Stopsignal | Keyword::User | Keyword::Workdir => {
            parts.push(text(rest, arguments)?)
        }
        Keyword::Add | Keyword::Copy => {
            no_array(rest)?;
            words(Rule::path, rest, arguments, &mut parts)?;
            // Something, and where to.
            (parts.len() >= flags + 2).then_some(())?;
        }
        Keyword::Volume => {
            no_array(rest)?;
            words(Rule::path, rest, arguments, &mut parts)?;
        }
        Keyword::Expose => words(Rule::port, rest, arguments, &mut parts)?,
        Keyword::Arg | Keyword::Env | Keyword::Label => items(rest, arguments, line, &mut parts)?,
        Keyword::From => {
            words(Rule::base, rest, arguments, &mut parts)?;
            match &mut parts[flags..] {
                [_] => {}
                [_, keyword, name] if keyword.text.eq_ignore_ascii_case("AS") => {
                    keyword.rule = Rule::as_word;
                    name.rule = Rule::stage;
                }
                _ => return None,
            }
        }
        Keyword::Healthcheck | Keyword::Shell => return None,
    }
    Some(parts)
}

/// The flags, and where what comes after them begins.
fn head<'i>(line: &'i str, parts: &mut Vec<Node<'i>>) -> Option<usize> {
    let name = line[1..].find(is_blank).map_or(line.len(), |length| 1 + length);
    let mut at = name;
    loop {
        let blanks = line[at..].len() - line[at..].trim_start_matches(is_blank).len();
        let word = &line[at + blanks..];
        if blanks == 0 || !word.starts_with("--") {
            break;
        }
        let word = &word[..word.find(is_blank).unwrap_or(word.len())];
        at += blanks + word.len();
        if word == "--" {
            break;
        }
        if has_quotes(word, line) {
            return None;
        }
        parts.push(Node::new(Rule::flag, word, at - word.len()));
    }
    Some(line.len() - line[at..].trim_start().len())
}

/// Whether a quote or the escape character stands in a text.
fn has_quotes(text: &str, line: &str) -> bool {
    let escape = line.as_bytes()[0];
    text.bytes().any(|byte| byte == escape || matches!(byte, b'"' | b'\''))
}

/// All words of a text that does not end with a blank.
fn words<'i>(rule: Rule, text: &'i str, start: usize, parts: &mut Vec<Node<'i>>) -> Option<()> {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let length = rest.find(is_blank).unwrap_or(rest.len());
        if length == 0 {
            return None;
        }
        parts.push(Node::new(rule, &rest[..length], start + at));
        if length == rest.len() {
            return Some(());
        }
        at = text.len() - rest[length..].trim_start_matches(is_blank).len();
    }
}

/// All words of a text that knows quotes and does not end with a blank.
fn items<'i>(text: &'i str, start: usize, line: &str, parts: &mut Vec<Node<'i>>) -> Option<()> {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let length = item(rest, char::from(line.as_bytes()[0]))?;
        if length == 0 {
            return None;
        }
        parts.push(Node::new(Rule::item, &rest[..length], start + at));
        if length == rest.len() {
            return Some(());
        }
        at = text.len() - rest[length..].trim_start().len();
    }
}

/// The length of the word that a text begins with. A quote that is not closed goes on to the end.
fn item(text: &str, escape: char) -> Option<usize> {
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\'' => drop(characters.find(|(_, c)| *c == '\'')),
            '"' => {
                while let Some((_, c)) = characters.next().filter(|(_, c)| *c != '"') {
                    if c == escape {
                        characters.next()?;
                    }
                }
            }
            c if c == escape => drop(characters.next()?),
            c if c.is_whitespace() => return Some(at),
            _ => {}
        }
    }
    Some(text.len())
}

/// What could be an array is for the grammar to look at.
fn no_array(rest: &str) -> Option<()> {
    (!rest.starts_with('[')).then_some(())
}

fn text(rest: &str, start: usize) -> Option<Node<'_>> {
    // A line has no line end in it; the grammar would not take one.
    let taken = !rest.is_empty() && !rest.contains('\n');
    taken.then(|| Node::new(Rule::text, rest, start))
}

/// The fields of a record of CSV, if none is quoted.
pub(crate) fn fields(record: &str) -> Option<Vec<Node<'_>>> {
    if record.contains('"') {
        return None;
    }
    let mut start = 0;
    let field = |text| {
        let node = Node::new(Rule::field, text, start);
        start += text.len() + 1;
        node
    };
    Some(record.split(',').map(field).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grammar;

    type Read = Vec<(Rule, usize, String, Option<String>)>;

    fn read(nodes: Vec<Node<'_>>) -> Read {
        let of = |node: Node<'_>| {
            let unquoted =
                matches!(node.rule, Rule::flag | Rule::field).then(|| node.unquoted().into_owned());
            (node.rule, node.start, node.text.to_owned(), unquoted)
        };
        nodes.into_iter().map(of).collect()
    }

    /// What the grammar reads, if this reads the line at all.
    fn compare(keyword: Keyword, line: &str) -> Result<bool, TestCaseError> {
        let Some(plain) = instruction(keyword, line) else { return Ok(false) };
        let exact = grammar::read(keyword, line);
        prop_assert!(exact.is_ok(), "{line:?}: {exact:?}");
        prop_assert_eq!(Some(read(plain)), exact.ok().map(read), "{:?}", line);
        Ok(true)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn it_reads_what_the_grammar_reads(
            keyword in proptest::sample::select(Keyword::ALL.to_vec()),
            pieces in proptest::collection::vec(
                proptest::sample::select(vec![
                    " ", " ", " ", "\t", "\r", "\u{b}", "\u{a0}", "\u{2003}", "\u{85}", "a", "b/c", "é", "=", "--", "--x=1", "--y", "-", "\\",
                    "`", "'", "\"", "[", "]", "[\"a\"]", "{", ",", "$x", "<<E", "AS", "CMD", "NONE",
                ]),
                0..12,
            ),
            escape in proptest::sample::select(vec!["\\", "`"]),
        ) {
            let line = format!("{escape}{keyword}{}", pieces.concat());
            compare(keyword, line.trim_end())?;
            compare(keyword, &line)?;
        }

        #[test]
        fn it_reads_the_fields_that_the_grammar_reads(record in "[a=,\"é ]{0,12}") {
            if let Some(plain) = fields(&record) {
                let exact = grammar::read_fields(&record);
                prop_assert!(exact.is_ok(), "{record:?}: {exact:?}");
                prop_assert_eq!(Some(read(plain)), exact.ok().map(read), "{:?}", record);
            }
        }
    }

    /// That it is right is one thing; that it is not for nothing is another.
    #[test]
    fn lines_as_people_write_them_need_no_grammar() {
        for line in [
            "ADD https://example.com/a.tar /a",
            "ARG VERSION=1.2 OTHER",
            "CMD exec \"$0\"",
            "COPY --link --chown=1000:1000 src/1 lib/*.c ./",
            "ENV PATH=/opt/${VERSION:-1}:$PATH",
            "EXPOSE 80/tcp 443",
            "FROM a AS b",
            "LABEL part=\"number one\" other='x y'z\\ 1",
            "ONBUILD RUN make",
            "RUN --mount=type=cache,target=/root/.cache make -C 'a b' \\",
            "RUN",
            "USER 1000",
            "VOLUME /a /b",
            "WORKDIR /a b",
        ] {
            let keyword = Keyword::parse(line.split(' ').next().unwrap()).unwrap();
            assert!(compare(keyword, &format!("\\{line}")).unwrap(), "{line}");
        }
        for line in [
            "COPY a",
            "COPY [\"a\", \"b\"]",
            "ENV",
            "ARG a=\"b\\",
            "USER",
            "RUN --mount=id='a' b",
            "FROM a AS",
        ] {
            let keyword = Keyword::parse(line.split(' ').next().unwrap()).unwrap();
            assert!(!compare(keyword, &format!("\\{line}")).unwrap(), "{line}");
        }
        assert!(fields("type=cache,target=/a").is_some() && fields("\"a,b\"").is_none());
    }
}
