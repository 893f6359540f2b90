//! `graph`.

use clap::ValueEnum;

use super::build;
use crate::failure::Failure;

/// Draw what a build would do: its steps, what they use, and which of them the cache has
///
/// Takes the arguments of `build`. Nothing is built; what is read are the Dockerfile, the configs of its images and the files of the
/// context.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// text, dot (Graphviz), mermaid, json or svg
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FORMAT", default_value = "text")]
    format: Format,

    #[command(flatten)]
    build: build::Args,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For the terminal
    Text,
    /// For Graphviz
    Dot,
    /// For pages that draw Mermaid
    Mermaid,
    /// For programs
    Json,
    /// A picture
    Svg,
}

/// Columns where no terminal says how many there are.
const WIDTH: usize = 100;

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let format = match args.format {
        Format::Text => {
            let size = terminal_size::terminal_size_of(std::io::stdout());
            insight::Format::Text { width: size.map_or(WIDTH, |(width, _)| usize::from(width.0)) }
        }
        Format::Dot => insight::Format::Dot,
        Format::Mermaid => insight::Format::Mermaid,
        Format::Json => insight::Format::Json,
        Format::Svg => insight::Format::Svg,
    };
    build::graph(args.build, format)
}
