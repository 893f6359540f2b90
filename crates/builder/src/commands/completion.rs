use clap_complete::env::Shells;

use crate::completion::VARIABLE;
use crate::failure::Failure;
use crate::terminal;

/// Print the completion script of a shell.
///
/// It asks this program at each press of the key: besides commands and options it offers images, builds, cache mounts, stages of the
/// Dockerfile, files and directories.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
To have it in every shell:
  bash   builder completion bash > /etc/bash_completion.d/builder
  zsh    builder completion zsh > \"${fpath[1]}/_builder\"
  fish   builder completion fish > ~/.config/fish/completions/builder.fish")]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_parser = ["bash", "zsh", "fish", "elvish", "powershell"], hide_possible_values = true, value_name = "SHELL")]
    shell: String,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(&args.shell) {
        let written = shell.write_registration(VARIABLE, "builder", "builder", "builder", &mut script);
        written.map_err(|error| Failure::standard_output(&error))?;
    }
    terminal::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
