use std::io::{BufRead as _, IsTerminal as _, Read as _};

use registry::{Client, Config, Credentials, Password};
use serde_json::json;

use super::told::Told;
use crate::failure::Failure;
use crate::{docker_config, remotes, terminal};

/// Log in to a registry.
///
/// The registry is asked whether it takes the login, which is then kept where Docker keeps it: with the credential helper that
/// $DOCKER_CONFIG/config.json names, else in that file, which only its owner may read.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  builder login registry.example.com
  echo \"$TOKEN\" | builder login -u ci --password-stdin registry.example.com

Fields of --format: .Registry .User .Kept")]
pub(crate) struct Args {
    /// Registry, as in `host[:port]` [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,

    /// User name [default: asked for]
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,

    /// Password; others on this machine can see it while the command runs, --password-stdin avoids that
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,

    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,

    #[command(flatten)]
    told: Told,
}

/// A password has at most so many bytes; tokens of clouds have some thousands.
const MAX_PASSWORD: u64 = 1 << 20;

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let registry = registry_of(args.registry.as_deref())?;
    let form = args.told.form(&["Registry", "User", "Kept"])?;
    if args.password_stdin && args.username.is_none() {
        return Err(Failure::usage("--password-stdin needs --username"));
    }
    let user = match args.username {
        Some(user) => user,
        None => asked_for_user()?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => from_stdin()?,
        None => asked_for_password(&registry)?,
    };
    if user.is_empty() || password.is_empty() {
        return Err(Failure::usage("neither the user name nor the password can be empty"));
    }
    if user.contains(':') {
        return Err(Failure::usage("a user name holds no colon"));
    }
    let given = Credentials::Given { user: user.clone(), password: Password(password.clone()) };
    let config = Config { credentials: given, ..remotes::config()? };
    let runtime = crate::runtime()?;
    let client = Client::new(config);
    let lets_in = runtime.block_on(async {
        tokio::select! {
            answer = client.lets_in(&registry) => answer.map_err(Failure::from),
            () = crate::interrupt::received() => Err(Failure::interrupted()),
        }
    });
    runtime.shutdown_background();
    if !lets_in? {
        return Err(Failure::build(format!(
            "registry {registry} does not accept the user name or the password"
        )));
    }
    let kept = docker_config::store(&registry, &user, &password)?;
    let value = json!({ "Registry": registry, "User": user, "Kept": kept });
    // Words are for people, so not on standard output.
    let said = form.tell(&value, || {
        terminal::tell(&format!("Login succeeded; kept {kept}.\n"));
        String::new()
    });
    terminal::print(&said?)?;
    Ok(0)
}

/// The registry as names of images have it: people paste addresses.
pub(super) fn registry_of(text: Option<&str>) -> Result<String, Failure> {
    let text = text.unwrap_or("docker.io");
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = host.split('/').next().unwrap_or_default();
    match host {
        "" => Err(Failure::usage(format!("`{text}` is not the name of a registry"))),
        "index.docker.io" | "registry-1.docker.io" | "hub.docker.com" => Ok("docker.io".to_owned()),
        host => Ok(host.to_owned()),
    }
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .map_err(|error| Failure::build(format!("read the password: {error}")))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn asked_for_user() -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask for a user name: give --username"));
    }
    terminal::tell("Username: ");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::build(format!("read the user name: {error}")))?;
    Ok(line.trim().to_owned())
}

fn asked_for_password(registry: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask for a password: give --password-stdin"));
    }
    terminal::tell(&format!("Password for {registry}: "));
    let password = terminal::read_hidden();
    terminal::tell("\n");
    match password {
        Ok(Some(password)) => Ok(password),
        Ok(None) => Err(Failure::interrupted()),
        Err(error) => Err(Failure::build(format!("read the password: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_as_people_type_them() {
        for (text, registry) in [
            ("r.io:5000", "r.io:5000"),
            ("https://r.io/v2/", "r.io"),
            ("https://index.docker.io/v1/", "docker.io"),
        ] {
            assert_eq!(registry_of(Some(text)).unwrap(), registry);
        }
        assert_eq!(registry_of(None).unwrap(), "docker.io");
        assert!(registry_of(Some("https://")).is_err());
    }
}
