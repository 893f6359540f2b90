use transport::header::{HeaderMap, WWW_AUTHENTICATE};

/// What a registry asks for with 401 (RFC 9110 section 11.6.1, RFC 6750 section 3, distribution's token specification).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        /// Address of the token server.
        realm: String,
        service: Option<String>,
        /// Space-separated, as `repository:library/busybox:pull`.
        scope: Option<String>,
    },
}

/// The strongest challenge that we can answer: a token before a password.
pub(crate) fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        for challenge in value.to_str().map(parse).unwrap_or_default() {
            match challenge {
                Challenge::Bearer { .. } => return Some(challenge),
                Challenge::Basic => found = Some(challenge),
            }
        }
    }
    found
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = text;
    while let Some((scheme, after)) = word(rest) {
        let (parameters, after) = parameters(after);
        let value = |name: &str| {
            parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            challenges.push(Challenge::Bearer { realm, service: value("service"), scope: value("scope") });
        }
        rest = after;
    }
    challenges
}

/// `name=value` pairs up to the next scheme: a word that no `=` follows.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = word(rest) {
        let Some(after) = after.trim_start().strip_prefix('=') else { break };
        let Some((value, after)) = value(after.trim_start()) else { break };
        pairs.push((name.to_owned(), value));
        rest = after;
    }
    (pairs, rest)
}

/// A token after optional commas and spaces.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([',', ' ', '\t']);
    let end = text.find([' ', '\t', ',', '=']).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string with `\` before what it takes literally.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn parses_what_registries_send() {
        assert_eq!(
            parse(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#
            ),
            [bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:a/b:pull,push")
            )]
        );
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Basic realm="x, y=z", bearer REALM = "a\"b" , error=invalid_token"#),
            [Challenge::Basic, bearer("a\"b", None, None)]
        );
    }

    #[test]
    fn leaves_out_what_it_does_not_know() {
        assert_eq!(parse("Negotiate, Basic realm=x"), [Challenge::Basic]);
        assert_eq!(parse(r#"Bearer service="no realm""#), []);
        for text in ["", ",,,", "=", r#"Bearer realm="open"#, "Bearer =", "Bearer realm"] {
            assert!(parse(text).is_empty(), "{text}");
        }
    }
}
