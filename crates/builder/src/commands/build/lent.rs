//! What the user lends to steps: `--secret` and `--ssh`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// The largest secret, in bytes, as upstream has it.
const LARGEST: u64 = 500 * 1024;

/// A `--secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretArg {
    id: String,
    from: From,
    /// What the user says of its content.
    version: Option<String>,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    File(PathBuf),
    Variable(String),
    /// The output of a shell command.
    Command(String),
}

/// Reads `id=NAME[,src=FILE|,env=VARIABLE|,command=COMMAND][,version=TEXT]`.
pub(super) fn secret(text: &str) -> Result<SecretArg, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for field in super::output::fields(text)? {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` is not NAME=VALUE"))?;
        let key = match key.to_ascii_lowercase().as_str() {
            "src" => "source".to_owned(),
            key @ ("id" | "source" | "env" | "type" | "command" | "version") => key.to_owned(),
            other => {
                return Err(format!(
                    "there is no `{other}`; known are id, src, env, command, type and version"
                ));
            }
        };
        fields.insert(key, value.to_owned());
    }
    let mut take = |key: &str| fields.remove(key);
    let id = take("id").filter(|id| !id.is_empty()).ok_or("id=NAME is missing")?;
    let kind = take("type");
    let version = take("version");
    let given = [take("source"), take("env"), take("command")];
    if given.iter().flatten().count() > 1 {
        return Err("of src, env and command, choose one".to_owned());
    }
    let [source, variable, command] = given;
    let from = match (kind.as_deref(), source, variable, command) {
        (None | Some("file"), Some(path), None, None) => From::File(path.into()),
        // As upstream: `src` of the type `env` is the variable's name.
        (Some("env"), Some(name), None, None) | (None | Some("env"), None, Some(name), None) => {
            From::Variable(name)
        }
        (None, None, None, Some(command)) => From::Command(command),
        (Some("env"), None, None, None) => From::Variable(id.clone()),
        (Some("file"), None, None, None) => From::File(PathBuf::from(&id)),
        (None, None, None, None) if std::env::var_os(&id).is_some() => From::Variable(id.clone()),
        (None, None, None, None) => From::File(PathBuf::from(&id)),
        (Some(other), ..) if !matches!(other, "file" | "env") => {
            return Err(format!("there is no type `{other}`; known are file and env"));
        }
        (Some(kind), ..) => return Err(format!("the type {kind} contradicts the rest")),
        (None, ..) => return Err("of src, env and command, choose one".to_owned()),
    };
    Ok(SecretArg { id, from, version })
}

/// The secrets of a build. Values stay in memory, and are read when a step first asks.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    given: BTreeMap<String, From>,
    read: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Secrets {
    /// A file that is missing, or a variable, is told before the build.
    pub(super) fn resolve(args: &[SecretArg]) -> Result<Secrets, Failure> {
        let mut secrets = Secrets::default();
        if !args.is_empty() {
            executor::leave_memory_out_of_core_dumps();
        }
        for SecretArg { id, from, .. } in args {
            match from {
                From::File(path) => {
                    let found = std::fs::metadata(path).map_err(|error| {
                        Failure::build(format!("--secret id={id}: {}: {error}", path.display()))
                    })?;
                    if found.is_dir() {
                        return Err(Failure::usage(format!(
                            "--secret id={id}: {} is a directory",
                            path.display()
                        )));
                    }
                }
                From::Variable(name) if std::env::var_os(name).is_none() => {
                    return Err(Failure::build(format!("--secret id={id}: the variable {name} is not set")));
                }
                From::Variable(_) | From::Command(_) => {}
            }
            secrets.given.insert(id.clone(), from.clone());
        }
        Ok(secrets)
    }

    /// What the user says of the content of secrets, by id.
    pub(super) fn versions(args: &[SecretArg]) -> BTreeMap<String, String> {
        args.iter().filter_map(|arg| Some((arg.id.clone(), arg.version.clone()?))).collect()
    }
}

impl worker::Secrets for Secrets {
    fn get(&self, id: &str) -> Result<Option<Vec<u8>>, String> {
        let Some(from) = self.given.get(id) else { return Ok(None) };
        // Held while reading, so that a command runs once.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = read.get(id) {
            return Ok(Some(value.clone()));
        }
        let value = match from {
            From::File(path) => read_file(path).map_err(|error| format!("{}: {error}", path.display()))?,
            From::Variable(name) => std::env::var_os(name).unwrap_or_default().into_vec(),
            From::Command(command) => output_of(command)?,
        };
        if value.len() as u64 > LARGEST {
            return Err(format!("it is larger than {} KiB", LARGEST / 1024));
        }
        read.insert(id.to_owned(), value.clone());
        Ok(Some(value))
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut value = Vec::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut value)?;
    Ok(value)
}

/// What a shell command prints. Its errors go where ours go.
fn output_of(command: &str) -> Result<Vec<u8>, String> {
    let shell =
        Command::new("/bin/sh").arg("-c").arg(command).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = shell.map_err(|error| format!("its command cannot be run: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("its command failed: {}", output.status))
    }
}

/// A `--ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SshArg {
    id: String,
    paths: Vec<PathBuf>,
}

/// Reads `default` or `ID[=SOCKET|=KEY[,KEY…]]`.
pub(super) fn ssh(text: &str) -> Result<SshArg, String> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    if id.is_empty() {
        return Err("expected default, or ID[=SOCKET|=KEY[,KEY]]".to_owned());
    }
    let paths = paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    Ok(SshArg { id: id.to_owned(), paths })
}

/// The agents of a build.
#[derive(Debug, Default)]
pub(super) struct Agents {
    sockets: BTreeMap<String, PathBuf>,
    /// Those started here.
    _started: Vec<Agent>,
}

impl Agents {
    /// Finds the sockets, and starts an agent where keys were given.
    pub(super) fn resolve(args: &[SshArg]) -> Result<Agents, Failure> {
        let mut agents = Agents::default();
        for SshArg { id, paths } in args {
            let failed = |reason: String| Failure::build(format!("--ssh {id}: {reason}"));
            let socket = match paths.as_slice() {
                [] => std::env::var_os("SSH_AUTH_SOCK")
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from)
                    .ok_or_else(|| failed("no agent runs: SSH_AUTH_SOCK is not set".to_owned()))?,
                [path] if is_socket(path).map_err(&failed)? => path.clone(),
                keys => {
                    let agent = Agent::start(keys).map_err(&failed)?;
                    let socket = agent.socket();
                    agents._started.push(agent);
                    socket
                }
            };
            agents.sockets.insert(id.clone(), socket);
        }
        Ok(agents)
    }
}

impl worker::SshAgents for Agents {
    fn socket(&self, id: &str) -> Result<Option<PathBuf>, String> {
        Ok(self.sockets.get(id).cloned())
    }
}

fn is_socket(path: &Path) -> Result<bool, String> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.file_type().is_socket()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// OpenSSH's agent with keys of the user, for one build.
#[derive(Debug)]
struct Agent {
    directory: tempfile::TempDir,
    process: Child,
}

/// How long an agent may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

impl Agent {
    fn start(keys: &[PathBuf]) -> Result<Agent, String> {
        let directory = tempfile::Builder::new().prefix("builder-ssh-").tempdir();
        let directory = directory.map_err(|error| format!("no directory for an agent: {error}"))?;
        let socket = directory.path().join("agent");
        // In the foreground: it ends with us.
        let process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("ssh-agent cannot be started: {error} (package openssh-client)"))?;
        let mut agent = Agent { directory, process };
        let began = Instant::now();
        // It is there before anybody listens.
        while UnixStream::connect(&socket).is_err() {
            let ended = agent.process.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                return Err("ssh-agent does not listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for key in keys {
            agent.add(key)?;
        }
        Ok(agent)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    fn add(&self, key: &Path) -> Result<(), String> {
        let socket: OsString = self.socket().into();
        let added = Command::new("ssh-add")
            .arg("--")
            .arg(key)
            .env("SSH_AUTH_SOCK", socket)
            // A passphrase is asked for nowhere: that the key has one shall be told.
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("SSH_ASKPASS", "/bin/false")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("ssh-add cannot be run: {error} (package openssh-client)"))?;
        if added.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&added.stderr);
        let said = said.lines().last().unwrap_or("it gives no reason").trim();
        Err(format!(
            "{} cannot be added to an agent ({said}); add a key with a passphrase to your own agent and give --ssh default",
            key.display()
        ))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use worker::Secrets as _;

    #[test]
    fn forms_of_secrets() {
        let from = |text: &str| secret(text).map(|secret| (secret.id, secret.from));
        let file = |path: &str| From::File(path.into());
        let variable = |name: &str| From::Variable(name.to_owned());
        assert_eq!(from("id=a,src=f"), Ok(("a".into(), file("f"))));
        assert_eq!(from("type=file,id=a,source=f"), Ok(("a".into(), file("f"))));
        assert_eq!(from("id=a,env=B"), Ok(("a".into(), variable("B"))));
        assert_eq!(from("id=a,type=env,src=B"), Ok(("a".into(), variable("B"))));
        assert_eq!(from("id=a,type=env"), Ok(("a".into(), variable("a"))));
        assert_eq!(from("id=PATH"), Ok(("PATH".into(), variable("PATH"))));
        assert_eq!(from("id=no-such-variable"), Ok(("no-such-variable".into(), file("no-such-variable"))));
        assert_eq!(from("id=a,\"command=echo a,b\""), Ok(("a".into(), From::Command("echo a,b".into()))));
        for wrong in ["", "src=f", "id=a,src=f,env=B", "id=a,x=y", "id=a,type=other", "id=", "id"] {
            assert!(secret(wrong).is_err(), "{wrong}");
        }
        let versions =
            Secrets::versions(&[secret("id=a,env=B,version=7").unwrap(), secret("id=b,env=B").unwrap()]);
        assert_eq!(versions, BTreeMap::from([("a".to_owned(), "7".to_owned())]));
    }

    #[test]
    fn a_command_runs_once_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let text = format!("id=a,command=echo x >>{}; printf sesame", count.display());
        let other = "id=b,command=exit 3";
        let args = [secret(&text).unwrap(), secret(other).unwrap()];
        let secrets = Secrets::resolve(&args).unwrap();
        for _ in 0..2 {
            assert_eq!(secrets.get("a").unwrap().as_deref(), Some(&b"sesame"[..]));
        }
        assert_eq!(std::fs::read_to_string(count).unwrap(), "x\n");
        assert!(secrets.get("b").unwrap_err().contains("exit status: 3"));
        assert_eq!(secrets.get("none"), Ok(None));
    }

    #[test]
    fn what_is_missing_is_told_before_the_build() {
        let resolve = |text: &str| Secrets::resolve(&[secret(text).unwrap()]).map(drop).map_err(|f| f.code());
        assert_eq!(resolve("id=a,src=/nonexistent"), Err(1));
        assert_eq!(resolve("id=a,src=/"), Err(2));
        assert_eq!(resolve("id=a,env=NO_SUCH_VARIABLE_HERE"), Err(1));
        assert_eq!(resolve("id=a,env=PATH"), Ok(()));
    }

    #[test]
    fn forms_of_agents() {
        let paths = |text: &str| ssh(text).map(|ssh| (ssh.id, ssh.paths.len()));
        assert_eq!(paths("default"), Ok(("default".into(), 0)));
        assert_eq!(paths("a=/s"), Ok(("a".into(), 1)));
        assert_eq!(paths("a=/k1,/k2"), Ok(("a".into(), 2)));
        assert!(ssh("=x").is_err());
    }
}
