//! How it costs more to write larger archives, and to pull larger bases.

use std::fs;

use crate::bases::Registry;
use crate::bench::contexts::Content;
use crate::bench::growth::{Grown, build, once};
use crate::bench::tools::{Build, Tool};
use crate::bench::{Lab, scenarios};
use crate::shell::Result;

/// One file, exported. Context, copy and archive of ten times the size would be 33 GB.
pub(super) fn exports(tool: &mut Tool, lab: &Lab) -> Result<Vec<Grown>> {
    let archive = lab.dir.join("archive.tar");
    let kinds = [
        ("S13", "S12 exported, gzip, MB", None),
        ("S13z", "S12 exported, zstd, MB", Some("zstd")),
        ("S13u", "S12 exported, uncompressed, MB", Some("uncompressed")),
    ];
    let mut all = Vec::new();
    for (id, what, compression) in kinds {
        let mut grown = Grown { id, what, points: Vec::new() };
        for (tenths, size) in [(1, "110"), (3, "330"), (10, "1,100")] {
            let content = if tenths == 10 { Content::Large } else { Content::LargeTenths(tenths) };
            let context = content.make(lab, &content.name(), scenarios::COPY_LARGE)?;
            grown.measure(size, || {
                // What was packed before is remembered.
                tool.reset(true)?;
                tool.discard()?;
                once(tool, &context, false)?;
                let _ = fs::remove_file(&archive);
                let archive = Some((archive.as_path(), compression));
                tool.run(&Build { archive, ..build(&context, false) }, true)
            })?;
        }
        all.push(grown);
    }
    let _ = fs::remove_file(archive);
    Ok(all)
}

/// A base of so many files from a registry on this machine, and one RUN.
pub(super) fn pulls(tool: &mut Tool, lab: &Lab, sizes: &[(Content, &str)]) -> Result<Grown> {
    let mut grown = Grown { id: "S14", what: "pull a base, one RUN, files", points: Vec::new() };
    let registry = Registry::start(&lab.dir.join("registry"), 5999)?;
    let archive = lab.dir.join("archive.tar");
    for (content, files) in sizes {
        let name = content.name();
        let base = content.make(lab, &name, scenarios::COPY_ALL)?;
        tool.reset(true)?;
        tool.run(&Build { archive: Some((archive.as_path(), None)), ..build(&base, false) }, false)?;
        registry.push_from(&format!("oci-archive:{}", archive.display()), &name)?;
        fs::remove_file(&archive)?;
        let dockerfile = format!("FROM 127.0.0.1:5999/{name}\nRUN true\n");
        let context = Content::Small.make(lab, &format!("pull-{name}"), &dockerfile)?;
        grown.measure(files, || {
            tool.reset(false)?;
            once(tool, &context, false)
        })?;
        tool.discard()?;
    }
    Ok(grown)
}
