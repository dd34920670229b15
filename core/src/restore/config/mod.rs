//! The configuration of a restored server: what leads out of the new data directory no longer does.
//!
//! A server reads `postgresql.conf` where it is started, and all that it names: with `data_directory` in it, starting the
//! copy starts the *original*. So before a restored directory is ready, every line that leads out of it is looked at:
//!
//! * a path inside the original data directory becomes the same path inside the new one;
//! * a path to a file or directory that the server would use beside the original (`hba_file`, `log_directory`,
//!   `external_pid_file`, …) is commented out, so that PostgreSQL's default inside the directory holds. Not overridden in
//!   `postgresql.auto.conf`: `ALTER SYSTEM RESET ALL` would bring it back;
//! * an `include` of a file outside is replaced by what that file said when the backup was taken;
//! * a configuration that lay outside altogether (Debian's `/etc/postgresql`) is written into the directory.
//!
//! A server that takes the place of the original, at its very path, keeps what leads elsewhere: that is its own.
//!
//! Not here: the settings that a restore adds ([`settings`](super::settings)). The invariants: bytes that are not understood
//! stay as they are; every line that was changed is still there, as a comment; and what was done is told.
//!
//! [`lines`] reads a line (pure), [`outside`] knows which parameters matter (pure), [`walk`] goes through the files, [`tree`]
//! reads them.

pub(super) mod lines;
mod outside;
mod tree;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;

pub use tree::Tree;
pub use walk::{ConfigSource, Found, Rewritten, rewrite};

/// The names that PostgreSQL gives to the files in a data directory.
pub(super) const MAIN: &str = "postgresql.conf";
/// The file that `ALTER SYSTEM` writes.
pub(super) const AUTO: &str = "postgresql.auto.conf";

/// What a restore knows of the configuration before it sees the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigPlan {
    /// The data directory of the original: as its server named it, and with all links resolved.
    pub originals: Vec<PathBuf>,
    /// The files that lay outside of it, by their path, as they were when the backup was taken.
    #[serde(skip)]
    pub saved: BTreeMap<PathBuf, Vec<u8>>,
    /// Where `postgresql.conf` was, if outside.
    pub main: Option<PathBuf>,
    /// Where `pg_hba.conf` was, if outside.
    pub hba: Option<PathBuf>,
    /// Where `pg_ident.conf` was, if outside.
    pub ident: Option<PathBuf>,
    /// The server takes the place of the original at the very same path: what leads outside is its own and stays, if it is
    /// there.
    pub keeps_outside: bool,
    /// Write the saved files into the data directory even so.
    pub write_saved: bool,
    /// What recovery needs at least as high as the original had it, which may have had it from its command line.
    pub at_least: BTreeMap<String, String>,
}

/// What [`rewrite`] will do to the configuration of a data directory at `target`, whose files can be read at `content` already;
/// or what can be said of it without.
///
/// # Errors
/// As [`rewrite`].
pub fn foresee(config: &ConfigPlan, target: &Path, content: Option<&Path>) -> Result<Vec<String>> {
    match content {
        Some(content) => Ok(rewrite(config, target, &Tree::new(content))?.notes),
        None => Ok(vec![
            "what in the configuration leads out of the directory is changed once the files are there, and told then"
                .to_owned(),
        ]),
    }
}

impl ConfigPlan {
    /// The part of `path` below the data directory, the new one or that of the original; `None` if it lies outside.
    fn inside(&self, path: &Path, target: &Path) -> Option<PathBuf> {
        let tops = std::iter::once(target).chain(self.originals.iter().map(PathBuf::as_path));
        tops.filter(|top| top.is_absolute()).find_map(|top| path.strip_prefix(top).ok()).map(Path::to_owned)
    }
}
