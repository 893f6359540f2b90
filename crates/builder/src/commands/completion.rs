use clap_complete::Shell;

use crate::failure::Failure;
use crate::{cli, terminal};

/// Print the completion script of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
To have it in every shell:
  bash   builder completion bash > /etc/bash_completion.d/builder
  zsh    builder completion zsh > \"${fpath[1]}/_builder\"
  fish   builder completion fish > ~/.config/fish/completions/builder.fish")]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_enum, hide_possible_values = true, value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let mut command = cli::definition();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "builder", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
