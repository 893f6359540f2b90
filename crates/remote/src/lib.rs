//! Files over HTTP(S) ([`Client::download`]) and git repositories from elsewhere ([`Client::resolve`], [`Client::checkout`]).
//!
//! A download is asked for again with what the server said of the last one, goes on where it was when the connection breaks
//! and the server proves that the file is the same, and is bounded. Its bytes are kept as they are sent.
//!
//! Repositories are fetched by the `git` program, as shallow as the server allows, into bare repositories that builds on one
//! machine share. No configuration, hook, template or credential helper of the machine has a part in it.
//!
//! Secrets are values that the caller looks up by name; they go to the server they are for and to no other.
//!
//! Not here: where files are cached and for how long ([`Known`] and the directory for repositories are the caller's), parsing of
//! references as users write them, keys.

mod client;
mod error;
mod git;
mod http;
mod meanings;
mod sink;
mod validators;

pub use client::{Client, Config, Secrets};
pub use error::Error;
pub use git::{
    Access, Change, CheckedOut, Checkout, Commit, GitConfig, Resolved, Version, bytes_of, commits,
    without_credentials,
};
pub use http::{Download, Downloaded, Fetched, Known};
pub use validators::Validators;
