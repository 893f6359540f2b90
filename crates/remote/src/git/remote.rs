use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use transport::{Position, Url};

use super::GitConfig;
use crate::client::Secrets;
use crate::error::Error;
use crate::http::authorization::{basic, take};

/// The address of a repository, and what is sent to it.
#[derive(Clone)]
pub(super) struct Remote {
    /// Without credentials: for messages, for the name of its directory.
    pub(super) url: String,
    /// The same for git: another one where the server moved it.
    pub(super) address: String,
    /// The `Authorization`, and the addresses that get it: all that begin so.
    pub(super) authorization: Option<Authorization>,
}

#[derive(Clone)]
pub(super) struct Authorization {
    pub(super) scope: String,
    pub(super) value: String,
}

impl Remote {
    fn without_authorization(url: String) -> Remote {
        Remote { address: url.clone(), url, authorization: None }
    }

    /// Checks an address and finds the credentials for it.
    pub(super) fn new(remote: &str, config: &GitConfig, secrets: &Secrets<'_>) -> Result<Remote, Error> {
        let refused =
            |why: &str| Error::Invalid(format!("`{}` is no git remote: {why}", without_credentials(remote)));
        if remote.starts_with('-') {
            return Err(refused("it begins with `-`"));
        }
        if remote.is_empty() || remote.chars().any(|c| c.is_control()) {
            return Err(refused("it is empty or holds control characters"));
        }
        let Some((scheme, _)) = remote.split_once("://") else {
            return match is_scp_style(remote) {
                true => Ok(Remote::without_authorization(remote.to_owned())),
                false => Err(refused("neither a URL nor user@host:path")),
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Remote::http(remote, secrets),
            "ssh" | "git" => {
                let url = Url::parse(remote).map_err(|error| refused(&error.to_string()))?;
                let starts_well = |part: &str| !part.starts_with('-');
                if !(url.has_host() && url.host_str().is_some_and(starts_well) && starts_well(url.username()))
                {
                    return Err(refused("it has no host, or one that begins with `-`"));
                }
                Ok(Remote::without_authorization(without_credentials(remote)))
            }
            "file" if config.local_remotes => Ok(Remote::without_authorization(remote.to_owned())),
            _ => Err(refused("only http, https, ssh and git are supported")),
        }
    }

    fn http(remote: &str, secrets: &Secrets<'_>) -> Result<Remote, Error> {
        let mut url = Url::parse(remote).ok().filter(Url::has_host).ok_or_else(|| {
            Error::Invalid(format!("`{}` is not an HTTP address", without_credentials(remote)))
        })?;
        let own = take(&mut url);
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let names = [
            (format!("GIT_AUTH_HEADER.{host}"), false),
            (format!("GIT_AUTH_TOKEN.{host}"), true),
            ("GIT_AUTH_HEADER".to_owned(), false),
            ("GIT_AUTH_TOKEN".to_owned(), true),
        ];
        let found = names.iter().find_map(|(name, is_token)| Some((name, is_token, secrets(name)?)));
        let authorization = match (found, own) {
            (Some((name, is_token, value)), _) => {
                let value = value.trim_ascii();
                let value = match is_token {
                    true => {
                        let login = [b"x-access-token:", value].concat();
                        format!("basic {}", BASE64_STANDARD.encode(login))
                    }
                    false => String::from_utf8_lossy(value).into_owned(),
                };
                if value.chars().any(char::is_control) {
                    return Err(Error::Invalid(format!(
                        "the secret {name} cannot be sent as an HTTP header"
                    )));
                }
                Some(Authorization { scope: scope(&url), value })
            }
            (None, Some(own)) => {
                Some(Authorization { scope: url[..Position::BeforePath].to_owned(), value: basic(&own) })
            }
            (None, None) => None,
        };
        Ok(Remote { authorization, ..Remote::without_authorization(url.to_string()) })
    }
}

/// A token for one repository on GitHub is a token for its submodules there (as `actions/checkout` has it).
fn scope(url: &Url) -> String {
    let is_github =
        url.scheme() == "https" && matches!(url.host_str(), Some("github.com" | "www.github.com"));
    if is_github && url.port().is_none() {
        return format!("https://{}/", url.host_str().unwrap_or_default());
    }
    url.to_string()
}

/// `user@host:path`, where no part can be taken for an option.
fn is_scp_style(remote: &str) -> bool {
    let Some((user, rest)) = remote.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let is_name = |text: &str, more: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    is_name(user, "-_.") && is_name(host, "-_.") && !path.is_empty() && !path.starts_with('-')
}

/// The same address without a password; over HTTP without the user, too. Anything is taken.
pub fn without_credentials(remote: &str) -> String {
    let Some(mut url) = Url::parse(remote).ok().filter(|url| !url.cannot_be_a_base()) else {
        return unparsed_without_credentials(remote);
    };
    if url.password().is_none() && (url.username().is_empty() || !url.scheme().starts_with("http")) {
        return remote.to_owned();
    }
    let user = url.username().to_owned();
    take(&mut url);
    if !url.scheme().starts_with("http") {
        let _ = url.set_username(&user);
    }
    url.to_string()
}

/// Of what is no URL nobody knows where a login ends, so all up to the last place where it could is left out.
fn unparsed_without_credentials(text: &str) -> String {
    let (scheme, rest) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    match rest.rsplit_once('@') {
        Some((login, rest)) if !is_scp_style(text) && login.contains(':') => format!("{scheme}{rest}"),
        _ => text.to_owned(),
    }
}

/// Refuses what could be taken for an option or a pattern.
pub(crate) fn check_reference(reference: &str) -> Result<(), Error> {
    // git-check-ref-format(1).
    let wrong = reference.starts_with('-')
        || reference.is_empty()
        || reference.contains("..")
        || reference.contains("@{")
        || reference.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c));
    match wrong {
        true => Err(Error::Invalid(format!("`{}` is no git reference", reference.escape_debug()))),
        false => Ok(()),
    }
}

/// Whether a text is a full object id: SHA-1 or SHA-256.
pub(crate) fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A checksum in the form of object ids.
pub(super) fn checksum(text: &str) -> Result<String, Error> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(Error::Invalid(format!(
            "the checksum `{}` is not (the beginning of) a commit's hexadecimal id",
            text.escape_debug()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str, secrets: &[(&str, &str)]) -> Result<Remote, Error> {
        let look_up = |name: &str| {
            let found = secrets.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_bytes().to_vec())
        };
        Remote::new(text, &GitConfig::default(), &look_up)
    }

    #[test]
    fn refuses_what_is_no_remote_or_an_option() {
        for text in [
            "",
            "-x",
            "--upload-pack=touch /x",
            "ext::sh -c id",
            "file:///etc",
            "/etc",
            "../x",
            "ssh://-oProxyCommand=id/x",
            "ssh://-oProxyCommand=id@h/x",
            "u@-oProxyCommand=id:x",
            "-u@h:x",
            "u@h:-x",
            "host:path",
            "https://a.example/x\ny",
            "https://",
        ] {
            assert!(remote(text, &[]).is_err(), "{text}");
        }
        for text in ["git@github.com:a/b.git", "ssh://git@h:22/x", "git://h/x", "HTTPS://h/x"] {
            remote(text, &[]).unwrap();
        }
        for text in ["-x", "", "a..b", "a b", "a:b", "a^{}", "*", "a\n"] {
            assert!(check_reference(text).is_err(), "{text}");
        }
        check_reference("refs/pull/1/head").unwrap();
    }

    #[test]
    fn passwords_are_not_shown_of_what_is_no_address_either() {
        for text in
            ["ssh://u:pw@", "https://u:pw@ho st/", "file://u:pw@:99999\0", "https://u:p/pw@h@i:x", "u:pw@h:x"]
        {
            let shown = without_credentials(text);
            assert!(!shown.contains("pw"), "{shown}");
            assert_eq!(without_credentials(&shown), shown);
        }
        for text in ["git@github.com:a/b.git", "u@h:a@v1:x", "a@b", "x:y", "", "/a/b"] {
            assert_eq!(without_credentials(text), text);
        }
    }

    #[test]
    fn credentials_are_apart_from_the_address() {
        let made = |text, secrets: &[(&str, &str)]| {
            let remote = remote(text, secrets).unwrap();
            (remote.url, remote.authorization.map(|a| (a.scope, a.value)))
        };
        let (url, sent) = made("https://u:p@h.example:8/a.git", &[]);
        assert_eq!(url, "https://h.example:8/a.git");
        assert_eq!(sent, Some(("https://h.example:8".to_owned(), basic("u:p"))));
        let both = [("GIT_AUTH_TOKEN", "t\n"), ("GIT_AUTH_HEADER.h.example:8", "Bearer x")];
        let (_, sent) = made("https://u:p@h.example:8/a.git", &both);
        assert_eq!(sent, Some(("https://h.example:8/a.git".to_owned(), "Bearer x".to_owned())));
        let (_, sent) = made("https://github.com/a/b.git", &both);
        let token = format!("basic {}", BASE64_STANDARD.encode("x-access-token:t"));
        assert_eq!(sent, Some(("https://github.com/".to_owned(), token)));
        assert_eq!(made("ssh://git:p@h/a", &both), ("ssh://git@h/a".to_owned(), None));
        let error = remote("https://h/", &[("GIT_AUTH_HEADER", "a\nb")]).err().unwrap().to_string();
        assert!(error.contains("GIT_AUTH_HEADER"), "{error}");
    }
}
