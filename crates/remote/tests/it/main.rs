//! Downloads from servers that misbehave on purpose, and repositories behind every protocol that git speaks. Everything
//! listens on loopback.

mod git;
mod http;
mod server;
mod ssh;
mod support;
mod support_git;
