//! HTTP(S) for everything that fetches: whom this machine trusts, proxies, redirects, time-outs, and waiting between tries.
//! A [`Transport`] sends one [`Request`] and gives one [`Response`]; nothing is repeated here, [`Backoff`] says when to.
//!
//! Not here: the meaning of what is transferred, logins, files.

mod body;
mod client;
mod config;
mod error;
mod retry;
mod tls;

pub use body::Body;
pub use client::{Redirects, Request, Response, Transport};
pub use config::{Config, Proxies, authorities, is_loopback};
pub use error::Error;
pub use reqwest::{Method, StatusCode, header};
pub use retry::{Again, Backoff, GaveUp, Retry, http_date, may_pass, retry_after};
pub use url::{Position, Url};
