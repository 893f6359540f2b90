use super::login;
use crate::failure::Failure;
use crate::{docker_config, terminal};

/// Forget the login to a registry.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Registry, as in `host[:port]` [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let registry = login::registry_of(args.registry.as_deref())?;
    let text = match docker_config::erase(&registry)? {
        true => format!("The login to {registry} is removed.\n"),
        false => format!("There was no login to {registry}.\n"),
    };
    terminal::tell(&text);
    Ok(0)
}
