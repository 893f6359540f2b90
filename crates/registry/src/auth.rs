use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use transport::Response;
use transport::Url;
use transport::header::{HeaderMap, HeaderValue};

use crate::challenge::Challenge;
use crate::config::{Config, Credentials};
use crate::credentials::{self, Login, Secret};
use crate::failure::{Failure, Kind};
use crate::http::{Get, Http};

/// Tokens are at most some ten kilobytes.
const MAX_TOKEN_ANSWER: usize = 1 << 20;
/// What a token without `expires_in` lives (distribution, "Token Response Fields").
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used this short before its end.
const MARGIN: Duration = Duration::from_secs(5);

/// What a request needs to be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope(String);

impl Scope {
    /// Reading of a repository.
    pub(crate) fn pull(repository: &str) -> Scope {
        Scope(format!("repository:{repository}:pull"))
    }

    /// Nothing but being let in.
    pub(crate) fn none() -> Scope {
        Scope(String::new())
    }

    /// Writing of a repository, and reading of those that blobs are mounted from.
    pub(crate) fn push(repository: &str, from: &BTreeSet<String>) -> Scope {
        let mut scope = format!("repository:{repository}:pull,push");
        for from in from.iter().filter(|from| *from != repository) {
            scope += &format!(" repository:{from}:pull");
        }
        Scope(scope)
    }

    /// What is asked of a token server when the registry asks for `challenged`: for a push all of ours, as the registry names
    /// only what the request at hand needs.
    fn with(&self, challenged: Option<&str>) -> String {
        let Some(challenged) = challenged else { return self.0.clone() };
        if !self.0.contains(":pull,push") {
            return challenged.to_owned();
        }
        let more = challenged.split(' ').filter(|one| !self.covers(one)).map(|one| format!(" {one}"));
        self.0.clone() + &more.collect::<String>()
    }

    fn covers(&self, one: &str) -> bool {
        let Some((resource, actions)) = one.rsplit_once(':') else { return false };
        let ours = self.0.split(' ').filter_map(|ours| ours.rsplit_once(':'));
        let ours = ours.filter(|(ours, _)| *ours == resource).flat_map(|(_, actions)| actions.split(','));
        let ours: BTreeSet<&str> = ours.collect();
        actions.split(',').all(|action| ours.contains(action))
    }
}

/// How one registry lets us in: nothing is sent until it asks, then what it accepted is sent each time.
pub(crate) struct Authenticator {
    registry: String,
    known: Mutex<Known>,
    /// Held while a token is obtained, so that concurrent requests ask once.
    login: tokio::sync::Mutex<Option<Option<Login>>>,
}

#[derive(Default)]
struct Known {
    /// Good for every scope.
    basic: Option<HeaderValue>,
    tokens: HashMap<Scope, (HeaderValue, Instant)>,
}

impl Authenticator {
    pub(crate) fn new(registry: &str) -> Authenticator {
        let login = tokio::sync::Mutex::new(None);
        Authenticator { registry: registry.to_owned(), known: Mutex::default(), login }
    }

    /// The header that requests of this scope carry, when there is one.
    pub(crate) fn header(&self, scope: &Scope) -> Option<HeaderValue> {
        let known = self.known();
        let token = known.tokens.get(scope).filter(|(_, until)| Instant::now() < *until);
        known.basic.clone().or_else(|| token.map(|(header, _)| header.clone()))
    }

    /// Answers a challenge to a request for `url`, after which [`Authenticator::header`] has a new value. `refused` is
    /// the header that the request carried.
    pub(crate) async fn answer(
        &self,
        http: &Arc<Http>,
        scope: &Scope,
        url: &Url,
        challenge: Option<Challenge>,
        refused: Option<&HeaderValue>,
    ) -> Result<(), Failure> {
        let mut login = self.login.lock().await;
        if self.header(scope).is_some_and(|header| Some(&header) != refused) {
            return Ok(());
        }
        if login.is_none() {
            *login = Some(credentials::look_up(&http.config.credentials, &self.registry).await?);
        }
        let login = login.as_ref().and_then(Option::as_ref);
        match challenge {
            Some(Challenge::Basic) => {
                let header = match login.map(|login| &login.secret) {
                    Some(Secret::Password { user, password }) => basic(user, password)?,
                    _ => return Err(self.denied(&http.config, login, None)),
                };
                if refused == Some(&header) {
                    return Err(self.denied(&http.config, login, None));
                }
                self.known().basic = Some(header);
            }
            Some(Challenge::Bearer { realm, service, scope: asked }) => {
                let realm = self.realm(&realm, url, &http.config, login.is_some())?;
                let asked = scope.with(asked.as_deref());
                let response = request_token(http, realm, service.as_deref(), &asked, login).await?;
                if response.status().is_client_error() && response.status().as_u16() != 429 {
                    let said = Failure::of_answer(response).await;
                    return Err(self.denied(&http.config, login, Some(said)));
                }
                if !response.status().is_success() {
                    return Err(Failure::of_answer(response).await);
                }
                let token = read_token(&response.read(MAX_TOKEN_ANSWER).await?)?;
                self.known().tokens.insert(scope.clone(), token);
            }
            None => {
                let message =
                    format!("registry {} asks for a kind of login that is not supported", self.registry);
                return Err(Failure::new(Kind::Denied, message));
            }
        }
        Ok(())
    }

    /// The failure of a request that was denied although all that we have was sent. `said` is the registry's answer.
    pub(crate) async fn refused(&self, config: &Config, said: Option<Failure>) -> Failure {
        let login = self.login.lock().await;
        self.denied(config, login.as_ref().and_then(Option::as_ref), said)
    }

    fn denied(&self, config: &Config, login: Option<&Login>, said: Option<Failure>) -> Failure {
        let registry = &self.registry;
        let mut message = match (login, &config.credentials) {
            (Some(login), _) => {
                format!("registry {registry} does not let the login of {} in", login.from.display())
            }
            (None, Credentials::DockerConfig(path)) => format!(
                "it needs a login: there is none for {registry} in {} (`builder login` writes it)",
                path.display()
            ),
            (None, Credentials::Anonymous | Credentials::Given { .. }) => "it needs a login".to_owned(),
        };
        if let Some(said) = said {
            message = format!("{message}; {}", said.message);
        }
        Failure::new(Kind::Login, message)
    }

    /// The token server's address. A login does not leave an encrypted connection for a plain one.
    fn realm(&self, realm: &str, registry: &Url, config: &Config, login: bool) -> Result<Url, Failure> {
        let url =
            Url::parse(realm).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url =
            url.ok_or_else(|| Failure::invalid("the address of the registry's token server is not HTTP"))?;
        if login
            && url.scheme() == "http"
            && registry.scheme() == "https"
            && !config.transport.is_insecure(&url)
        {
            let message = format!("registry {} wants the login sent unencrypted to {realm}", self.registry);
            return Err(Failure::new(Kind::Denied, message));
        }
        Ok(url)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a token server (distribution, `auth/token.md` and `auth/oauth.md`).
async fn request_token(
    http: &Arc<Http>,
    mut realm: Url,
    service: Option<&str>,
    scope: &str,
    login: Option<&Login>,
) -> Result<Response, Failure> {
    let mut authorization = None;
    match login.map(|login| &login.secret) {
        Some(Secret::Identity(token)) => {
            let fields = [
                ("grant_type", "refresh_token"),
                ("service", service.unwrap_or_default()),
                ("client_id", "builder"),
                ("scope", scope),
                ("refresh_token", token),
            ];
            return http.post_form(&realm, &fields).await;
        }
        Some(Secret::Password { user, password }) => {
            authorization = Some(basic(user, password)?);
            realm.query_pairs_mut().append_pair("account", user);
        }
        None => {}
    }
    realm.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
    let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
    realm.query_pairs_mut().extend_pairs(scopes.map(|scope| ("scope", scope)));
    let get = Get { url: realm, authorization, headers: HeaderMap::new(), verified: false };
    http.get(get).await
}

/// The header that a token server's answer makes, and until when it is good.
fn read_token(bytes: &[u8]) -> Result<(HeaderValue, Instant), Failure> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(bytes).map_err(|error| {
        Failure::invalid(format!("the registry's token server gives no valid answer: {error}"))
    })?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token).unwrap_or_default();
    let header = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty());
    let mut header = header.ok_or_else(|| Failure::invalid("the registry's token server gives no token"))?;
    header.set_sensitive(true);
    let life = answer.expires_in.map_or(DEFAULT_LIFE, |seconds| Duration::from_secs(seconds.min(1 << 30)));
    Ok((header, Instant::now() + life.saturating_sub(MARGIN)))
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, Failure> {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let mut header = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|_| Failure::invalid("the login cannot be sent as an HTTP header"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tokens_of_both_names() {
        let (header, until) = read_token(br#"{"token":"a","access_token":"b","expires_in":300}"#).unwrap();
        assert_eq!(header, "Bearer a");
        assert!(until > Instant::now() + Duration::from_secs(290));
        let (header, until) = read_token(br#"{"access_token":"b"}"#).unwrap();
        assert_eq!(header, "Bearer b");
        assert!(until < Instant::now() + Duration::from_secs(60));
        for wrong in ["{}", "[]", "", r#"{"token":""}"#, r#"{"token":"a\nb"}"#] {
            assert!(read_token(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn asks_for_all_that_a_push_needs() {
        let from = BTreeSet::from(["app".to_owned(), "base".to_owned()]);
        let scope = Scope::push("app", &from);
        assert_eq!(scope.0, "repository:app:pull,push repository:base:pull");
        assert_eq!(scope.with(Some("repository:app:pull")), scope.0);
        assert_eq!(scope.with(Some("repository:app:push,pull")), scope.0);
        assert_eq!(scope.with(Some("repository:x:pull")), format!("{} repository:x:pull", scope.0));
        assert_eq!(Scope::pull("a").with(Some("repository:b:pull")), "repository:b:pull");
    }

    #[test]
    fn a_login_is_not_sent_in_the_clear() {
        let authenticator = Authenticator::new("r.example");
        let config = Config::default();
        let registry = Url::parse("https://r.example/v2/").unwrap();
        assert!(authenticator.realm("http://t.example/token", &registry, &config, true).is_err());
        assert!(authenticator.realm("http://t.example/token", &registry, &config, false).is_ok());
        assert!(authenticator.realm("http://127.0.0.1/token", &registry, &config, true).is_ok());
        assert!(authenticator.realm("file:///etc/passwd", &registry, &config, false).is_err());
        assert!(authenticator.realm("/token", &registry, &config, false).is_err());
    }
}
