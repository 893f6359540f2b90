use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use transport::{Proxies, Retry, Transport};

use crate::git::GitConfig;
use crate::meanings::Meanings;

/// Looks up the value of a secret by its name, such as `HTTP_AUTH_TOKEN_example.org`.
pub type Secrets<'a> = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'a;

/// How files and repositories are fetched.
#[derive(Debug, Clone)]
pub struct Config {
    /// Trust, proxies and time-outs. The proxies are git's too.
    pub transport: transport::Config,
    /// What happens after failures that may pass.
    pub retry: Retry,
    /// The largest file that is downloaded, in bytes.
    pub max_size: u64,
    /// The git program.
    pub git: GitConfig,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            transport: transport::Config::default(),
            retry: Retry::default(),
            max_size: 16 << 30,
            git: GitConfig::default(),
        }
    }
}

impl Config {
    /// The default with what the environment says: the proxies as [`Proxies::from_env`] has them; `PATH`, in which git is
    /// looked for; `SSL_CERT_FILE` and `SSL_CERT_DIR`, whose authorities git shall trust as well.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Config {
        Config {
            transport: transport::Config { proxies: Proxies::from_env(&variable), ..Default::default() },
            git: GitConfig::from_env(&variable),
            ..Config::default()
        }
    }
}

/// Fetches. Clones share connections. Making one costs nothing.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) config: Arc<Config>,
    pub(crate) transport: Transport,
    pub(crate) meanings: Arc<Meanings>,
}

impl Client {
    /// A client that has asked nothing yet.
    pub fn new(config: Config) -> Client {
        let transport = Transport::new(config.transport.clone());
        Client { config: Arc::new(config), transport, meanings: Arc::default() }
    }

    /// One that takes the commits that [`Client::found`] told of, whatever references mean by now. Files are fetched as they are.
    pub fn finding_again(self, meant: BTreeMap<String, String>) -> Client {
        Client { meanings: Arc::new(Meanings::new(meant)), ..self }
    }

    /// What was found so far, by this client and its clones: for `REMOTE[#REFERENCE]` the full reference and the id of its object with
    /// a blank between, for a file's address the digest of its bytes. Logins stand in none of it.
    pub fn found(&self) -> BTreeMap<String, String> {
        self.meanings.found()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Access, Checkout, Download, Resolved};

    fn is_send<T: Send>(_: T) {}

    /// What is fetched is fetched by tasks that move between threads.
    #[test]
    fn futures_can_move() {
        let (client, checkout) = (Client::new(Config::default()), Checkout::default());
        let secrets: &Secrets<'_> = &|_| None;
        let download = Download { url: "", checksum: None, known: &[], secrets, progress: &|_, _| {} };
        let access = Access { secrets, ssh_agent: None, known_hosts: None, log: &|_| {} };
        let resolved = Resolved { reference: String::new(), object: String::new(), peeled: None };
        let path = Path::new("");
        is_send(client.download(&download, path));
        is_send(client.resolve(&checkout, &access));
        is_send(client.checkout(&checkout, &resolved, &access, path, path));
    }
}
