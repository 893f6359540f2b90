use std::io::{self, BufWriter, Read, Write as _};
use std::sync::Arc;

use hash::{Digest, DigestReader};
use image::{BlobWriter, Compression, Compressor, ContentStore, Descriptor, Layer, PartlyRead};

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
    let mut blob = PartlyRead::new(open_blob(store, &digest, cancel)?);
    let (writer, diff_id) = match compress_again(&mut blob, store, compression, level) {
        Ok(converted) => converted,
        Err(error) => return Err(failed(blob.finish().err().unwrap_or(error))),
    };
    if diff_id != layer.diff_id {
        let reason = format!("it unpacks to {diff_id}, the config says {}", layer.diff_id);
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    let (digest, size) = writer.commit(None).map_err(failed)?;
    Ok(Layer { descriptor: Descriptor::new(compression.layer_media_type(), digest, size), diff_id })
}

/// The blob in another compression, and what it unpacks to.
fn compress_again(
    blob: impl Read + Send,
    store: &dyn ContentStore,
    compression: Compression,
    level: Option<u32>,
) -> io::Result<(Box<dyn BlobWriter>, Digest)> {
    let mut tar = DigestReader::new(image::decompress(blob)?);
    let compressor = Compressor::new(store.create()?, compression, level)?;
    let mut out = BufWriter::with_capacity(256 << 10, compressor);
    io::copy(&mut tar, &mut out)?;
    out.flush()?;
    let writer = out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    Ok((writer, tar.finish().1))
}
