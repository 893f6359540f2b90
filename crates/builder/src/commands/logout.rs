use serde_json::json;

use super::login;
use super::told::Told;
use crate::failure::Failure;
use crate::{docker_config, terminal};

/// Forget the login to a registry.
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields of --format: .Registry .Removed")]
pub(crate) struct Args {
    /// Registry, as in `host[:port]` [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,

    #[command(flatten)]
    told: Told,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let registry = login::registry_of(args.registry.as_deref())?;
    let form = args.told.form(&["Registry", "Removed"])?;
    let removed = docker_config::erase(&registry)?;
    let said = form.tell(&json!({ "Registry": registry, "Removed": removed }), || {
        terminal::tell(&match removed {
            true => format!("The login to {registry} is removed.\n"),
            false => format!("There was no login to {registry}.\n"),
        });
        String::new()
    });
    terminal::print(&said?)?;
    Ok(0)
}
