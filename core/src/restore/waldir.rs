//! Where the WAL of the restored server lies, if not in its data directory.
//!
//! Pure. A cluster whose `pg_wal` is on a disk of its own, behind a link, keeps that shape in a restore in place; elsewhere
//! the user names a directory (`--waldir`, as `initdb` and `pg_basebackup` have it). The invariant: no WAL of the original is
//! deleted. A directory that has some is renamed like the data directory, whose link then follows it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host::PlaceKind;
use super::plan::{PlanInput, SetAside};
use super::refusals::not_a_link;
use super::tablespaces::{PlacedTablespace, normal};
use crate::error::{Error, Result};

/// A directory for the WAL outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWal {
    /// Where it is: `pg_wal` is a link to it.
    pub location: PathBuf,
    /// It has WAL of the original, and is renamed.
    pub set_aside: bool,
}

/// Decides whether there is one.
///
/// # Errors
/// `invalid_input` for a path that makes no sense, `precondition` for one that is not free.
pub(super) fn plan(input: &PlanInput<'_>, target: &Path, placed: &[PlacedTablespace]) -> Result<Option<PlannedWal>> {
    let kept = input.host.at(target).wal.filter(|_| input.request.in_place);
    let Some(location) = input.request.waldir.as_deref().map(normal).or_else(|| kept.clone()) else { return Ok(None) };
    let at = location.display();
    if input.devices.is_some() {
        return Err(Error::invalid(
            "a directory for the WAL is for restores to directories; here new volumes are mounted",
        )
        .with_hint("leave out --waldir, and move pg_wal before the server is started"));
    }
    if !location.is_absolute() || location.parent().is_none() {
        return Err(Error::invalid(format!("the directory for the WAL must be an absolute path: {at}")));
    }
    let apart = |other: &Path| !location.starts_with(other) && !other.starts_with(&location);
    if let Some(near) =
        std::iter::once(target).chain(placed.iter().map(|one| one.location.as_path())).find(|other| !apart(other))
    {
        return Err(Error::invalid(format!("the WAL cannot go to {at}: that is not apart from {}", near.display()))
            .with_hint("name a directory of its own with --waldir"));
    }
    let place = input.host.at(&location);
    not_a_link("the directory for the WAL", &location, &place)?;
    let elsewhere = "name an empty directory, or a new one, with --waldir";
    match place.kind {
        PlaceKind::Absent | PlaceKind::Empty => Ok(Some(PlannedWal { location, set_aside: false })),
        PlaceKind::Full if kept.as_ref() == Some(&location) && !place.mount_point => {
            Ok(Some(PlannedWal { location, set_aside: true }))
        }
        PlaceKind::Full if kept.as_ref() == Some(&location) => Err(Error::precondition(format!(
            "the WAL of the original lies at {at}, which is a mount point and cannot be renamed"
        ))
        .with_hint("name a directory on that file system with --waldir")),
        PlaceKind::Full => {
            Err(Error::precondition(format!("the WAL cannot go to {at}: not empty")).with_hint(elsewhere))
        }
        PlaceKind::Other => {
            Err(Error::precondition(format!("the WAL cannot go to {at}: not a directory")).with_hint(elsewhere))
        }
    }
}

impl PlannedWal {
    /// The names that it has before and after.
    pub(super) fn renamed(&self, token: &str) -> Option<SetAside> {
        self.set_aside.then(|| SetAside::of(&self.location, token))
    }
}
