use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use transport::Url;
use transport::header::HeaderValue;

use crate::client::Secrets;
use crate::error::Error;

/// The `Authorization` for a URL: a secret for its host, else the user and password that it holds. Those are taken out of it.
pub(crate) fn of(url: &mut Url, secrets: &Secrets<'_>) -> Result<Option<HeaderValue>, Error> {
    let own = take(url);
    let host = url.host_str().unwrap_or_default();
    let (token, header) = (format!("HTTP_AUTH_TOKEN_{host}"), format!("HTTP_AUTH_HEADER_{host}"));
    if let Some(value) = secrets(&token) {
        return sensitive(&token, [b"Bearer ", value.trim_ascii()].concat()).map(Some);
    }
    if let Some(value) = secrets(&header) {
        return sensitive(&header, value.trim_ascii().to_vec()).map(Some);
    }
    own.map(|own| sensitive("the user in the address", basic(&own).into_bytes())).transpose()
}

/// `Basic …` for `user:password`.
pub(crate) fn basic(login: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(login))
}

/// Takes `user:password` out of a URL and undoes its percent-encoding.
pub(crate) fn take(url: &mut Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decoded(text);
    let login = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
    // Both succeed: a URL with a user has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(login)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn sensitive(name: &str, value: Vec<u8>) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| Error::Invalid(format!("the secret {name} cannot be sent as an HTTP header")))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(url: &str, secrets: &[(&str, &str)]) -> (String, Option<String>) {
        let mut url = Url::parse(url).unwrap();
        let look_up = |name: &str| {
            let found = secrets.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_bytes().to_vec())
        };
        let header = of(&mut url, &look_up).unwrap();
        (url.to_string(), header.map(|header| header.to_str().unwrap().to_owned()))
    }

    #[test]
    fn chooses_by_host() {
        let secrets = [
            ("HTTP_AUTH_TOKEN_a.example", "t\n"),
            ("HTTP_AUTH_HEADER_a.example", "no"),
            ("HTTP_AUTH_HEADER_b.example", "Basic eA=="),
        ];
        assert_eq!(made("https://a.example:1/x", &secrets).1.as_deref(), Some("Bearer t"));
        assert_eq!(made("https://b.example/x", &secrets).1.as_deref(), Some("Basic eA=="));
        assert_eq!(made("https://c.example/x", &secrets).1, None);
    }

    #[test]
    fn takes_the_user_out_of_the_address() {
        let (url, header) = made("https://u%40x:p%3A@a.example/x", &[]);
        assert_eq!(url, "https://a.example/x");
        assert_eq!(header.as_deref(), Some(basic("u@x:p:").as_str()));
        assert_eq!(percent_decoded("a%zz%4"), "a%zz%4");
    }

    #[test]
    fn a_secret_that_is_no_header_is_not_repeated() {
        let mut url = Url::parse("https://a.example/").unwrap();
        let error = of(&mut url, &|_| Some(b"se\ncret".to_vec())).unwrap_err().to_string();
        assert!(error.contains("HTTP_AUTH_TOKEN_a.example") && !error.contains("cret\""), "{error}");
    }
}
