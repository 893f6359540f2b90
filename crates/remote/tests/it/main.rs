//! Downloads from servers that misbehave on purpose, and repositories behind every protocol that git speaks. Everything
//! listens on loopback.

#[path = "../../../registry/tests/it/dice.rs"]
mod dice;
mod git;
mod http;
mod mad_files;
mod mad_repositories;
mod server;
mod ssh;
mod support;
mod support_git;
