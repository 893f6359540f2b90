//! Finds, pulls and pushes images over the OCI distribution protocol (distribution spec 1.1; Docker's token specification for
//! logins): [`Client`] implements [`image::ImageResolver`], what it resolves brings its own [`image::BlobSource`].
//!
//! From top to bottom: `client` (names to repositories), `manifest` and `blob` (what a repository holds), `host` (one
//! registry: its address, its login), `auth` (tokens), `http` (requests; trust, proxies and redirects are [`transport`]'s). Every request of a
//! build goes through `host`, which logs in; every repetition through `backoff`.
//!
//! Not here: where bytes are kept ([`image::ContentStore`]), what a layer holds, when something is fetched.

mod artifact;
mod auth;
mod backoff;
mod blob;
mod challenge;
mod client;
mod config;
mod credentials;
mod failure;
mod host;
mod http;
mod manifest;
mod push;
mod referrers;
mod repository;
mod upload;

pub use artifact::Artifact;
pub use client::Client;
pub use config::{Config, Credentials, Password};
pub use push::{Push, PushBlob, PushError, PushManifest};
pub use referrers::Referrer;
