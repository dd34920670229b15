//! All records of a directory of snapshots.
//!
//! One bad file must not hide the others; nor must "not readable" look like "not there" to the one who looks for something.

use std::path::Path;

use super::place;
use super::sidecar::{Record, Slot};
use crate::error::{Error, Result};

/// What a record means that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Left out with a warning: one bad file must not hide the others.
    LeaveOut,
    /// An error: it may be the one that is looked for.
    Refuse,
}

/// All records in `directory`; none if there is no such directory.
pub(super) fn scan(directory: &Path, unreadable: Unreadable) -> Result<Vec<Record>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", directory, error)),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| Error::io("read", directory, source))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
        let Some(name) = name.filter(|name| place::is_valid_name(name)) else { continue };
        match Slot::new(directory, name).read() {
            Ok(Some(record)) if record.name == name => records.push(record),
            Ok(Some(_)) => tracing::warn!(path = %path.display(), "the record of a snapshot names another one"),
            Ok(None) => {}
            Err(error) if unreadable == Unreadable::LeaveOut => {
                tracing::warn!(path = %path.display(), error = %error.chain(), "cannot read the record");
            }
            Err(error) => {
                return Err(error
                    .with_hint("it may be the record of a snapshot that is looked for; repair it, or move it away"));
            }
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(records)
}
