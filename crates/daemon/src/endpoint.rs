use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use transport::Url;

use crate::DaemonError;

/// The address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket of this machine.
    Unix(PathBuf),
    /// Plain HTTP: `http://HOST:PORT/`.
    Tcp(Url),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(url) => write!(f, "tcp://{}", url.authority()),
        }
    }
}

/// Where daemons are looked for, as Docker's command line does.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `DOCKER_HOST`, which wins over everything but a context that is named for the occasion.
    pub docker_host: Option<String>,
    /// `DOCKER_CONTEXT`, else what the configuration says.
    pub docker_context: Option<String>,
    /// The directory of `config.json` and of the contexts.
    pub docker_config: Option<PathBuf>,
    /// Whether `DOCKER_TLS_VERIFY` is set.
    pub tls_verify: bool,
    /// Sockets in the order in which they are tried when nothing was configured.
    pub sockets: Vec<PathBuf>,
}

impl Surroundings {
    /// What the environment says; the sockets are Docker's, Docker's for an ordinary user, and Podman's.
    pub fn from_env(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Surroundings {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
        if let Some(runtime) = set("XDG_RUNTIME_DIR").map(PathBuf::from) {
            sockets.push(runtime.join("docker.sock"));
            sockets.push(runtime.join("podman/podman.sock"));
        }
        sockets.push(PathBuf::from("/run/podman/podman.sock"));
        Surroundings {
            docker_host: text("DOCKER_HOST").or_else(|| text("CONTAINER_HOST")),
            docker_context: text("DOCKER_CONTEXT"),
            docker_config: set("DOCKER_CONFIG")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(set("HOME")?).join(".docker"))),
            tls_verify: set("DOCKER_TLS_VERIFY").is_some(),
            sockets,
        }
    }

    /// The daemon that is meant: that of the context named here, of `DOCKER_HOST`, of the context that is in use, or the first socket that is
    /// there.
    pub fn endpoint(&self, context: Option<&str>) -> Result<Endpoint, DaemonError> {
        if let Some(name) = context {
            return self.of_context(name);
        }
        if let Some(host) = &self.docker_host {
            return self.parse("DOCKER_HOST", host);
        }
        if let Some(name) = self.docker_context.clone().or_else(|| self.current_context()) {
            return self.of_context(&name);
        }
        self.socket()
    }

    fn socket(&self) -> Result<Endpoint, DaemonError> {
        let is_socket = |path: &&PathBuf| fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if let Some(path) = self.sockets.iter().find(is_socket) {
            return Ok(Endpoint::Unix(path.clone()));
        }
        let places: Vec<String> = self.sockets.iter().map(|path| path.display().to_string()).collect();
        Err(DaemonError::None { places: places.join(", ") })
    }

    fn current_context(&self) -> Option<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Config {
            current_context: Option<String>,
        }
        let bytes = fs::read(self.docker_config.as_ref()?.join("config.json")).ok()?;
        serde_json::from_slice::<Config>(&bytes).ok()?.current_context.filter(|name| !name.is_empty())
    }

    /// A context is a file named by the hash of its name.
    fn of_context(&self, name: &str) -> Result<Endpoint, DaemonError> {
        if name == "default" {
            return match &self.docker_host {
                Some(host) => self.parse("DOCKER_HOST", host),
                None => self.socket(),
            };
        }
        let origin = format!("Docker context {name}");
        let fail = |reason: String| DaemonError::Address { origin: origin.clone(), reason };
        let Some(config) = &self.docker_config else {
            return Err(fail("there is no such context".to_owned()));
        };
        let hash: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let path = config.join("contexts/meta").join(hash).join("meta.json");
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => fail("there is no such context".to_owned()),
            _ => fail(format!("read {}: {error}", path.display())),
        })?;
        let meta: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| fail(format!("read {}: {error}", path.display())))?;
        match meta["Endpoints"]["docker"]["Host"].as_str() {
            Some(host) => self.parse(&origin, host),
            None => Err(fail("it names no daemon".to_owned())),
        }
    }

    fn parse(&self, origin: &str, host: &str) -> Result<Endpoint, DaemonError> {
        let fail = |reason: &str| {
            Err(DaemonError::Address { origin: origin.to_owned(), reason: format!("{host}: {reason}") })
        };
        match host.split_once("://") {
            Some(("unix", path)) if Path::new(path).is_absolute() => Ok(Endpoint::Unix(PathBuf::from(path))),
            Some(("tcp" | "http", _)) if self.tls_verify => {
                fail("a daemon behind TLS is not supported yet: use a socket, or `docker load`")
            }
            Some(("tcp" | "http", authority)) => {
                match Url::parse(&format!("http://{}/", authority.trim_end_matches('/'))) {
                    Ok(url) if url.has_host() && url.path() == "/" => Ok(Endpoint::Tcp(url)),
                    _ => fail("not the address of a host"),
                }
            }
            Some(("ssh", _)) => {
                fail("a daemon behind SSH is not supported yet: forward its socket with `ssh -L`")
            }
            _ => fail("expected unix:///PATH or tcp://HOST:PORT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> Surroundings {
        Surroundings { docker_host: Some(host.to_owned()), ..Surroundings::default() }
    }

    #[test]
    fn addresses() {
        let shown = |host: &str| with_host(host).endpoint(None).map(|endpoint| endpoint.to_string());
        assert_eq!(shown("unix:///run/d.sock").unwrap(), "unix:///run/d.sock");
        assert_eq!(shown("tcp://127.0.0.1:2375").unwrap(), "tcp://127.0.0.1:2375");
        for host in ["unix://x", "ssh://u@h", "fd://", "tcp://", "x"] {
            assert!(matches!(shown(host), Err(DaemonError::Address { .. })), "{host}");
        }
        let encrypted = Surroundings { tls_verify: true, ..with_host("tcp://h:2376") };
        assert!(encrypted.endpoint(None).unwrap_err().to_string().contains("TLS"));
    }

    #[test]
    fn contexts_and_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let hash: String = Sha256::digest(b"mine").iter().map(|byte| format!("{byte:02x}")).collect();
        let meta = dir.path().join("contexts/meta").join(hash);
        fs::create_dir_all(&meta).unwrap();
        let text = r#"{"Name":"mine","Endpoints":{"docker":{"Host":"unix:///mine.sock"}}}"#;
        fs::write(meta.join("meta.json"), text).unwrap();
        fs::write(dir.path().join("config.json"), r#"{"currentContext":"mine"}"#).unwrap();
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let surroundings = Surroundings {
            docker_config: Some(dir.path().to_owned()),
            sockets: vec![dir.path().join("none"), socket.clone()],
            ..Surroundings::default()
        };
        let mine = Endpoint::Unix(PathBuf::from("/mine.sock"));
        assert_eq!(surroundings.endpoint(None).unwrap(), mine);
        assert_eq!(surroundings.endpoint(Some("mine")).unwrap(), mine);
        assert_eq!(surroundings.endpoint(Some("default")).unwrap(), Endpoint::Unix(socket.clone()));
        assert!(surroundings.endpoint(Some("other")).unwrap_err().to_string().contains("no such context"));
        let alone = Surroundings { docker_config: None, ..surroundings.clone() };
        assert_eq!(alone.endpoint(None).unwrap(), Endpoint::Unix(socket));
        let nothing = Surroundings { sockets: vec![dir.path().join("none")], ..Surroundings::default() };
        assert!(nothing.endpoint(None).unwrap_err().to_string().contains("no Docker daemon"));
    }
}
