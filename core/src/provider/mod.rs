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

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "azure")]
pub mod azure;
#[cfg(feature = "gcp")]
pub mod gcp;
pub mod local;
pub mod names;
pub mod options;
pub mod pool;
pub mod preflight;
pub mod registry;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::preflight::{Finding, Findings, Preflight};
pub use self::volume::{FileSystem, Outlook, RestoredVolume, Volume, VolumeSelection, VolumeSnapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshots, Literal, SnapshotRecord};

/// The machine whose volumes are to be snapshotted, as its provider names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The name or id the user gave; for the local provider the host name.
    pub name: String,
    /// What the provider wants to remember (zone, resource group, instance id, …).
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
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

impl Ticket {
    /// The attribute that says: a stock tool has made this snapshot, it carries no token.
    pub const STOCK: &'static str = "stock";

    /// The attribute that names the operation by which a cloud makes the snapshot. Only `create` learns it: a ticket that
    /// `find` returns is without, and the same in all else.
    pub const OPERATION: &'static str = "operation";

    /// True if a stock tool has made this snapshot.
    pub fn is_stock(&self) -> bool {
        self.attributes.contains_key(Self::STOCK)
    }
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
    /// The instance that the volume will be attached to: it has to be made where that one is. Needed unless
    /// [`Capabilities::directory_restore`].
    pub instance: Option<Instance>,
    /// The mark of the catalog, as in [`CreateRequest::mark`]; the volume carries it, too. Empty for a directory.
    pub mark: String,
    /// Paths relative to `subtree` that are not wanted; directories themselves are made, but left empty.
    pub exclude_content: Vec<PathBuf>,
}

/// What a restore will write to a file system, as [`SnapshotProvider::restore_space`] has found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSpace {
    /// An existing directory on the file system that gets it.
    pub directory: PathBuf,
    /// The number of that file system: what goes to the same one has to be added up.
    pub device: u64,
    /// Bytes that will be written, with what the file system needs for the files themselves.
    pub bytes: u64,
    /// Bytes that this process may still write there now.
    pub free: u64,
}

/// What is left to do for the snapshots of a backup after backup mode; decided when the backup is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AfterCut {
    /// [`SnapshotProvider::promote`] has to be called before they can become `Ready`.
    pub promote: bool,
    /// [`SnapshotProvider::secure`] has to be called when they are `Ready`.
    pub secure: bool,
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
///   [`ErrorKind::Conflict`]; it never makes a second one where the provider can tell.
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

    /// The volume as it is planned when a call of its own cuts it, whatever could be cut by one call. Pure.
    fn apart(&self, volume: Volume) -> Volume {
        volume
    }

    /// Checks all that can be checked before the backup starts: names, tags, free space, permissions, nested volumes.
    /// Gets all requests that the session will make, as some limits count for all of them together. Changes nothing.
    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()>;

    /// For `check`: looks at the instance and at the volumes meant by `selection` as [`instance`](Self::instance) and
    /// [`volumes`](Self::volumes) do, and tells each thing that it looked at in a line of its own, with what to do about those
    /// that are wrong. Goes on after a failure as far as it makes sense. Changes nothing.
    async fn preflight(&self, instance: Option<&str>, selection: &VolumeSelection) -> Preflight {
        let mut findings = Findings::default();
        let found = self.instance(instance).await;
        let instance = findings.take("instance", found, |instance| instance.name.clone());
        let volumes = match &instance {
            Some(instance) => {
                let found = self.volumes(instance, selection).await;
                findings.take("volumes", found, |volumes| preflight::describe(volumes))
            }
            None => None,
        };
        Preflight { findings, instance, volumes }
    }

    /// For `check`: the same as [`check_requests`](Self::check_requests), a line for each thing looked at: names, tags,
    /// permissions, limits. Changes nothing.
    async fn preflight_requests(&self, requests: &[CreateRequest]) -> Findings {
        let mut findings = Findings::default();
        findings
            .take("snapshots possible", self.check_requests(requests).await, |()| "names, space, permissions".into());
        findings
    }

    /// Starts the snapshots of `request`; one ticket per volume, in the same order.
    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>>;

    /// How far a snapshot is. A snapshot that does not exist (any more) is
    /// [`ErrorKind::NotFound`].
    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus>;

    /// The directory of this host where the content of a snapshot can be read as it is, so that a restore can say beforehand
    /// what it will find. `None` (the default) where that takes more than reading.
    async fn content(&self, ticket: &Ticket) -> Result<Option<PathBuf>> {
        let _ = ticket;
        Ok(None)
    }

    /// Why the snapshots of these volumes cannot be seen from here, if they cannot, in words that name the host, the file
    /// system, the account, the region or the project. That [`find`](Self::find) and [`list`](Self::list) return nothing means
    /// that nothing is there only if this returns `None`. `volumes` are those of a plan, or of the record of a backup; the
    /// latter carry the attributes of their tickets.
    ///
    /// # Errors
    /// If it cannot be told; then they count as not visible, too.
    async fn unseen(&self, instance: &Instance, volumes: &[Volume]) -> Result<Option<String>> {
        let _ = (instance, volumes);
        Ok(None)
    }

    /// Everything that was ever created with this token and still exists, complete or not. `volumes` are the ones the
    /// session planned; a local provider looks only there.
    async fn find(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>>;

    /// Every snapshot that carries this [mark](CreateRequest::mark) and still exists, whatever its token. `volumes` as in
    /// `find`.
    async fn list(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>>;

    /// Deletes a snapshot. Gone already is success. Refuses what does not carry the ticket's token.
    async fn delete(&self, ticket: &Ticket) -> Result<()>;

    /// What is left to do after backup mode, if these volumes are cut by one call (`grouped`) or each by its own. Pure.
    fn after_cut(&self, _volumes: &[Volume], _grouped: bool) -> AfterCut {
        AfterCut::default()
    }

    /// Makes durable snapshots of what was cut (of instant snapshots, say), after backup mode. Returns one ticket for each
    /// of `tickets`, in the same order, to be used from now on. May be called again with the same tickets after its reply
    /// was lost.
    async fn promote(&self, _requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        Ok(tickets.to_vec())
    }

    /// Does what the user asked for beyond the snapshots themselves (locks, copies elsewhere), when they are `Ready`; removes
    /// what was needed only on the way. Tickets and repetition as in [`promote`](Self::promote).
    async fn secure(&self, _requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        Ok(tickets.to_vec())
    }

    /// Whether all of these can be deleted now: what is gone already can. Changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] that names each snapshot which is locked, and until when, or which does not carry the token
    /// of its ticket.
    async fn check_delete(&self, _tickets: &[Ticket]) -> Result<()> {
        Ok(())
    }

    /// The snapshots of a backup that a stock tool has made, as its `snapshots_info` names them. Their tickets carry the token
    /// of nobody ([`Ticket::is_stock`]), and are deleted by the word of the catalog alone.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if they are of another provider.
    async fn adopt(&self, _backup_id: &BackupId, _snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
        Err(Error::new(ErrorKind::Unsupported, format!("{} knows no snapshots of stock tools", self.name())))
    }

    /// What [`create_volume`](Self::create_volume) of this request would write, so that a restore can see beforehand whether it
    /// fits. `None`: not known, or nothing worth counting (blocks are shared, or a new volume brings its own space). Changes
    /// nothing that stays; what it says may be out of date when it has been said.
    async fn restore_space(&self, _request: &CreateVolumeRequest) -> Result<Option<RestoreSpace>> {
        Ok(None)
    }

    /// What a volume made of this snapshot for this instance will be like, and what of the original it will not have. Pure.
    fn outlook(&self, _ticket: &Ticket, _instance: &Instance) -> Outlook {
        Outlook::default()
    }

    /// Makes a volume of a snapshot.
    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume>;

    /// Attaches a volume to an instance, so that its file system can be mounted. Nothing to do where `path` is known.
    async fn attach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume>;

    /// Detaches a volume. Not attached is success.
    async fn detach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()>;

    /// Deletes a volume that `create_volume` made. Gone already is success.
    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()>;

    /// For each of `tickets`, in the same order, the volume that was made of that snapshot and is attached to `instance` now,
    /// if there is one; with its file systems as [`volumes`](Self::volumes) gives them, empty if none is mounted. A volume
    /// made of a copy of the snapshot counts where the provider can tell. For a restore to volumes that the user has attached.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for providers with [`Capabilities::directory_restore`].
    async fn attached_from(&self, _instance: &Instance, _tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        let message = format!("{} cannot say of which snapshots the attached volumes were made", self.name());
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// The volumes that `create_volume` made for this mark and that are attached to nothing: what a restore that was killed
    /// has left. Each has among its attributes its [token](RestoredVolume::TOKEN), [when it was made](RestoredVolume::CREATED)
    /// and [whether it was ever attached](RestoredVolume::USED); without the time, `gc` leaves it alone.
    async fn list_volumes(&self, _mark: &str) -> Result<Vec<RestoredVolume>> {
        Ok(Vec::new())
    }
}
