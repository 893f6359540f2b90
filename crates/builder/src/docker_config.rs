//! Logins in Docker's configuration: its file, or the credential helper that the file names.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Keeps a login. Says where, to go into a sentence.
pub(crate) fn store(registry: &str, user: &str, password: &str) -> Result<String, Failure> {
    let mut file = File::open()?;
    let server = server(registry);
    if let Some(helper) = file.helper(server) {
        let login = json!({ "ServerURL": server, "Username": user, "Secret": password });
        ask(&helper, "store", &login.to_string())?;
        // An older login in the file would count less, and be seen by more people.
        if file.remove(server) {
            file.write()?;
        }
        return Ok(format!("by docker-credential-{helper}"));
    }
    let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let auths = file.content.entry("auths").or_insert_with(|| json!({}));
    match auths.as_object_mut() {
        Some(auths) => auths.insert(server.to_owned(), json!({ "auth": auth })),
        None => return Err(file.damaged("`auths` is no object")),
    };
    file.write()?;
    Ok(format!("unencrypted in {}", file.path.display()))
}

/// Forgets a login; `false` when there was none.
pub(crate) fn erase(registry: &str) -> Result<bool, Failure> {
    let mut file = File::open()?;
    let server = server(registry);
    let mut removed = file.remove(server);
    if removed {
        file.write()?;
    }
    if let Some(helper) = file.helper(server) {
        // Helpers fail for what they do not have.
        removed |= ask(&helper, "get", server).is_ok();
        if removed {
            ask(&helper, "erase", server)?;
        }
    }
    Ok(removed)
}

/// Docker's own registry has an address of its own there.
fn server(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

/// The file as it is, with keys of other programs.
struct File {
    path: PathBuf,
    content: Map<String, Value>,
}

impl File {
    fn open() -> Result<File, Failure> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
        let Some(directory) = directory else {
            return Err(Failure::machine(
                "neither DOCKER_CONFIG nor HOME is set: there is no place for logins",
            ));
        };
        let path = directory.join("config.json");
        // A link stays one.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(error) => return Err(Failure::io("read", &path, &error)),
        };
        let mut file = File { path, content: Map::new() };
        file.content = serde_json::from_slice(&bytes).map_err(|error| file.damaged(&error.to_string()))?;
        Ok(file)
    }

    fn damaged(&self, reason: &str) -> Failure {
        Failure::build(format!("{} is not a Docker configuration: {reason}", self.path.display()))
    }

    fn helper(&self, server: &str) -> Option<String> {
        let own = self.content.get("credHelpers").and_then(|helpers| helpers.get(server));
        let name = own.or_else(|| self.content.get("credsStore"))?.as_str()?;
        Some(name.to_owned()).filter(|name| !name.is_empty())
    }

    fn remove(&mut self, server: &str) -> bool {
        let auths = self.content.get_mut("auths").and_then(Value::as_object_mut);
        auths.is_some_and(|auths| auths.shift_remove(server).is_some())
    }

    /// Replaces the file in one step by one that only its owner may read.
    fn write(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io("write", &self.path, &error);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(failed)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".config.").permissions(fs::Permissions::from_mode(0o600));
        let mut temporary = builder.tempfile_in(directory).map_err(failed)?;
        // Docker indents with tabs.
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        serde::Serialize::serialize(&self.content, &mut serializer)
            .map_err(|error| failed(io::Error::other(error)))?;
        temporary.write_all(&bytes).map_err(failed)?;
        temporary.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Runs a helper (docker-credential-helpers, "Development"): the verb is its argument, the rest comes on standard input.
fn ask(helper: &str, verb: &str, input: &str) -> Result<String, Failure> {
    let program = format!("docker-credential-{helper}");
    let failed = |reason: String| Failure::build(format!("{program} {verb}: {reason}"));
    if helper.contains('/') {
        return Err(failed("a helper is a name, not a path".to_owned()));
    }
    let mut command = Command::new(&program);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not want to know has ended, and says so with its exit code.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    // Helpers explain themselves on standard output.
    let said = [text(&output.stderr), text(&output.stdout)].into_iter().find(|text| !text.is_empty());
    Err(failed(said.unwrap_or_else(|| output.status.to_string())))
}
