//! Snapshots on the machine itself: btrfs, ZFS, reflink trees, plain copies.
//!
//! One provider with four [methods](Method), chosen for each volume. A volume is a btrfs subvolume, a ZFS dataset or a
//! directory. Snapshots lie on the same file system in a directory [`SNAPSHOT_DIRECTORY`] (or where
//! [`LocalOptions::snapshot_directory`] says), each with a record beside it that is written before anything else.
//!
//! What the states mean here: btrfs and ZFS snapshots are `Ready` when `create` returns. Trees are `Creating` until all
//! has been read, so that backup mode, which alone makes one point in time of it, may end; then `Cut` until all is on
//! disk; then `Ready`. That means what a snapshot on the same machine can mean: it outlives the directory, subvolume or
//! cluster it was made of, not the disk.
//!
//! It needs no privilege beyond those of the owner of the data, wherever the kernel allows that.

mod btrfs;
mod btrfs_ioctl;
mod check;
mod command;
mod copy;
mod discovery;
mod here;
mod inside;
mod job;
mod method;
mod patience;
mod permits;
mod place;
mod records;
mod reservation;
mod restore;
mod restore_space;
mod sidecar;
mod slot;
mod space;
mod tree;
mod tree_entry;
mod zfs;
mod zfs_permits;
mod zfs_said;
mod zfs_seek;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use self::copy::Counters;
pub(crate) use self::here::WHERE;
pub use self::method::Method;
use self::patience::Patience;
use self::permits::Permits;
pub use self::place::SNAPSHOT_DIRECTORY;
use self::records::Unreadable;
use self::slot::Slots;
use self::zfs::Zfs;
use super::{
    Capabilities, CreateRequest, CreateVolumeRequest, Instance, RestoreSpace, RestoredVolume, SnapshotProvider,
    SnapshotState, SnapshotStatus, Ticket, Volume, VolumeSelection,
};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::host::{below, host_name, remove};
use crate::id::{BackupId, Token};
use crate::model::{Literal, SnapshotRecord};

/// How the local provider works.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// How snapshots are taken.
    pub method: Method,
    /// Where snapshots lie: a directory that exists; [`SNAPSHOT_DIRECTORY`] is made in it unless it is one. `None` finds a
    /// place on the file system of each volume. Not used by ZFS.
    pub snapshot_directory: Option<PathBuf>,
    /// Threads that copy at once, over all volumes together; fewer where this process may have few files open.
    pub jobs: usize,
    /// The `zfs` command.
    pub zfs_command: PathBuf,
}

impl Default for LocalOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            method: Method::Auto,
            snapshot_directory: None,
            jobs: processors.clamp(2, 8),
            zfs_command: PathBuf::from("zfs"),
        }
    }
}

/// The provider for volumes of this machine. Clones share the copies that are being made.
#[derive(Clone, Debug)]
pub struct LocalProvider {
    options: Arc<LocalOptions>,
    permits: Permits,
    slots: Slots,
}

impl LocalProvider {
    /// A provider with these options.
    pub fn new(options: LocalOptions) -> Self {
        let permits = Permits::for_this_process(options.jobs);
        Self { slots: Slots::new(permits.clone()), permits, options: Arc::new(options) }
    }

    fn zfs(&self) -> Zfs {
        Zfs::new(&self.options.zfs_command)
    }

    /// Does blocking work on a thread for it. The work goes on to its end when the future is dropped.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|error| {
            Error::internal("a thread of the local provider stopped").with_source(error).with_retry(Retry::Unknown)
        })?
    }

    /// Refuses a snapshot whose place cannot be seen: it must not count as gone.
    fn check_seen(&self, ticket: &Ticket) -> Result<()> {
        here::check(&self.zfs(), ticket)
    }

    fn create_now(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        check::group(request)?;
        if request.volumes.iter().all(|snapshot| is_zfs(&snapshot.volume.method)) {
            let volumes: Vec<Volume> = request.volumes.iter().map(|snapshot| snapshot.volume.clone()).collect();
            if let Some(existing) = self.zfs().list(&volumes, true, |token, _| *token == request.token)?.first() {
                return Err(exists_already(existing));
            }
            self.zfs().create(request)?;
            let ticket = |snapshot: &super::VolumeSnapshot| {
                let dataset = zfs::dataset(&snapshot.volume)?;
                Ok(zfs::ticket(&snapshot.volume, dataset, &snapshot.name, request.token.clone()))
            };
            return request.volumes.iter().map(ticket).collect();
        }
        request.volumes.iter().map(|snapshot| self.slots.create(request, snapshot)).collect()
    }

    fn look(
        &self,
        volumes: &[Volume],
        unreadable: Unreadable,
        wanted: impl Fn(&Token, &str) -> bool,
    ) -> Result<Vec<Ticket>> {
        let (on_zfs, others): (Vec<Volume>, Vec<Volume>) =
            volumes.iter().cloned().partition(|volume| is_zfs(&volume.method));
        let mut tickets = Slots::scan(&others, unreadable, &wanted)?;
        tickets.extend(self.zfs().list(&on_zfs, unreadable == Unreadable::Refuse, &wanted)?);
        Ok(tickets)
    }

    fn zfs_status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        match self.zfs().seek(ticket)? {
            Some(_) => Ok(SnapshotStatus { state: SnapshotState::Ready, percent: Some(100), bytes_copied: Some(0) }),
            None => Err(zfs::gone(ticket)),
        }
    }

    fn restore_space_now(&self, request: &CreateVolumeRequest, counters: &Counters) -> Result<Option<RestoreSpace>> {
        let Some(destination) = request.destination.as_deref() else { return Ok(None) };
        let tree = match is_zfs(&request.ticket.method) {
            true => self.zfs().readable(&request.ticket)?,
            false => Some(self.slots.content(&request.ticket)?.0),
        };
        let look = |tree: PathBuf| restore_space::look(&tree, request, destination, counters);
        tree.map_or(Ok(None), look)
    }

    fn create_volume_now(&self, request: &CreateVolumeRequest, counters: &Counters) -> Result<RestoredVolume> {
        let destination = request
            .destination
            .as_deref()
            .ok_or_else(|| Error::invalid("the local provider needs a destination directory"))?;
        let fill = |tree: &Path, root_mode: Option<u32>| {
            restore::create(&restore::Wanted {
                token: &request.token,
                tree: tree.to_owned(),
                subtree: &request.subtree,
                destination,
                root_mode,
                options: tree::CloneOptions {
                    share: true,
                    permits: self.permits.clone(),
                    exclude_content: request.exclude_content.clone(),
                },
                counters,
            })
        };
        if is_zfs(&request.ticket.method) {
            return self.zfs().with_content(&request.ticket, &request.token, destination, |tree| fill(tree, None));
        }
        let (tree, root_mode) = self.slots.content(&request.ticket)?;
        fill(&tree, root_mode)
    }
}

impl Default for LocalProvider {
    fn default() -> Self {
        Self::new(LocalOptions::default())
    }
}

fn is_zfs(method: &str) -> bool {
    method == Method::Zfs.as_str()
}

fn exists_already(ticket: &Ticket) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("this session has a snapshot of {} already: {}", ticket.volume, ticket.snapshot),
    )
}

fn not_ours(snapshot: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("the snapshot {snapshot} does not carry the token of its session"))
        .with_hint("it was not made by this backup; it is left alone")
}

/// Tells a copy to stop when the future that waits for it is dropped. After its end that means nothing.
struct StopWhenDropped(Arc<Counters>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl SnapshotProvider for LocalProvider {
    fn name(&self) -> &'static str {
        "local"
    }

    /// `atomic` can be promised for all volumes only if the method is given.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic: matches!(self.options.method, Method::Zfs | Method::Btrfs),
            directory_restore: true,
            host_bound: true,
        }
    }

    async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        let host = host_name();
        match name {
            Some(name) if name != host && name != "localhost" => {
                Err(Error::not_found(format!("the local provider knows this host ({host}) only, not {name}"))
                    .with_hint("leave out --snapshot-instance, or choose the provider of your cloud"))
            }
            _ => Ok(Instance { name: host, attributes: Default::default() }),
        }
    }

    async fn volumes(&self, _instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        let selection = selection.clone();
        self.blocking(move |this| discovery::volumes(&this.options, &selection)).await
    }

    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String {
        place::snapshot_name(&volume.id, backup_id)
    }

    fn snapshots_info(&self, _instance: &Instance, _snapshots: &[SnapshotRecord]) -> Option<Literal> {
        // Stock readers know no such provider; see docs/adr/0004.
        None
    }

    fn can_group(&self, volumes: &[Volume]) -> bool {
        check::is_one_pool(volumes)
    }

    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()> {
        let requests = requests.to_vec();
        self.blocking(move |this| {
            this.slots.expect(check::requests(&this.options, &requests)?);
            Ok(())
        })
        .await
    }

    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        let request = request.clone();
        self.blocking(move |this| this.create_now(&request)).await
    }

    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        let ticket = ticket.clone();
        self.blocking(move |this| {
            let status = if is_zfs(&ticket.method) { this.zfs_status(&ticket) } else { this.slots.status(&ticket) };
            match status {
                // Only the one who looks into the right place can say so.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Err(this.check_seen(&ticket).err().unwrap_or(error))
                }
                status => status,
            }
        })
        .await
    }

    async fn unseen(&self, instance: &Instance, volumes: &[Volume]) -> Result<Option<String>> {
        let (instance, volumes) = (instance.clone(), volumes.to_vec());
        self.blocking(move |this| here::why_unseen(&this.zfs(), &instance, &volumes)).await
    }

    async fn find(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let (token, volumes) = (token.clone(), volumes.to_vec());
        self.blocking(move |this| this.look(&volumes, Unreadable::Refuse, |found, _| *found == token)).await
    }

    async fn list(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let (mark, volumes) = (mark.to_owned(), volumes.to_vec());
        self.blocking(move |this| this.look(&volumes, Unreadable::LeaveOut, |_, found| found == mark)).await
    }

    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        let ticket = ticket.clone();
        let counters = Arc::new(Counters::default());
        let _stop = StopWhenDropped(Arc::clone(&counters));
        self.blocking(move |this| {
            this.check_seen(&ticket)?;
            match is_zfs(&ticket.method) {
                true => this.zfs().delete(&ticket),
                false => this.slots.delete(&ticket, &Patience::new(&counters.cancelled)),
            }
        })
        .await
    }

    async fn check_delete(&self, tickets: &[Ticket]) -> Result<()> {
        let tickets = tickets.to_vec();
        self.blocking(move |this| {
            tickets.iter().try_for_each(|ticket| this.check_seen(ticket))?;
            let (on_zfs, others): (Vec<&Ticket>, Vec<&Ticket>) =
                tickets.iter().partition(|ticket| is_zfs(&ticket.method));
            others.into_iter().try_for_each(Slots::check_delete)?;
            this.zfs().check_delete(&on_zfs)
        })
        .await
    }

    async fn content(&self, ticket: &Ticket) -> Result<Option<PathBuf>> {
        let ticket = ticket.clone();
        self.blocking(move |this| {
            this.check_seen(&ticket)?;
            if is_zfs(&ticket.method) {
                return Ok(None);
            }
            this.slots.content(&ticket).map(|(tree, _)| Some(tree))
        })
        .await
    }

    async fn restore_space(&self, request: &CreateVolumeRequest) -> Result<Option<RestoreSpace>> {
        let request = request.clone();
        let counters = Arc::new(Counters::default());
        let _stop = StopWhenDropped(Arc::clone(&counters));
        self.blocking(move |this| {
            this.check_seen(&request.ticket)?;
            this.restore_space_now(&request, &counters)
        })
        .await
    }

    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        let request = request.clone();
        let counters = Arc::new(Counters::default());
        // A thread cannot be dropped: it is told to stop, and removes what it has made.
        let _stop = StopWhenDropped(Arc::clone(&counters));
        self.blocking(move |this| {
            this.check_seen(&request.ticket)?;
            this.create_volume_now(&request, &counters)
        })
        .await
    }

    async fn attach(&self, volume: &RestoredVolume, _instance: &Instance) -> Result<RestoredVolume> {
        Ok(RestoredVolume { path: Some(PathBuf::from(&volume.id)), ..volume.clone() })
    }

    async fn detach(&self, _volume: &RestoredVolume, _instance: &Instance) -> Result<()> {
        Ok(())
    }

    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()> {
        let volume = volume.clone();
        self.blocking(move |_| restore::delete(&volume)).await
    }
}
