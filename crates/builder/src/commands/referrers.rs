use hash::Digest;
use image::Reference;
use registry::Referrer;
use serde_json::json;

use crate::failure::Failure;
use crate::{format, interrupt, remotes, terminal};

/// List what a registry has that refers to an image: signatures, bills of materials, provenance.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image, as in `registry/name[:tag|@digest]`
    #[arg(value_name = "NAME")]
    name: String,

    /// Only those of this type, such as application/vnd.dev.cosign.artifact.sig.v1+json
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,

    /// As table or json (an object a line)
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "table"], hide_possible_values = true)]
    format: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let name: Reference = args.name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let artifact = remotes::client(&[])?.artifact(&name)?;
    let runtime = crate::runtime()?;
    let found = runtime.block_on(async {
        let asked = async {
            let subject = match name.digest {
                Some(digest) => digest,
                None => Digest::of(&artifact.top().await?.1),
            };
            artifact.referrers(&subject).await
        };
        tokio::select! {
            found = asked => found.map_err(Failure::from),
            () = interrupt::received() => Err(Failure::interrupted()),
        }
    });
    runtime.shutdown_background();
    let mut found = found?;
    found.retain(|referrer| args.artifact_type.is_none() || referrer.artifact_type == args.artifact_type);
    terminal::print(&match args.format.as_deref() {
        Some("json") => found.iter().map(|referrer| format!("{}\n", as_json(referrer))).collect(),
        _ => as_table(&found),
    })?;
    Ok(0)
}

fn as_json(Referrer { artifact_type, descriptor }: &Referrer) -> serde_json::Value {
    json!({
        "artifactType": artifact_type, "mediaType": descriptor.media_type, "digest": descriptor.digest,
        "size": descriptor.size, "annotations": descriptor.annotations,
    })
}

fn as_table(found: &[Referrer]) -> String {
    let mut rows = vec!["TYPE\tDIGEST\tSIZE".split('\t').map(str::to_owned).collect::<Vec<_>>()];
    rows.extend(found.iter().map(|Referrer { artifact_type, descriptor }| {
        let kind = artifact_type.as_ref().unwrap_or(&descriptor.media_type);
        vec![crate::progress::harmless(kind), descriptor.digest.to_string(), format::bytes(descriptor.size)]
    }));
    format::table(&rows)
}
