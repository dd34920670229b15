//! Carries out the plan of a restore, dully: it decides nothing.
//!
//! # What happens when something fails
//! Everything made so far is removed again, and the error says so. A restore in place builds the new directories beside
//! the old ones and exchanges names only when they are complete, so a failure before leaves the old ones untouched, and a
//! failure in the exchange itself is reversed.
//!
//! # Cancellation
//! `cancelled` is asked between the steps; then the same undo runs. When the future is dropped instead, nothing can be
//! undone: what was built so far stays (old directories are untouched, see above) and a later restore into the same place
//! says that it is not empty.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::devices::carry_out::{self, Devices};
use super::pgdata::{self, Prepared, remove_any, sync_directory};
use super::pieces::{Piece, waves};
use super::plan::{RestorePlan, SetAside};
use crate::catalog::Chosen;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::host::beneath::Beneath;
use crate::provider::{CreateVolumeRequest, RestoredVolume, SnapshotProvider};

/// What a restore is carried out with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// The provider that has the snapshots.
    pub provider: &'a dyn SnapshotProvider,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Says whether the user has cancelled.
    pub cancelled: &'a (dyn Fn() -> bool + Send + Sync),
    /// Is told how far it is.
    pub progress: &'a (dyn Fn(RestoreEvent) + Send + Sync),
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").field("provider", &self.provider).finish_non_exhaustive()
    }
}

impl Tools<'_> {
    /// An error if the user has cancelled.
    pub(super) fn go_on(&self) -> Result<()> {
        match (self.cancelled)() {
            true => Err(Error::new(ErrorKind::Cancelled, "the restore was cancelled")),
            false => Ok(()),
        }
    }
}

/// How far a restore or a verification is.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RestoreEvent {
    /// A piece is being made of its snapshot.
    Making {
        /// Where it goes.
        destination: PathBuf,
    },
    /// A piece is there.
    Made {
        /// Where it is.
        destination: PathBuf,
        /// Bytes that were copied, where the provider tells.
        bytes_copied: Option<u64>,
    },
    /// A volume is being made of a snapshot.
    Creating {
        /// The snapshot.
        snapshot: String,
    },
    /// A volume is there.
    Created {
        /// The volume.
        volume: String,
    },
    /// A volume is attached.
    Attached {
        /// The volume.
        volume: String,
    },
    /// A file system is mounted.
    Mounted {
        /// What it is on.
        device: PathBuf,
        /// Where it is.
        mount_point: PathBuf,
    },
    /// The data directory is complete.
    Prepared,
    /// A step of a verification begins.
    Checking {
        /// Its name.
        name: String,
    },
}

/// What a restore has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The data directory.
    pub target: PathBuf,
    /// What was there before, under its new name.
    pub set_aside: Vec<SetAside>,
    /// What was made of the snapshots, in the order of the plan.
    pub volumes: Vec<RestoredVolume>,
    /// What was mounted of them, for a provider that restores to devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Devices>,
    /// Bytes that were copied, if the provider tells for every piece.
    pub bytes_copied: Option<u64>,
    /// What was done inside the data directory.
    pub prepared: Prepared,
    /// How the backup was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Carries out `plan`. See the [module documentation](self).
pub async fn provision(plan: &RestorePlan, tools: Tools<'_>) -> Result<Restored> {
    if let Some(devices) = &plan.devices {
        return carry_out::provision(plan, devices, tools).await;
    }
    if !tools.provider.capabilities().directory_restore {
        let message = format!("the plan is for directories, and the provider {} has devices", tools.provider.name());
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let started = tools.clock.monotonic();
    let mut made = Made::default();
    match carry_out(plan, tools, &mut made).await {
        Ok(prepared) => {
            let copied = made.volumes.iter().map(|volume| volume.bytes_copied);
            Ok(Restored {
                chosen: plan.chosen.clone(),
                target: plan.target.clone(),
                set_aside: plan.set_aside.clone(),
                devices: None,
                bytes_copied: copied.sum(),
                volumes: made.volumes,
                prepared,
                duration_ms: millis(tools.clock.monotonic().saturating_sub(started)),
            })
        }
        Err(error) => Err(undo(error, tools.provider, &made).await),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What exists because of us.
#[derive(Debug, Default)]
struct Made {
    volumes: Vec<RestoredVolume>,
    /// Directories above the destinations that were not there before, the upper ones first. Others may have put something
    /// there since.
    parents: Vec<PathBuf>,
    /// Destinations that were not there before.
    directories: Vec<PathBuf>,
    /// Directories that were there, empty.
    filled: Vec<PathBuf>,
}

async fn carry_out(plan: &RestorePlan, tools: Tools<'_>, made: &mut Made) -> Result<Prepared> {
    for wave in waves(&plan.pieces) {
        tools.go_on()?;
        let mut rooms = Vec::new();
        for piece in &wave {
            rooms.push(make_room(&plan.building_place(&piece.destination), made)?);
        }
        // All of them come to an end, also when one fails: undo must not race with a copy that is still running.
        let results = join_all(wave.iter().map(|piece| make_piece(plan, piece, tools))).await;
        let mut failed = None;
        for (result, (piece, room)) in results.into_iter().zip(wave.iter().zip(rooms)) {
            match result {
                Ok(volume) => {
                    made.volumes.push(volume);
                    // Ours only now: what the provider refused to fill may be somebody else's, and what it began to fill
                    // it has removed itself.
                    let place = plan.building_place(&piece.destination);
                    match room {
                        Room::Absent => made.directories.push(place),
                        Room::Empty => made.filled.push(place),
                        Room::InsideOfOurs => {}
                    }
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)?;
    }
    tools.go_on()?;
    let left_out = plan.tablespaces.iter().filter(|one| one.left_out && !one.inside).map(|one| &one.location);
    for location in plan.wal.iter().map(|wal| &wal.location).chain(left_out) {
        let place = plan.building_place(location);
        match make_room(&place, made)? {
            Room::Absent => made.directories.push(place),
            Room::Empty => made.filled.push(place),
            Room::InsideOfOurs => {}
        }
    }
    let copy = plan.clone();
    let prepared = blocking(move || pgdata::prepare(&copy)).await?;
    (tools.progress)(RestoreEvent::Prepared);
    tools.go_on()?;
    exchange(&plan.set_aside)?;
    lead_old_wal_along(plan);
    Ok(prepared)
}

/// What the provider is asked for.
pub(super) fn piece_request(plan: &RestorePlan, piece: &Piece) -> CreateVolumeRequest {
    CreateVolumeRequest {
        ticket: piece.ticket.clone(),
        token: plan.token.clone(),
        subtree: piece.subtree.clone(),
        destination: Some(plan.building_place(&piece.destination)),
        exclude_content: piece.exclude_content.clone(),
        instance: None,
        mark: String::new(),
    }
}

async fn make_piece(plan: &RestorePlan, piece: &Piece, tools: Tools<'_>) -> Result<RestoredVolume> {
    (tools.progress)(RestoreEvent::Making { destination: piece.destination.clone() });
    let volume = tools.provider.create_volume(&piece_request(plan, piece)).await?;
    let bytes_copied = volume.bytes_copied;
    (tools.progress)(RestoreEvent::Made { destination: piece.destination.clone(), bytes_copied });
    Ok(volume)
}

/// What a destination was before.
enum Room {
    Absent,
    Empty,
    /// In a directory that this restore has made.
    InsideOfOurs,
}

/// Says what a destination is, and makes the directories above it.
fn make_room(destination: &Path, made: &mut Made) -> Result<Room> {
    if fs::symlink_metadata(destination).is_ok() {
        if made.directories.iter().chain(&made.filled).any(|ours| destination.starts_with(ours)) {
            return Ok(Room::InsideOfOurs);
        }
        let mut entries = fs::read_dir(destination).map_err(|error| Error::io("read", destination, error))?;
        return match entries.next() {
            None => Ok(Room::Empty),
            // It was empty when the plan was made.
            Some(_) => Err(Error::new(ErrorKind::Conflict, format!("{} is not empty any more", destination.display()))
                .with_hint("is another restore running to the same place?")),
        };
    }
    let missing: Vec<_> =
        destination.ancestors().skip(1).take_while(|path| fs::symlink_metadata(path).is_err()).collect();
    for parent in missing.into_iter().rev() {
        match fs::create_dir(parent) {
            Ok(()) => made.parents.push(parent.to_owned()),
            // Somebody was faster: then it is theirs.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("make the directory", parent, error)),
        }
    }
    Ok(Room::Absent)
}

/// Old directories get their new names, new ones the old names; reversed if one step fails.
fn exchange(places: &[SetAside]) -> Result<()> {
    let steps = || places.iter().flat_map(|one| [(&one.from, &one.to), (&one.building, &one.from)]);
    for (at, (from, to)) in steps().enumerate() {
        // Not onto something that somebody has made there since the plan.
        let free = fs::symlink_metadata(to).is_err();
        let renamed = if free { fs::rename(from, to) } else { Err(std::io::ErrorKind::AlreadyExists.into()) };
        let Err(error) = renamed else { continue };
        let error = Error::io("rename", from, error).with_context("to", to.display().to_string());
        let done: Vec<_> = steps().take(at).collect();
        for (from, to) in done.into_iter().rev() {
            if let Err(again) = fs::rename(to, from) {
                let hint = format!("rename {} back to {} by hand", to.display(), from.display());
                return Err(Error::io("rename back", to, again).with_source(error).with_hint(hint));
            }
        }
        return Err(error);
    }
    places.iter().filter_map(|one| one.from.parent()).try_for_each(sync_directory)
}

/// The link of the old data directory follows its WAL, which has another name now: else it would lead to the new server's.
fn lead_old_wal_along(plan: &RestorePlan) {
    let aside = |path: &Path| plan.set_aside.iter().find(|one| one.from == path).map(|one| one.to.clone());
    let Some(wal) = &plan.wal else { return };
    let (Some(old_data), Some(old_wal)) = (aside(&plan.target), aside(&wal.location)) else { return };
    let link = old_data.join("pg_wal");
    let done = Beneath::open(&old_data).and_then(|old| {
        old.remove(Path::new("pg_wal"))?;
        old.link(Path::new("pg_wal"), &old_wal)
    });
    if let Err(error) = done {
        tracing::warn!(link = %link.display(), wal = %old_wal.display(), error = error.chain(), "cannot lead the old link to the old WAL");
    }
}

/// Removes what was made, and says in the error whether that worked.
async fn undo(error: Error, provider: &dyn SnapshotProvider, made: &Made) -> Error {
    let mut left = Vec::new();
    for volume in made.volumes.iter().rev() {
        if let Err(failure) = provider.delete_volume(volume).await {
            tracing::warn!(volume = volume.id, error = failure.chain(), "cannot delete a restored volume");
        }
    }
    for directory in made.directories.iter().rev() {
        if let Err(failure) = remove_any(directory) {
            tracing::warn!(directory = %directory.display(), error = failure.chain(), "cannot remove");
            left.push(directory.display().to_string());
        }
    }
    for parent in made.parents.iter().rev() {
        // Only as long as it is empty: what is in it now is not of this restore.
        if let Err(failure) = fs::remove_dir(parent) {
            tracing::info!(directory = %parent.display(), %failure, "stays");
        }
    }
    for directory in &made.filled {
        // A provider may have deleted the directory together with the volume, but it was there before.
        if let Err(failure) = empty_again(directory) {
            tracing::warn!(directory = %directory.display(), error = failure.chain(), "cannot empty");
            left.push(directory.display().to_string());
        }
    }
    match left.as_slice() {
        [] => error.with_context("undone", "everything that the restore had made was removed again"),
        left => {
            let hint = format!("the restore could not remove what it had made: {}", left.join(", "));
            Error::new(error.kind(), error.message().to_owned()).with_source(error).with_hint(hint)
        }
    }
}

fn empty_again(directory: &Path) -> Result<()> {
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries.flatten() {
                remove_any(&entry.path())?;
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir(directory).map_err(|error| Error::io("make the directory", directory, error))
        }
        Err(error) => Err(Error::io("read the directory", directory, error)),
    }
}

/// Runs something that blocks on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a worker thread died").with_source(error)),
    }
}
