use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use transport::header::HeaderValue;
use transport::{Proxies, Request, Retry, Transport, Url};

use super::Access;
use super::activity;
use super::remote::Remote;
use crate::client::Config;
use crate::error::Error;

/// What git may print, in bytes: references of a remote that match a name.
const MAX_OUTPUT: u64 = 16 << 20;
/// What is kept of git's messages, in bytes.
const MAX_MESSAGES: usize = 64 << 10;

/// All that git needs to talk to one remote.
pub(super) struct Session<'a> {
    pub(super) config: &'a Config,
    pub(super) access: &'a Access<'a>,
    pub(super) remote: Remote,
    program: PathBuf,
    /// An empty directory, but for ssh's known hosts: `HOME`, and where git runs when it needs no repository.
    home: TempDir,
}

/// One way of running git.
#[derive(Clone)]
pub(super) struct Git<'s> {
    session: &'s Session<'s>,
    git_dir: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    /// A locked file, which git holds open too: the lock lasts as long as the last of both.
    lock: Option<&'s File>,
    /// Whether it fetches from this machine's own directories.
    local: bool,
}

/// Why git, or what is around it, did not do it.
#[derive(Debug)]
pub(super) enum Trouble {
    Git(Failure),
    Other(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Git(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Other(error)
    }
}

/// Why git did not do it.
#[derive(Debug)]
pub(super) enum Failure {
    /// What it said at last.
    Refused(String),
    Io(io::Error),
}

impl<'a> Session<'a> {
    /// Makes its directory, so it blocks for a moment.
    pub(super) fn new(
        config: &'a Config,
        access: &'a Access<'a>,
        remote: Remote,
    ) -> Result<Session<'a>, Error> {
        let program = config.git.find().ok_or_else(|| Error::NoGit {
            remote: remote.url.clone(),
            program: config.git.program.display().to_string(),
        })?;
        let failed = |error| Error::io("make a directory for git", error);
        let home = tempfile::Builder::new().prefix("builder-git-").tempdir().map_err(failed)?;
        if let Some(hosts) = access.known_hosts {
            fs::write(home.path().join("known_hosts"), hosts).map_err(failed)?;
        }
        Ok(Session { config, access, remote, program, home })
    }

    /// Git without a repository.
    pub(super) fn git(&self) -> Git<'_> {
        Git { session: self, git_dir: None, work_tree: None, lock: None, local: false }
    }

    /// Whether git was redirected, which it does not follow with credentials.
    pub(super) fn may_follow(&self, failure: &Failure) -> bool {
        matches!(failure, Failure::Refused(said) if said.contains("returned error: 30"))
            && self.remote.authorization.is_some()
    }

    /// Finds out where on the same server the repository moved to. To another one, credentials are not sent.
    pub(super) async fn follow(&mut self, transport: &Transport) -> Result<(), Error> {
        let remote = &mut self.remote;
        let shown = remote.url.clone();
        let failed = |message: String| Error::Fetch { url: shown.clone(), message };
        let asked = format!("{}/info/refs", remote.address.trim_end_matches('/'));
        let mut url = Url::parse(&asked).map_err(|error| failed(error.to_string()))?;
        url.set_query(Some("service=git-upload-pack"));
        let authorization = remote.authorization.as_ref().map(|sent| HeaderValue::try_from(&sent.value));
        let mut authorization = authorization.transpose().map_err(|error| failed(error.to_string()))?;
        authorization.iter_mut().for_each(|value| value.set_sensitive(true));
        let answer = transport.send(Request { authorization, ..Request::get(url) }).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let mut found = answer.url().clone();
        found.set_query(None);
        match found.as_str().strip_suffix("/info/refs").filter(|_| answer.is_direct()) {
            Some(address) => {
                remote.address = address.to_owned();
                remote.authorization.iter_mut().for_each(|sent| sent.scope = address.to_owned());
                Ok(())
            }
            None => Err(failed(format!(
                "it redirects to {}, where its credentials are not sent",
                found.host_str().unwrap_or_default()
            ))),
        }
    }

    /// What went wrong as the caller is told.
    pub(super) fn error(&self, trouble: Trouble) -> Error {
        let said = match trouble {
            Trouble::Other(error) => return error,
            Trouble::Git(Failure::Io(source)) => return Error::io("run git", source),
            Trouble::Git(Failure::Refused(said)) => said,
        };
        let hint = if said.contains("could not read Username") || said.contains("Authentication failed") {
            match &self.remote.authorization {
                Some(_) => " (the credentials that it was sent are refused)",
                None => " (a token for it can be given as the secret GIT_AUTH_TOKEN)",
            }
        } else if said.contains("Permission denied (") && self.access.ssh_agent.is_none() {
            " (no ssh agent was given)"
        } else {
            ""
        };
        Error::Fetch { url: self.remote.url.clone(), message: format!("{}{hint}", words(&said)) }
    }

    fn environment(&self, command: &mut Command, local: bool) {
        let home = self.home.path();
        let git = &self.config.git;
        command
            .env_clear()
            .env("PATH", &git.search_path)
            .env("LC_ALL", "C")
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TEMPLATE_DIR", "")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CEILING_DIRECTORIES", home.parent().unwrap_or(home))
            .env("GIT_SSH_COMMAND", self.ssh())
            .env("GIT_SSH_VARIANT", "ssh");
        let protocols = match (local, git.local_remotes) {
            (true, _) => "file",
            (false, true) => "http:https:git:ssh:file",
            (false, false) => "http:https:git:ssh",
        };
        command.env("GIT_ALLOW_PROTOCOL", protocols);
        for (name, value) in [
            ("GIT_SSL_CAINFO", git.authorities.as_deref()),
            ("GIT_SSL_CAPATH", git.authority_directory.as_deref()),
            ("SSH_AUTH_SOCK", self.access.ssh_agent),
        ] {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let Proxies { http, https, except } = &self.config.transport.proxies;
        for (name, value) in [("http_proxy", http), ("https_proxy", https)] {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("no_proxy", format!("{except},localhost,127.0.0.0/8,127.0.0.1,::1"));
        let settings = self.settings();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
    }

    /// Git's configuration, all of it.
    fn settings(&self) -> Vec<(String, String)> {
        let idle = self.config.transport.idle_timeout.as_secs().max(1).to_string();
        let mut settings: Vec<(String, String)> = [
            ("advice.detachedHead", "false"),
            ("core.hooksPath", "/dev/null"),
            ("credential.helper", ""),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("init.defaultBranch", "master"),
            ("checkout.workers", "0"),
            // Objects appear with their whole pack, or not at all.
            ("transfer.unpackLimit", "1"),
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", &idle),
            ("http.userAgent", &format!("git/{}", self.config.transport.user_agent)),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        if let Some(sent) = &self.remote.authorization {
            settings
                .push((format!("http.{}.extraheader", sent.scope), format!("Authorization: {}", sent.value)));
            // Git would go on with the header at the address that it is redirected to.
            settings.push((format!("http.{}.followRedirects", sent.scope), "false".to_owned()));
        }
        settings
    }

    /// `ssh` without the user's configuration, keys and known hosts.
    fn ssh(&self) -> OsString {
        let mut command = OsString::from(
            "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o GlobalKnownHostsFile=/dev/null \
             -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4",
        );
        match self.access.known_hosts {
            Some(_) => {
                command.push(" -o StrictHostKeyChecking=yes -o UserKnownHostsFile=");
                command.push(quoted(&self.home.path().join("known_hosts")));
            }
            None => command.push(" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"),
        }
        command
    }
}

/// As one word for a shell, and for ssh, which takes quotes and blanks in file names apart as well.
fn quoted(path: &Path) -> OsString {
    let mut quoted = OsString::from("'\"");
    quoted.push(path.as_os_str().to_string_lossy().replace('\'', r"'\''"));
    quoted.push("\"'");
    quoted
}

impl<'s> Git<'s> {
    pub(super) fn in_repository(mut self, git_dir: &Path) -> Git<'s> {
        self.git_dir = Some(git_dir.to_owned());
        self
    }

    pub(super) fn on(mut self, work_tree: &Path) -> Git<'s> {
        self.work_tree = Some(work_tree.to_owned());
        self
    }

    pub(super) fn holding(mut self, lock: &'s File) -> Git<'s> {
        self.lock = Some(lock);
        self
    }

    pub(super) fn locally(mut self) -> Git<'s> {
        self.local = true;
        self
    }

    pub(super) fn retry(&self) -> &Retry {
        &self.session.config.retry
    }

    /// Runs it to its end and gives what it prints. Dropping the future kills it and all that it started.
    pub(super) async fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<String, Failure> {
        let (status, printed, said) = self.start(arguments).await.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Failure::Refused(error.to_string()),
            _ => Failure::Io(error),
        })?;
        match status.success() {
            true => Ok(printed),
            false if said.trim().is_empty() => Err(Failure::Refused(format!("git ends with {status}"))),
            false => Err(Failure::Refused(said)),
        }
    }

    async fn start<A: AsRef<OsStr>>(&self, arguments: &[A]) -> io::Result<(ExitStatus, String, String)> {
        // Git makes files as the umask lets it, and that one is this process's own.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 022 && exec \"$@\"", "git"]).arg(&self.session.program);
        self.session.environment(&mut command, self.local);
        if let Some(git_dir) = &self.git_dir {
            command.env("GIT_DIR", git_dir);
        }
        if let Some(work_tree) = &self.work_tree {
            command.env("GIT_WORK_TREE", work_tree);
        }
        let directory = self.work_tree.as_deref().unwrap_or(self.session.home.path());
        let stdin = match self.lock {
            Some(lock) => Stdio::from(lock.try_clone()?),
            None => Stdio::null(),
        };
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut running = Running(command.spawn()?);
        let (out, err) = (running.0.stdout.take(), running.0.stderr.take());
        let group = running.0.id().unwrap_or_default();
        let ends = async {
            let (printed, said) = tokio::join!(read(out), self.listen(err));
            Ok((running.0.wait().await?, printed?, said?))
        };
        let time = self.session.config.transport.idle_timeout;
        tokio::select! {
            ended = ends => ended,
            () = activity::none_for(time, group) => {
                let message = format!("git did nothing for {} s", time.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            }
        }
    }

    /// Tells what git says and keeps its end.
    async fn listen(&self, from: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
        let mut kept = String::new();
        let Some(from) = from else { return Ok(kept) };
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while (&mut from).take(MAX_MESSAGES as u64 / 4).read_until(b'\n', &mut line).await? > 0 {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if !text.is_empty() {
                (self.session.access.log)(text);
            }
            kept += text;
            kept.push('\n');
            if kept.len() > MAX_MESSAGES {
                let cut = kept.len() - MAX_MESSAGES / 2;
                kept = kept.chars().skip(kept[..kept.floor_char_boundary(cut)].chars().count()).collect();
            }
            line.clear();
        }
        Ok(kept)
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > MAX_OUTPUT {
        return Err(io::Error::other(format!("git prints more than {MAX_OUTPUT} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A process and the group that it leads. None of it outlives this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // There is no id once its end was waited for.
        let Some(group) = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else { return };
        let _ = kill_process_group(group, Signal::KILL);
        // What is killed is gone within moments; files that it wrote are about to be removed.
        for _ in 0..500 {
            let is_reaped = matches!(self.0.try_wait(), Ok(Some(_)) | Err(_));
            if is_reaped && test_kill_process_group(group).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The last things that git said, as one line.
fn words(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(6)..];
    let text = last.iter().map(|line| line.strip_prefix("fatal: ").unwrap_or(line)).collect::<Vec<_>>();
    text.join("; ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
