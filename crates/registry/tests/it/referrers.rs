//! What refers to an image: asked of registries that know the question, and of those that do not.

use std::sync::Arc;

use hash::Digest;
use image::{ContentStore, Descriptor, MemoryStore, ResolveError};
use registry::{Client, Push, PushBlob, PushManifest, Referrer};
use serde_json::{Value, json};

use crate::server::{Reply, Request, Server};
use crate::support::{DockerRegistry, INDEX, MANIFEST, Told, config, make, noise};

const SIGNATURE: &str = "application/vnd.example.signature";

fn entry(what: &[u8]) -> Value {
    json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(what), "size": what.len(),
        "artifactType": SIGNATURE, "annotations": { "by": "ada" },
    })
}

fn index(entries: &[Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string().into_bytes()
}

async fn ask(address: impl std::fmt::Display, subject: &Digest) -> Result<Vec<Referrer>, ResolveError> {
    let name = format!("{address}/app:v1").parse().unwrap();
    Client::new(config()).artifact(&name).unwrap().referrers(subject).await
}

fn digests(found: &[Referrer]) -> Vec<Digest> {
    found.iter().map(|referrer| referrer.descriptor.digest).collect()
}

#[tokio::test]
async fn a_list_comes_in_parts() {
    let server =
        Server::start(|request: &Request, number| match (number, request.target.contains("last=1")) {
            (0, _) => Reply::new(503, "busy"),
            (_, false) => Reply::new(200, index(&[entry(b"1")]))
                .with("Content-Type", INDEX)
                // Another server has no part in it.
                .with("Link", "<http://192.0.2.1/v2/app/referrers/x?last=1>; rel=\"next\""),
            (_, true) => Reply::new(200, index(&[entry(b"2")])).with("Content-Type", INDEX),
        });
    let found = ask(server.address, &Digest::of(b"subject")).await.unwrap();
    assert_eq!(digests(&found), [Digest::of(b"1"), Digest::of(b"2")]);
    assert_eq!(found[0].artifact_type.as_deref(), Some(SIGNATURE));
    assert_eq!(found[0].descriptor.annotations["by"], "ada");
}

#[tokio::test]
async fn a_list_without_end_or_sense_is_refused() {
    let endless = Server::start(|_: &Request, _| {
        Reply::new(200, index(&[])).with("Link", "</v2/app/referrers/x?last=1>; rel=\"next\"")
    });
    let error = ask(endless.address, &Digest::of(b"subject")).await.unwrap_err().to_string();
    assert!(error.contains("more than 100 parts"), "{error}");
    for answer in ["", "[]", "{\"manifests\":[{\"digest\":\"sha256:x\"}]}", "null"] {
        let server = Server::start(move |_: &Request, _| Reply::new(200, answer));
        let error = ask(server.address, &Digest::of(b"subject")).await.unwrap_err().to_string();
        assert!(error.contains("list of referrers"), "{answer}: {error}");
    }
}

/// Debian's registry knows no referrers: what other clients keep under a tag is found.
#[tokio::test]
async fn a_registry_of_before_keeps_them_under_a_tag() {
    let registry = DockerRegistry::start(Value::Null, Value::Null);
    let (subject, signature) = (make(noise(10), "amd64"), make(noise(20), "amd64"));
    let subject = Digest::of(&subject.manifest);
    assert_eq!(ask(&registry.name, &subject).await.unwrap(), []);
    let list = index(&[entry(&signature.manifest)]);
    let store = MemoryStore::default();
    let blobs = [&signature.layer, &signature.config].map(|bytes| {
        (&store as &dyn ContentStore).put(bytes).unwrap();
        let descriptor = Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64);
        PushBlob { descriptor, mount_from: None, source: None }
    });
    let manifest = |media_type: &str, bytes: &[u8]| PushManifest {
        media_type: media_type.to_owned(),
        bytes: bytes.to_vec().into(),
    };
    let push = Push {
        to: format!("{}/app:{}", registry.name, subject.to_string().replace(':', "-")).parse().unwrap(),
        blobs: blobs.to_vec(),
        manifests: vec![manifest(MANIFEST, &signature.manifest), manifest(INDEX, &list)],
    };
    Client::new(config())
        .push(&push, &(Arc::new(store) as Arc<dyn ContentStore>), &Told::default())
        .await
        .unwrap();
    let found = ask(&registry.name, &subject).await.unwrap();
    assert_eq!(digests(&found), [Digest::of(&signature.manifest)]);
    assert_eq!(found[0].artifact_type.as_deref(), Some(SIGNATURE));
}
