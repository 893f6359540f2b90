use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;

use crate::config::{Credentials, Password};
use crate::failure::Failure;

/// Docker's key for its own registry, in `auths` and towards credential helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Who the user is to one registry.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) secret: Secret,
    /// The file, for messages.
    pub(crate) from: PathBuf,
}

#[derive(PartialEq, Eq)]
pub(crate) enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth 2 refresh token.
    Identity(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Looks up the login for a registry. Runs a credential helper where the file names one, which may take its time.
pub(crate) async fn look_up(source: &Credentials, registry: &str) -> Result<Option<Login>, Failure> {
    let path = match source {
        Credentials::Anonymous => return Ok(None),
        Credentials::Given { user, password: Password(password) } => {
            let secret = Secret::Password { user: user.clone(), password: password.clone() };
            return Ok(Some(Login { secret, from: PathBuf::from("the command line") }));
        }
        Credentials::DockerConfig(path) => path,
    };
    let (path, registry) = (path.clone(), registry.to_owned());
    let task = tokio::task::spawn_blocking(move || from_docker_config(&path, &registry));
    task.await.map_err(|error| Failure::io("read credentials", io::Error::other(error)))?
}

fn from_docker_config(path: &Path, registry: &str) -> Result<Option<Login>, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Helpers {
        creds_store: Option<String>,
        #[serde(default)]
        cred_helpers: HashMap<String, String>,
    }
    let failed = |error: io::Error| Failure::io(format!("read {}", path.display()), error);
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let helpers: Helpers = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
    let server = if registry == "docker.io" { DOCKER_HUB } else { registry };
    let helper = helpers.cred_helpers.get(server).or(helpers.creds_store.as_ref());
    let secret = match docker_credential::get_credential_from_reader(bytes.as_slice(), server) {
        Ok(DockerCredential::UsernamePassword(user, password)) if user.is_empty() && password.is_empty() => {
            return Ok(None);
        }
        Ok(DockerCredential::UsernamePassword(user, password)) => Secret::Password { user, password },
        Ok(DockerCredential::IdentityToken(token)) => Secret::Identity(token),
        Err(error) => {
            return failure(&error, helper).map_or(Ok(None), |text| Err(failed(io::Error::other(text))));
        }
    };
    Ok(Some(Login { secret, from: path.to_owned() }))
}

/// What went wrong in words; `None` when there is just no login.
fn failure(error: &CredentialRetrievalError, helper: Option<&String>) -> Option<String> {
    let helper =
        helper.map_or("the credential helper".to_owned(), |name| format!("docker-credential-{name}"));
    match error {
        CredentialRetrievalError::NoCredentialConfigured => None,
        // The words of Docker's helper library; helpers have no other way to say so.
        CredentialRetrievalError::HelperFailure { stdout, .. }
            if stdout.contains("credentials not found") =>
        {
            None
        }
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => {
            let said = [stderr, stdout].into_iter().find(|text| !text.trim().is_empty());
            Some(format!("{helper} failed: {}", said.map_or("it says nothing", |text| text.trim())))
        }
        CredentialRetrievalError::HelperCommunicationError => {
            Some(format!("{helper}, which it names, cannot be run"))
        }
        CredentialRetrievalError::MalformedHelperResponse => Some(format!("{helper} gives no valid answer")),
        CredentialRetrievalError::ConfigReadError => Some("not a valid Docker configuration".to_owned()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(text: &str, registry: &str) -> Result<Option<Secret>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        match from_docker_config(&path, registry) {
            Ok(login) => Ok(login.map(|login| login.secret)),
            Err(failure) => {
                assert!(failure.message.contains("config.json"));
                Err(failure.of_image("x").to_string())
            }
        }
    }

    fn password(user: &str, password: &str) -> Result<Option<Secret>, String> {
        Ok(Some(Secret::Password { user: user.into(), password: password.into() }))
    }

    #[test]
    fn finds_logins_as_docker_writes_them() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "r.example:5000": {"auth": "dTpwOnE="},
            "id.example": {"auth": "PHRva2VuPjo=", "identitytoken": "refresh"},
            "empty.example": {}
        }}"#;
        assert_eq!(look_up(text, "docker.io").ok(), password("hub", "pw").ok());
        assert_eq!(look_up(text, "r.example:5000").ok(), password("u", "p:q").ok());
        assert!(
            matches!(look_up(text, "id.example"), Ok(Some(Secret::Identity(token))) if token == "refresh")
        );
        assert!(matches!(look_up(text, "empty.example"), Ok(None)));
        assert!(matches!(look_up(text, "other.example"), Ok(None)));
        assert!(matches!(look_up("{}", "r.example"), Ok(None)));
    }

    #[test]
    fn names_the_file_and_the_helper() {
        let said = look_up("{\"auths\": ", "r").err().unwrap();
        assert!(said.contains("EOF while parsing"), "{said}");
        let said = look_up(r#"{"credsStore": "that-is-not-there"}"#, "r").err().unwrap();
        assert!(said.contains("docker-credential-that-is-not-there"), "{said}");
        let said = look_up(r#"{"auths": {"r": {"auth": "!"}}}"#, "r").err().unwrap();
        assert!(said.contains("decode"), "{said}");
    }

    #[test]
    fn a_missing_file_is_no_login() {
        assert!(from_docker_config(Path::new("/nonexistent/config.json"), "r").unwrap().is_none());
    }
}
