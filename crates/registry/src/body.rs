use crate::failure::Failure;

/// Reads an answer's body, at most `limit` bytes; a longer one is refused.
pub(crate) async fn read(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let url = response.url().clone();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::of_request(&url, &error))? {
        if bytes.len() + chunk.len() > limit {
            return Err(Failure::invalid(format!("the registry's answer is larger than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
