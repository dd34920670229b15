//! The test bed: real PostgreSQL servers, file systems, an S3 server, the stock Barman and our own command line, each
//! as a value that cleans up after itself.
//!
//! It is used by the integration tests in `tests/tests`, by the demo and by the benchmarks. It is not part of the engine,
//! knows nothing of it but its command line, and holds no assertions about it.
//!
//! * What a test needs and does not find is a [`skip::Missing`]; [`need!`] turns it into a skip with its reason, or into
//!   a failure where `CI=true`.
//! * Everything lies in a [`scratch::Scratch`] directory. Dropping it, also in a panic, ends every process that works
//!   in it, unmounts what is mounted in it, and removes it. What a killed test left behind goes when the next one starts.
//! * Servers run as user `postgres` when the tests run as root, else as the present user.
//! * A helper that fails panics with the command and its output: a test has nothing better to do.
#![allow(clippy::print_stderr, reason = "skips and failures are told to the person who runs the tests")]

pub mod azurite;
pub mod barman;
pub mod checks;
pub mod cli;
pub mod cloud;
pub mod command;
pub mod contents;
pub mod damage;
pub mod footprint;
pub mod fs;
pub mod load;
pub mod pg;
pub mod pooler;
pub mod proxy;
pub mod rehearsal;
pub mod s3;
pub mod scratch;
pub mod site;
pub mod skip;
pub mod user;
pub mod wait;

use std::path::{Path, PathBuf};

/// The checkout that these tests belong to.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the manifest lies in a folder of the checkout")
}

/// A file of `.tools`, where `tools/setup.sh test` puts what the machine has not, if it is there. Links are resolved,
/// because other users may be unable to enter the checkout.
pub fn tool(path: &str) -> Option<PathBuf> {
    // Only the folder: the programs of a Python environment are links that lose it when they are resolved.
    let found = checkout().join(".tools").canonicalize().ok()?.join(path);
    found.exists().then_some(found)
}
