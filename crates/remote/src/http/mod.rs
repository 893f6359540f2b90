//! One file: what is asked for, what comes of it.

pub(crate) mod authorization;
mod transfer;

use std::path::Path;
use std::time::SystemTime;

use hash::Digest;
use transport::{Backoff, GaveUp, Url};

use crate::client::{Client, Secrets};
use crate::error::Error;
use crate::git::without_credentials;
use crate::validators::Validators;

use transfer::{Failure, Transfer};

/// A file to download.
pub struct Download<'a> {
    /// `http://…` or `https://…`. A user and password in it are sent as Basic authorization.
    pub url: &'a str,
    /// What the bytes must hash to.
    pub checksum: Option<Digest>,
    /// What is there from earlier downloads of the same URL: if it is still the same, nothing is transferred.
    pub known: &'a [Known],
    /// `HTTP_AUTH_TOKEN_<host>` is sent as `Authorization: Bearer …`, else `HTTP_AUTH_HEADER_<host>` as it is; only to that
    /// host, not to one that it redirects to.
    pub secrets: &'a Secrets<'a>,
    /// Is told ten times a second, and at the end, how many bytes have come, and of how many where the server says so. A
    /// transfer that starts anew counts anew.
    pub progress: &'a (dyn Fn(u64, Option<u64>) + Send + Sync),
}

/// A file that was downloaded earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Of its bytes.
    pub digest: Digest,
    /// What the server said of it then.
    pub validators: Validators,
}

/// What came of a [`Download`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Downloaded {
    /// The file is the one at this place in [`Download::known`]; nothing was written.
    NotModified(usize),
    /// The file was written.
    File(Fetched),
}

/// A file that was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// `Last-Modified`, for the file's time. The written file does not have it yet.
    pub modified: Option<SystemTime>,
    /// For the next download.
    pub validators: Validators,
}

impl Client {
    /// Downloads a file to `to`, which is created or emptied with mode 0600. After an error, and when the future is dropped,
    /// there is no such file.
    ///
    /// Failures that may pass are tried again as [`crate::Config::retry`] says. If a known file has the checksum that is
    /// asked for, no server is asked.
    pub async fn download(&self, download: &Download<'_>, to: &Path) -> Result<Downloaded, Error> {
        let mut url = Url::parse(download.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                Error::Invalid(format!("`{}` is not an HTTP address", without_credentials(download.url)))
            })?;
        url.set_fragment(None);
        let at_hand = |checksum| download.known.iter().position(|known| known.digest == checksum);
        if let Some(known) = download.checksum.and_then(at_hand) {
            return Ok(Downloaded::NotModified(known));
        }
        let authorization = authorization::of(&mut url, download.secrets)?;
        let mut transfer = Transfer::new(self, download, url, authorization, to);
        let mut backoff = Backoff::new(&self.config.retry);
        loop {
            let Failure { error, again } = match transfer.attempt().await {
                Ok(done) => {
                    let downloaded = transfer.finish(done).await?;
                    let digest = match &downloaded {
                        Downloaded::File(fetched) => Some(&fetched.digest),
                        Downloaded::NotModified(place) => {
                            download.known.get(*place).map(|known| &known.digest)
                        }
                    };
                    digest.into_iter().for_each(|digest| self.meanings.note_file(download.url, digest));
                    return Ok(downloaded);
                }
                Err(failure) => failure,
            };
            if transfer.has_progressed() {
                backoff.reset();
            }
            let waited = backoff.wait(again, &error.to_string()).await;
            waited.map_err(|gave_up| match (gave_up, error) {
                (GaveUp::Later(wait), Error::Fetch { url, message }) => {
                    Error::Fetch { url, message: format!("{message}; try again in {} s", wait.as_secs()) }
                }
                (_, error) => error,
            })?;
        }
    }
}
