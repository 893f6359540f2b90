use hash::Digest;
use image::{Descriptor, ResolveError};
use serde::Deserialize;
use transport::header::{HeaderMap, LINK};

use crate::artifact::Artifact;
use crate::backoff::Backoff;
use crate::failure::{Failure, Kind};
use crate::host::Question;
use crate::repository::Repository;

/// The largest list, in bytes: that of an index.
const MAX_LIST: usize = 4 << 20;
/// So many parts of a list are asked for.
const MAX_PAGES: usize = 100;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What refers to a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// What it is: the media type of a signature, a bill of materials, …
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Its manifest.
    #[serde(flatten)]
    pub descriptor: Descriptor,
}

/// An index, of which nothing else counts.
#[derive(Deserialize)]
struct List {
    manifests: Vec<Referrer>,
}

impl Artifact {
    /// What refers to a manifest of the repository as its subject: signatures, bills of materials and the like, in the registry's order
    /// (distribution spec 1.1, "Listing Referrers"). Where the registry does not know the question, the tag is read that clients keep
    /// instead ("Referrers Tag Schema"). Nothing is the answer of a registry that has nothing.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, ResolveError> {
        let repository = self.repository();
        let failed = |failure: Failure| failure.of_image(&repository.image);
        match pages(repository, subject).await {
            Err(Failure { kind: Kind::NotFound, .. }) => {}
            answer => return answer.map_err(failed),
        }
        let tag = subject.to_string().replace(':', "-");
        match repository.manifest(&tag, None).await {
            Err(Failure { kind: Kind::NotFound, .. }) => Ok(Vec::new()),
            Err(failure) => Err(failed(failure)),
            Ok(fetched) => listed(&fetched.bytes).map_err(failed),
        }
    }
}

/// All parts of the registry's own list.
async fn pages(repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>, Failure> {
    let mut path = format!("{}/referrers/{subject}", repository.name);
    let mut found = Vec::new();
    for _ in 0..MAX_PAGES {
        let (next, bytes) = page(repository, &path).await?;
        found.extend(listed(&bytes)?);
        match next {
            Some(query) => path = format!("{}/referrers/{subject}?{query}", repository.name),
            None => return Ok(found),
        }
    }
    Err(Failure::invalid(format!("its list of referrers has more than {MAX_PAGES} parts")))
}

async fn page(repository: &Repository, path: &str) -> Result<(Option<String>, Vec<u8>), Failure> {
    let mut backoff = Backoff::new(&repository.retry);
    loop {
        let question = Question {
            scope: &repository.scope,
            path: path.to_owned(),
            accept: Some(INDEX),
            offset: 0,
            verified: false,
        };
        let tried = async {
            let response = repository.hosts[0].ask(&question).await?;
            let next = next_query(response.headers());
            Ok((next, response.read(MAX_LIST).await?))
        };
        match tried.await {
            Ok(answer) => return Ok(answer),
            Err(failure) => backoff.wait(failure).await?,
        }
    }
}

fn listed(bytes: &[u8]) -> Result<Vec<Referrer>, Failure> {
    let list: Result<List, _> = serde_json::from_slice(bytes);
    list.map(|list| list.manifests)
        .map_err(|error| Failure::invalid(format!("its list of referrers is none: {error}")))
}

/// The query of `Link: <…?n=…>; rel="next"` (RFC 8288). Of the address nothing else counts: the rest of the list is where its beginning is.
fn next_query(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).into_iter().filter_map(|link| link.to_str().ok());
    let mut links = links.flat_map(|link| link.split(','));
    let next = links.find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let address = next.split_once('<')?.1.split_once('>')?.0;
    let query = address.split_once('?')?.1;
    let query = query.split('#').next().unwrap_or_default();
    (!query.is_empty()).then(|| query.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::header::HeaderValue;

    #[test]
    fn the_next_part() {
        let query =
            |text: &'static str| next_query(&HeaderMap::from_iter([(LINK, HeaderValue::from_static(text))]));
        assert_eq!(
            query("</v2/a/referrers/sha256:0?n=5&last=x>; rel=\"next\"").as_deref(),
            Some("n=5&last=x")
        );
        assert_eq!(query("<https://elsewhere/?n=5>; rel=\"next\"").as_deref(), Some("n=5"));
        assert_eq!(query("</v2/a?n=5>; rel=\"prev\""), None);
        assert_eq!(query("</v2/a>; rel=\"next\""), None);
        assert_eq!(query("nonsense; rel=\"next\""), None);
    }
}
