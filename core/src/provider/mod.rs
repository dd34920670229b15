//! The contract between the engine and everything that can take a snapshot of a volume.
//!
//! # What it is
//! [`SnapshotProvider`] is implemented once per cloud or local method. The engine decides *when* and *in which order*
//! things happen and what is undone; a provider only translates. It keeps no state that matters between two calls: all
//! that a later process needs to find, delete or restore a snapshot is in its [`Ticket`].
//!
//! # The life of a snapshot
//! `Creating → Cut → Ready`, or `Failed` from any of the first two.
//! * **Cut**: the point in time is fixed. Writes from now on are not in the snapshot, so backup mode may end.
//! * **Ready**: it can be restored from even if the source volume is lost.
//!
//! # The invariant
//! Every snapshot carries the [`Token`] of its session from the very call that creates it, so that [`find`] returns all
//! that a session has ever created, also when the reply was lost. Nothing that does not carry our token, or is not named
//! in the catalog, is ever deleted.
//!
//! [`find`]: SnapshotProvider::find

pub mod local;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{BackupId, Token};
use crate::model::{Literal, SnapshotRecord};

/// The machine whose volumes are to be snapshotted, as its provider names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The name or id the user gave; for the local provider the host name.
    pub name: String,
    /// What the provider wants to remember (zone, resource group, instance id, …).
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// Which volumes of an instance are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSelection {
    /// The ones the user named (`--snapshot-disk`), in that order. An unknown name is an error that lists all unknown
    /// ones.
    Named(Vec<String>),
    /// The ones that hold these paths (absolute, symbolic links resolved).
    Holding(Vec<PathBuf>),
}

/// A volume: the unit of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The name that the user gives or would give: disk id or name; for the local provider the root directory.
    pub id: String,
    /// The directory at which the content of this volume begins, on this host.
    pub root: PathBuf,
    /// Where the file system is mounted. For a local directory that is no mount point of its own: its file system's.
    pub mount_point: PathBuf,
    /// The mount options, as `findmnt -o OPTIONS` prints them.
    pub mount_options: String,
    /// The block device or source of the mount, for people.
    pub device: String,
    /// How it will be snapshotted, for people and for the provider: `btrfs`, `zfs`, `reflink`, `copy`, `ebs`, `pd`, …
    pub method: String,
    /// What the provider wants to remember.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// One volume of a [`CreateRequest`] and the name its snapshot shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// The volume.
    pub volume: Volume,
    /// The name of the snapshot, valid for the provider, minted before the backup started.
    pub name: String,
}

/// What [`SnapshotProvider::create`] is asked for: one volume, or several that are cut by one group call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// The token of the session. Goes into the create call itself, as a tag, a label or a part of the name.
    pub token: Token,
    /// Whose backup this is: the server and the identity of its catalog, `<server>.<16 hex digits>`. Goes into the create
    /// call, too; [`list`](SnapshotProvider::list) finds by it. The name of the server alone would not do: two catalogs may
    /// both have a server `main`.
    pub mark: String,
    /// The backup.
    pub backup_id: BackupId,
    /// The instance that has the volumes.
    pub instance: Instance,
    /// The volumes. More than one only if [`SnapshotProvider::can_group`] says so, and then the cut is one instant for all.
    pub volumes: Vec<VolumeSnapshot>,
    /// Tags of the user.
    pub tags: BTreeMap<String, String>,
}

/// A snapshot as its provider knows it. It is stored, and read by later versions: fields are only added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// What the provider needs to find the snapshot: snapshot id, resource id, path.
    pub snapshot: String,
    /// The name it was given.
    pub name: String,
    /// The [`Volume::id`] it is of.
    pub volume: String,
    /// The [`Volume::root`] of that volume at the time.
    pub root: PathBuf,
    /// How it was taken, see [`Volume::method`].
    pub method: String,
    /// The token it carries.
    pub token: Token,
    /// What else the provider needs (region, project, device name, …).
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// How far a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SnapshotState {
    /// Asked for; its point in time is not fixed yet.
    Creating,
    /// Its point in time is fixed.
    Cut,
    /// It can be restored from even if the source is lost.
    Ready,
    /// It will never be usable. `reason` is the provider's word.
    Failed {
        /// Why, in the words of the provider.
        reason: String,
    },
}

/// What [`SnapshotProvider::status`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// How far it is.
    #[serde(flatten)]
    pub state: SnapshotState,
    /// Progress from 0 to 100, where the provider tells.
    pub percent: Option<u8>,
    /// Bytes that had to be copied to make it, where the provider tells; 0 for a true snapshot.
    pub bytes_copied: Option<u64>,
}

/// What a provider can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Snapshots are point-in-time by themselves (crash consistent). False for reflink trees and copies, which take some
    /// time and are made consistent by backup mode alone.
    pub atomic: bool,
    /// `create_volume` puts the content into a directory of the caller's choice.
    pub directory_restore: bool,
    /// Snapshots can be seen only from the host (or from hosts with the disk) on which they were made.
    pub host_bound: bool,
}

/// What [`SnapshotProvider::create_volume`] is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateVolumeRequest {
    /// The snapshot to start from.
    pub ticket: Ticket,
    /// The token of the restore; a volume carries it as a snapshot carries that of its session.
    pub token: Token,
    /// The part of the snapshot that is wanted, relative to its root; empty for all of it. Only with a destination.
    pub subtree: PathBuf,
    /// Where to put the content: a directory that is absent or empty. Needed iff [`Capabilities::directory_restore`].
    pub destination: Option<PathBuf>,
    /// Paths relative to `subtree` that are not wanted; directories themselves are made, but left empty.
    pub exclude_content: Vec<PathBuf>,
}

/// A volume made from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredVolume {
    /// The volume as its provider knows it; for the local provider the directory.
    pub id: String,
    /// The directory with the content, once it is reachable on this host.
    pub path: Option<PathBuf>,
    /// Bytes that were copied, where the provider tells.
    pub bytes_copied: Option<u64>,
}

/// Something that can take snapshots of volumes, and make volumes of snapshots.
///
/// # Contract
/// * Calls may run concurrently, for one and for different volumes.
/// * `create` returns as soon as the provider has accepted the request; it does not wait for `Cut`.
/// * Names and tags were checked by [`check_requests`](Self::check_requests) before the backup started; what fails there
///   must not fail later.
///
/// # Cancellation
/// Every future may be dropped at any await point. The effect may then have happened or not; `find` tells.
///
/// # Idempotency
/// * `create` is never retried blindly, neither by the engine nor inside the provider. After an error with
///   [`Retry::Unknown`](crate::error::Retry::Unknown) the engine calls `find` first.
/// * `delete`, `detach` and `delete_volume` of something that is gone are success.
/// * `create` for a (token, volume) that exists already either returns the existing snapshot or fails with
///   [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict); it never makes a second one where the provider can tell.
///
/// # Errors
/// A failed call says by [`Error::retry`](crate::error::Error::retry) whether the effect can have happened. A snapshot
/// that fails after `create` returned is no error of `status` but [`SnapshotState::Failed`].
#[async_trait]
pub trait SnapshotProvider: Send + Sync + fmt::Debug {
    /// The name in options and metadata: `local`, `aws`, `gcp`, `azure`.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The instance of that name; `None` means this host, where the provider can tell.
    async fn instance(&self, name: Option<&str>) -> Result<Instance>;

    /// The volumes of an instance that are meant by `selection`.
    async fn volumes(&self, instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>>;

    /// The name for the snapshot of `volume`: the stock one (`<volume>-<backup id lower case>`) where the provider's rules
    /// allow it, else shortened with a stable hash. Pure.
    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String;

    /// Barman's `snapshots_info` for these snapshots, as the stock tools write and read it; `None` where they know no such
    /// provider (then only our own record in `copy_stats` names the snapshots). Pure.
    fn snapshots_info(&self, instance: &Instance, snapshots: &[SnapshotRecord]) -> Option<Literal>;

    /// Whether one `create` call can cut all these volumes at one instant.
    fn can_group(&self, volumes: &[Volume]) -> bool;

    /// Checks all that can be checked before the backup starts: names, tags, free space, permissions, nested volumes.
    /// Gets all requests that the session will make, as some limits count for all of them together. Changes nothing.
    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()>;

    /// Starts the snapshots of `request`; one ticket per volume, in the same order.
    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>>;

    /// How far a snapshot is. A snapshot that does not exist (any more) is
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound).
    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus>;

    /// Everything that was ever created with this token and still exists, complete or not. `volumes` are the ones the
    /// session planned; a local provider looks only there.
    async fn find(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>>;

    /// Every snapshot that carries this [mark](CreateRequest::mark) and still exists, whatever its token. `volumes` as in
    /// `find`.
    async fn list(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>>;

    /// Deletes a snapshot. Gone already is success. Refuses what does not carry the ticket's token.
    async fn delete(&self, ticket: &Ticket) -> Result<()>;

    /// Makes a volume of a snapshot.
    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume>;

    /// Attaches a volume to an instance, so that its file system can be mounted. Nothing to do where `path` is known.
    async fn attach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume>;

    /// Detaches a volume. Not attached is success.
    async fn detach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()>;

    /// Deletes a volume that `create_volume` made. Gone already is success.
    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()>;
}
