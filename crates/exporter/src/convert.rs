use std::io::{self, BufWriter, Write as _};
use std::sync::Arc;

use hash::DigestReader;
use image::{Compression, Compressor, ContentStore, Descriptor, Layer};

use crate::ExportError;
use crate::images::open_blob;
use crate::task::{Cancel, blocking};

/// Compresses a layer in another way (`force-compression=true`); one that is compressed so already stays as it is. What it unpacks to stays
/// the same, byte for byte, and is verified on the way.
///
/// # Errors
/// A layer that is not in the store, is damaged, or has no such level. Dropping the future ends the work at the next MiB.
pub async fn recompressed(
    layer: Layer,
    store: Arc<dyn ContentStore>,
    compression: Compression,
    level: Option<u32>,
) -> Result<Layer, ExportError> {
    if Compression::of_layer(&layer.descriptor.media_type) == Some(compression) {
        return Ok(layer);
    }
    blocking(move |cancel| convert(&layer, &*store, compression, level, cancel)).await
}

fn convert(
    layer: &Layer,
    store: &dyn ContentStore,
    compression: Compression,
    level: Option<u32>,
    cancel: &Cancel,
) -> Result<Layer, ExportError> {
    let digest = layer.descriptor.digest;
    let failed = |source| ExportError::Blob { digest, source };
    let mut tar = DigestReader::new(image::decompress(open_blob(store, &digest, cancel)?).map_err(failed)?);
    let writer = store.create().map_err(failed)?;
    let compressor = Compressor::new(writer, compression, level).map_err(failed)?;
    let mut out = BufWriter::with_capacity(256 << 10, compressor);
    io::copy(&mut tar, &mut out).map_err(failed)?;
    out.flush().map_err(failed)?;
    let writer = out.into_inner().map_err(|error| failed(error.into_error()))?.finish().map_err(failed)?;
    let (_, diff_id, _) = tar.finish();
    if diff_id != layer.diff_id {
        let reason = format!("it unpacks to {diff_id}, the config says {}", layer.diff_id);
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    let (digest, size) = writer.commit(None).map_err(failed)?;
    Ok(Layer { descriptor: Descriptor::new(compression.layer_media_type(), digest, size), diff_id })
}
