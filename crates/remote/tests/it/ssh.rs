//! Repositories over ssh, where Debian's `openssh-server` is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use remote::{Access, Checkout, Client, GitConfig};
use tempfile::TempDir;

use crate::support::{client, config, run};
use crate::support_git::{Fixture, Place, Program, access, free_port};

const SSHD: &str = "/usr/sbin/sshd";
/// Where the server of Debian locks itself up; its start script makes it.
const PRIVATE: &str = "/run/sshd";

/// A server that lets one key in, and an agent that has it.
struct Ssh {
    directory: TempDir,
    port: u16,
    _server: Program,
    _agent: Program,
    made_private: bool,
}

impl Ssh {
    fn start() -> Option<Ssh> {
        if !Path::new(SSHD).exists() {
            eprintln!("not tested: {SSHD} is not there (Debian package openssh-server)");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["host", "key", "other"] {
            run(root, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", name]);
        }
        let port = free_port();
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/key.pub\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n",
            root = root.display()
        );
        fs::write(root.join("sshd_config"), settings).unwrap();
        let made_private = rustix::process::geteuid().is_root() && fs::create_dir(PRIVATE).is_ok();
        let server =
            Program::start(Command::new(SSHD).args(["-D", "-e", "-f"]).arg(root.join("sshd_config")), port);
        let socket = root.join("agent");
        let agent = Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn();
        let agent = Program(agent.unwrap());
        let end = Instant::now() + Duration::from_secs(120);
        while !socket.exists() {
            assert!(Instant::now() < end, "ssh-agent does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        let added =
            Command::new("ssh-add").arg("-q").arg(root.join("key")).env("SSH_AUTH_SOCK", &socket).status();
        assert!(added.unwrap().success());
        Some(Ssh { directory, port, _server: server, _agent: agent, made_private })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    /// A line for the server with one of the keys.
    fn known_hosts(&self, key: &str) -> String {
        let key = fs::read_to_string(self.directory.path().join(key).with_extension("pub")).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if self.made_private {
            let _ = fs::remove_dir(PRIVATE);
        }
    }
}

#[tokio::test]
async fn keys_come_from_the_agent_alone() {
    let Some(ssh) = Ssh::start() else { return };
    let fixture = Fixture::new();
    let place = Place::new();
    let user = run(fixture.root(), "id", &["-un"]);
    let remote = format!("ssh://{user}@127.0.0.1:{}{}", ssh.port, fixture.app().display());
    let checkout =
        Checkout { remote, reference: Some("side".into()), submodules: true, ..Checkout::default() };
    let socket = ssh.socket();
    let with_agent = || Access { ssh_agent: Some(&socket), ..access() };
    let (right, wrong) = (ssh.known_hosts("host"), ssh.known_hosts("other"));

    for (name, known_hosts) in [("any", None), ("known", Some(right.as_str()))] {
        let client = Client::new(remote::Config { git: GitConfig::default(), ..config() });
        let access = Access { known_hosts, ..with_agent() };
        let resolved = client.resolve(&checkout, &access).await.unwrap();
        let into = place.at(name);
        client.checkout(&checkout, &resolved, &access, &place.repositories(), &into).await.unwrap();
        assert_eq!(place.read(&format!("{name}/lib/vendor/deep/deep")), "deep\n");
    }
    for known_hosts in [wrong.as_str(), ""] {
        let access = Access { known_hosts: Some(known_hosts), ..with_agent() };
        let error = client().resolve(&checkout, &access).await.unwrap_err().to_string();
        assert!(error.contains("Host key verification failed"), "{error}");
    }
    let error = client().resolve(&checkout, &access()).await.unwrap_err().to_string();
    assert!(error.contains("no ssh agent was given"), "{error}");
}
