//! The client against Debian's `docker-registry`, filled by skopeo, and against servers that misbehave on purpose.
//! Everything listens on loopback.

mod auth;
mod dice;
mod faults;
mod mad;
mod push;
mod real;
mod referrers;
mod server;
mod support;
