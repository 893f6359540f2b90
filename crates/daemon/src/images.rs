use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use transport::{Method, Redirects, Request, StatusCode, Transport, Url};

use crate::connection::connection;
use crate::{DaemonError, Endpoint};

/// What is read of an answer, in bytes.
const MAX_ANSWER: usize = 8 << 20;
/// How many of a daemon's images are asked for their layers: each is a request.
const MAX_ASKED: usize = 100;

/// Whether the daemon has the image of this id, the digest of its config (Docker Engine API, "Inspect an image"). Daemons that have other
/// ids have none of this one; whatever else goes wrong is not known here but when the image is sent.
pub async fn has_image(endpoint: &Endpoint, id: &str) -> Result<bool, DaemonError> {
    let asked = Asked::new(endpoint)?;
    Ok(asked.ask(Method::GET, &format!("images/{id}/json"), &[]).await?.0 == StatusCode::OK)
}

/// Gives an image that is there a name (Docker Engine API, "Tag an image"). `false` when the daemon does not do it.
pub async fn tag(endpoint: &Endpoint, id: &str, repository: &str, tag: &str) -> Result<bool, DaemonError> {
    let query = [("repo", repository), ("tag", tag)];
    let asked = Asked::new(endpoint)?;
    Ok(asked.ask(Method::POST, &format!("images/{id}/tag"), &query).await?.0 == StatusCode::CREATED)
}

/// How many of the lowest layers (`diff_ids`, lowest first) some image of the daemon has, one on top of the other: these need not be sent to
/// it. The images of `names` are looked at first, since it is mostly an earlier one of the same name. 0 where nothing may be left out,
/// and where that cannot be found out.
///
/// Docker with its own stores takes a layer by its chain id and opens the archive's file only where it has none (moby,
/// `image/tarexport/load.go`); Podman looks for each blob in its storage first. Docker on containerd's store takes an archive with
/// blobs missing without a word, and has an image that cannot run (`WithSkipMissing` in moby, `daemon/containerd/image_exporter.go`).
pub async fn layers_there(endpoint: &Endpoint, names: &[String], diff_ids: &[String]) -> usize {
    let Ok(asked) = Asked::new(endpoint) else { return 0 };
    match asked.get::<Info>("info").await {
        Some(info) if info.keeps_layers() => {}
        _ => return 0,
    }
    let mut most = 0;
    let mut seen = BTreeSet::new();
    let all = asked.get::<Vec<Listed>>("images/json").await.unwrap_or_default();
    let all = all.into_iter().map(|listed| listed.id).take(MAX_ASKED);
    for name in names.iter().cloned().chain(all) {
        if most == diff_ids.len() {
            break;
        }
        if seen.contains(&name) {
            continue;
        }
        let Some(image) = asked.get::<Inspected>(&format!("images/{name}/json")).await else { continue };
        let pairs = image.root_fs.layers.iter().zip(diff_ids);
        most = most.max(pairs.take_while(|(there, wanted)| there == wanted).count());
        seen.insert(image.id);
    }
    most
}

/// Whether a daemon knows an image by the digest of its manifest and not of its config: Docker on containerd's store does. `false` where that
/// cannot be found out.
pub async fn knows_manifests(endpoint: &Endpoint) -> bool {
    let Ok(asked) = Asked::new(endpoint) else { return false };
    asked.get::<Info>("info").await.is_some_and(|info| info.is_on_containerd())
}

/// What a daemon says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    driver: String,
    #[serde(default)]
    driver_status: Option<Vec<(String, String)>>,
}

impl Info {
    /// Whether its layers are kept by what they unpack to, and not as the blobs that come.
    fn keeps_layers(&self) -> bool {
        let other = |(key, _): &(String, String)| key == "driver-type";
        !self.driver.is_empty() && !self.driver_status.iter().flatten().any(other)
    }

    /// Whether its images are in containerd's store, as buildx finds that out (`util/dockerutil/client.go`).
    fn is_on_containerd(&self) -> bool {
        let is_so =
            |(key, value): &(String, String)| key == "driver-type" && value == "io.containerd.snapshotter.v1";
        self.driver_status.iter().flatten().any(is_so)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Vec<String>,
}

/// A daemon that is asked one thing after another.
struct Asked<'a> {
    endpoint: &'a Endpoint,
    transport: Transport,
    base: Url,
}

impl Asked<'_> {
    fn new(endpoint: &Endpoint) -> Result<Asked<'_>, DaemonError> {
        let (transport, base) = connection(endpoint)?;
        Ok(Asked { endpoint, transport, base })
    }

    /// What it says, where it says what is expected.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let (status, bytes) = self.ask(Method::GET, path, &[]).await.ok()?;
        (status == StatusCode::OK).then(|| serde_json::from_slice(&bytes).ok())?
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(StatusCode, Vec<u8>), DaemonError> {
        let unreachable =
            |reason: String| DaemonError::Unreachable { endpoint: self.endpoint.to_string(), reason };
        let mut url = self.base.join(path).map_err(|error| unreachable(error.to_string()))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = Request { method, redirects: Redirects::Never, ..Request::get(url) };
        let answer = self.transport.send(request).await.map_err(|error| unreachable(error.to_string()))?;
        let status = answer.status();
        let bytes = answer.read(MAX_ANSWER).await.map_err(|error| unreachable(error.to_string()))?;
        Ok((status, bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(text: &str) -> bool {
        serde_json::from_str::<Info>(text).is_ok_and(|info| info.keeps_layers())
    }

    #[test]
    fn what_may_be_left_out() {
        assert!(keeps(r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]]}"#));
        assert!(keeps(r#"{"Driver":"vfs","DriverStatus":null}"#));
        assert!(!keeps(
            r#"{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#
        ));
        assert!(!keeps(r#"{"Driver":""}"#) && !keeps("{}"));
    }

    #[test]
    fn what_images_are_known_by() {
        let by_manifest =
            |text: &str| serde_json::from_str::<Info>(text).is_ok_and(|info| info.is_on_containerd());
        assert!(by_manifest(
            r#"{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#
        ));
        assert!(!by_manifest(r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]]}"#));
        assert!(!by_manifest("{}"));
    }
}
