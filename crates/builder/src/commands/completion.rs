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

/// Bash takes words apart at `:` and `=` (`COMP_WORDBREAKS`), which stand in the names of images and in flags. So words are joined that nothing
/// stands between, and of what is offered for them the part that bash does not replace is left out.
const BASH: &str = r#"
_builder_complete() {
    local breaks=${COMP_WORDBREAKS//[^:=]/} line=${COMP_LINE:0:COMP_POINT} words=() word i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        local joined=false
        if ((i > 0)) && [[ $line != [[:space:]]* && ( ${COMP_WORDS[i]} == [:=]* || ${COMP_WORDS[i - 1]} == [:=]* ) ]]; then
            joined=true
        fi
        line=${line#"${line%%[![:space:]]*}"}
        word=${COMP_WORDS[i]}
        if ((i == COMP_CWORD)); then
            word=$line
        fi
        line=${line#"$word"}
        if $joined; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
    done
    local current=${words[${#words[@]} - 1]} index=$((${#words[@]} - 1))
    local COMP_WORDS=("${words[@]}" "${COMP_WORDS[@]:COMP_CWORD + 1}") COMP_CWORD=$index
    _clap_complete_builder "$1" "$current" "$3"
    if [[ $breaks && $current == *[$breaks]* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*[$breaks]}"}"}")
    fi
}
"#;

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(&args.shell) {
        let written = shell.write_registration(VARIABLE, "builder", "builder", "builder", &mut script);
        written.map_err(|error| Failure::standard_output(&error))?;
    }
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == "bash" {
        script = format!("{BASH}{}", script.replace("-F _clap_complete_builder", "-F _builder_complete"));
    }
    terminal::print(&script)?;
    Ok(0)
}
