//! What a COPY of many files costs when each is copied, and when all but one are linked.
//!
//! `cargo run --release -p cache --example objects -- [FILES] [BYTES]`

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Instant;

use cache::{ObjectKey, Store, StoreOptions};
use files::{Attributes, TreeWriter, WriterOptions};
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let count = numbers.next().transpose()?.unwrap_or(7_578);
    let bytes = numbers.next().transpose()?.unwrap_or(8_300);
    let dir = tempfile::tempdir()?;
    let context = dir.path().join("context");
    let paths: Vec<PathBuf> = (0..count).map(|n| PathBuf::from(format!("d{}/f{n}", n / 50))).collect();
    for path in &paths {
        if let Some(parent) = context.join(path).parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(context.join(path), vec![b'x'; bytes])?;
    }
    let store = Store::open(&dir.path().join("state"), StoreOptions::default())?;
    let base = store.begin(&[])?;
    let changes = base.changes()?;
    let base = base.commit(&changes)?.id();
    for round in ["nothing known", "one file changed", "one file changed"] {
        let begin = Instant::now();
        let active = store.begin(&[base])?;
        let options = WriterOptions {
            owners: active.owners().clone(),
            opaque: active.opaque_mark(),
            parents: Attributes::with_mode(0o755),
        };
        let writer = TreeWriter::new(active.dir(), options)?;
        for n in 0..count.div_ceil(50) {
            writer.directory(&PathBuf::from(format!("d{n}")), &Attributes::with_mode(0o755))?;
        }
        let objects = active.objects()?.ok_or("no objects")?;
        let linked = paths
            .par_iter()
            .enumerate()
            .map(|(index, path)| -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
                let mut content = [0; 32];
                content[..8].copy_from_slice(&index.to_be_bytes());
                if index == 0 {
                    content[8..16].copy_from_slice(&begin.elapsed().as_nanos().to_be_bytes()[8..]);
                }
                let attributes = Attributes { mtime: Some((1, 1)), ..Attributes::with_mode(0o644) };
                let key = ObjectKey::new(&content, bytes as u64, &attributes).ok_or("no time")?;
                if objects.link(&key, path)? {
                    return Ok(1);
                }
                let source = File::open(context.join(path))?;
                writer.file_from(path, &source, bytes as u64, &attributes, &|| false)?;
                objects.keep(&key, path)?;
                Ok(0)
            })
            .try_reduce(|| 0, |a, b| Ok(a + b));
        let linked = linked.map_err(|error| error.to_string())?;
        writer.finish()?;
        let written = begin.elapsed();
        active.commit(&changes)?;
        println!("{round}: {linked} of {count} linked, {written:?}, with commit {:?}", begin.elapsed());
    }
    Ok(())
}
