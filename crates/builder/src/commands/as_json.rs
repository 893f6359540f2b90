/// `--format=json`, and `--json` for short: of commands that have two forms, for people and for programs.
#[derive(Debug, clap::Args)]
pub(crate) struct AsJson {
    /// As JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    format: Option<String>,

    /// The same as --format=json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl AsJson {
    pub(crate) fn is_wanted(&self) -> bool {
        self.json || self.format.is_some()
    }
}
