//! A snapshot provider whose volumes and snapshots live in memory.
//!
//! It obeys the whole contract, so it passes the conformance suites like every other provider; and it does at will what
//! real ones do rarely: a slow cut, a snapshot that fails, an error before or after the effect. It is no mock: nothing is
//! scripted call by call, and tests look at what *exists* afterwards ([`MemoryProvider::existing`]).

mod beyond;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshots, Literal, SnapshotRecord};
use crate::provider::{
    AfterCut, Capabilities, CreateRequest, CreateVolumeRequest, Instance, RestoredVolume, SnapshotProvider,
    SnapshotState, SnapshotStatus, Ticket, Volume, VolumeSelection, VolumeSnapshot,
};

/// Files by path, relative to the root of a volume.
pub type Content = BTreeMap<PathBuf, Vec<u8>>;

/// When a snapshot reaches a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// At the n-th call of `status` after its creation; 0 is at once.
    Polls(u32),
    /// After this time of the clock.
    Time(Duration),
}

/// The calls of [`SnapshotProvider`] that a fault hook can hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named like the calls")]
pub enum Call {
    Instance,
    Volumes,
    CheckRequests,
    Create,
    Status,
    Unseen,
    Find,
    List,
    Delete,
    Promote,
    Secure,
    CheckDelete,
    Adopt,
    CreateVolume,
    Attach,
    Detach,
    DeleteVolume,
}

/// When a fault hook is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Before anything has happened: an error here means that nothing will.
    Before,
    /// After the effect, before the reply: an error here is a lost reply, and should be
    /// [`Retry::Unknown`].
    After,
}

/// Decides whether a call fails. The text is the volume, snapshot or name that the call is about.
pub type FaultHook = dyn Fn(Call, Moment, &str) -> Option<Error> + Send + Sync;

/// How the provider behaves.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// The name that it goes by; that of a cloud, to play one.
    pub name: &'static str,
    /// Whether one call may cut several volumes.
    pub group: bool,
    /// From the creation to `Cut`.
    pub cut_after: Delay,
    /// From the creation to `Ready`.
    pub ready_after: Delay,
    /// Snapshots of these volumes end as `Failed` with this reason instead of reaching `Cut`.
    pub failing: BTreeMap<String, String>,
    /// What is left to do after backup mode. With `promote`, what `create` makes never gets `Ready`; what is promoted does.
    pub after_cut: AfterCut,
    /// With `secure` in [`after_cut`](Self::after_cut): snapshots are locked until then, in words.
    pub lock_until: Option<String>,
    /// Lists lag behind by this: they do not show yet what is younger, and still show what was deleted.
    pub lag: Duration,
    /// `create` is never answered and takes effect after this time, if it is not zero.
    pub late: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            name: "memory",
            group: false,
            cut_after: Delay::Polls(0),
            ready_after: Delay::Polls(0),
            failing: BTreeMap::new(),
            after_cut: AfterCut::default(),
            lock_until: None,
            lag: Duration::ZERO,
            late: Duration::ZERO,
        }
    }
}

/// The provider. Clones share their state, as two processes share a cloud.
#[derive(Clone)]
pub struct MemoryProvider {
    clock: Arc<dyn Clock>,
    options: MemoryOptions,
    state: Arc<Mutex<State>>,
    hook: Option<Arc<FaultHook>>,
}

#[derive(Default)]
struct State {
    volumes: Vec<(Volume, Content)>,
    snapshots: Vec<Snapshot>,
    /// With when they were deleted.
    deleted: Vec<(Duration, Ticket, String)>,
    restored: BTreeSet<PathBuf>,
    /// Why nothing can be seen now, as with the keys of another account: then everything looks gone.
    unseen: Option<String>,
}

struct Snapshot {
    ticket: Ticket,
    mark: String,
    created: Duration,
    polls: u32,
    state: SnapshotState,
    content: Content,
    /// It has to be promoted before it can be ready.
    is_instant: bool,
    locked_until: Option<String>,
}

impl fmt::Debug for MemoryProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryProvider").field("options", &self.options).finish_non_exhaustive()
    }
}

impl MemoryProvider {
    /// A provider without volumes.
    pub fn new(clock: Arc<dyn Clock>, options: MemoryOptions) -> Self {
        Self { clock, options, state: Arc::default(), hook: None }
    }

    /// Another view of the same volumes and snapshots, whose calls the hook may break.
    #[must_use]
    pub fn with_faults(&self, hook: Arc<FaultHook>) -> Self {
        Self { hook: Some(hook), ..self.clone() }
    }

    /// Adds an empty volume whose id is its root.
    pub fn add_volume(&self, root: impl Into<PathBuf>) -> Volume {
        let root = root.into();
        let volume = Volume {
            id: root.display().to_string(),
            mount_point: root.clone(),
            root,
            mount_options: "rw".into(),
            file_systems: Vec::new(),
            device: "memory".into(),
            method: "memory".into(),
            attributes: BTreeMap::new(),
        };
        self.lock().volumes.push((volume.clone(), Content::new()));
        volume
    }

    /// The ids of all volumes, in the order in which they were added.
    pub fn volume_ids(&self) -> Vec<String> {
        self.lock().volumes.iter().map(|(volume, _)| volume.id.clone()).collect()
    }

    /// Writes a file (path relative to the root) on a volume. False if there is no such volume.
    pub fn write(&self, volume: &str, path: impl Into<PathBuf>, bytes: &[u8]) -> bool {
        let mut state = self.advanced(None);
        let found = state.volumes.iter_mut().find(|(known, _)| known.id == volume);
        found.map(|(_, content)| content.insert(path.into(), bytes.to_owned())).is_some()
    }

    /// The tickets of all snapshots that exist, in the order of their creation.
    pub fn existing(&self) -> Vec<Ticket> {
        let now = self.clock.monotonic();
        let state = self.lock();
        state.snapshots.iter().filter(|found| found.created <= now).map(|found| found.ticket.clone()).collect()
    }

    /// The directories that `create_volume` made and nobody deleted.
    pub fn existing_volumes(&self) -> Vec<PathBuf> {
        self.lock().restored.iter().cloned().collect()
    }

    /// What a snapshot holds, once it is cut.
    pub fn content(&self, ticket: &Ticket) -> Option<Content> {
        let state = self.lock();
        state.snapshots.iter().find(|snapshot| snapshot.ticket.snapshot == ticket.snapshot).map(|s| s.content.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, call: Call, moment: Moment, about: &str) -> Result<()> {
        match self.hook.as_ref().and_then(|hook| hook(call, moment, about)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The state after all that is due has happened; `polled` is the snapshot whose status is being asked.
    fn advanced(&self, polled: Option<&str>) -> MutexGuard<'_, State> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        let State { volumes, snapshots, .. } = &mut *state;
        for snapshot in snapshots {
            snapshot.polls += u32::from(polled == Some(&snapshot.ticket.snapshot));
            let age = now.saturating_sub(snapshot.created);
            let polls = snapshot.polls;
            let due = |delay: Delay| match delay {
                Delay::Polls(wanted) => polls >= wanted,
                Delay::Time(wanted) => age >= wanted,
            };
            if snapshot.state == SnapshotState::Creating && due(self.options.cut_after) {
                snapshot.state = match self.options.failing.get(&snapshot.ticket.volume) {
                    Some(reason) => SnapshotState::Failed { reason: reason.clone() },
                    None => SnapshotState::Cut,
                };
                if let Some((_, content)) = volumes.iter().find(|(volume, _)| volume.id == snapshot.ticket.volume) {
                    snapshot.content = content.clone();
                }
            }
            if snapshot.state == SnapshotState::Cut && !snapshot.is_instant && due(self.options.ready_after) {
                snapshot.state = SnapshotState::Ready;
            }
        }
        state
    }

    fn create_now(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        self.group_is_possible(request)?;
        let created = self.clock.monotonic() + self.options.late;
        let mut state = self.lock();
        for wanted in &request.volumes {
            let known = state.volumes.iter().any(|(volume, _)| volume.id == wanted.volume.id);
            if !known {
                return Err(Error::not_found(format!("no such volume: {}", wanted.volume.id)));
            }
            let same = |s: &&Snapshot| s.ticket.token == request.token && s.ticket.volume == wanted.volume.id;
            if let Some(existing) = state.snapshots.iter().find(same) {
                let message = format!("this session has a snapshot of {} already", existing.ticket.volume);
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        }
        let ticket = |wanted: &VolumeSnapshot| Ticket {
            snapshot: format!("memory:{}/{}", request.token, wanted.name),
            name: wanted.name.clone(),
            volume: wanted.volume.id.clone(),
            root: wanted.volume.root.clone(),
            method: wanted.volume.method.clone(),
            token: request.token.clone(),
            attributes: BTreeMap::new(),
        };
        let tickets: Vec<Ticket> = request.volumes.iter().map(ticket).collect();
        state.snapshots.extend(tickets.iter().map(|ticket| Snapshot {
            ticket: ticket.clone(),
            mark: request.mark.clone(),
            created,
            polls: 0,
            state: SnapshotState::Creating,
            content: Content::new(),
            is_instant: self.options.after_cut.promote,
            locked_until: None,
        }));
        drop(state);
        // With no delay the cut is now.
        drop(self.advanced(None));
        Ok(tickets)
    }

    fn group_is_possible(&self, request: &CreateRequest) -> Result<()> {
        match request.volumes.len() {
            0 => Err(Error::invalid("a request without volumes")),
            1 => Ok(()),
            _ if self.options.group => Ok(()),
            _ => Err(Error::new(ErrorKind::Unsupported, "several volumes cannot be cut by one call")),
        }
    }

    /// What a list shows now.
    fn tickets(&self, wanted: impl Fn(&Ticket, &str) -> bool) -> Vec<Ticket> {
        let (now, lag) = (self.clock.monotonic(), self.options.lag);
        let state = self.advanced(None);
        if state.unseen.is_some() {
            return Vec::new();
        }
        let shows = state.snapshots.iter().filter(|found| found.created + lag <= now);
        let ghosts = state.deleted.iter().filter(|(at, ..)| *at + lag > now);
        shows
            .map(|found| (&found.ticket, found.mark.as_str()))
            .chain(ghosts.map(|(_, ticket, mark)| (ticket, mark.as_str())))
            .filter(|(ticket, mark)| wanted(ticket, mark))
            .map(|(ticket, _)| ticket.clone())
            .collect()
    }

    fn fill(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        let destination =
            request.destination.clone().ok_or_else(|| Error::invalid("a destination directory is needed"))?;
        let state = self.advanced(None);
        let snapshot = state
            .snapshots
            .iter()
            .find(|snapshot| snapshot.ticket.snapshot == request.ticket.snapshot)
            .ok_or_else(|| Error::not_found(format!("no such snapshot: {}", request.ticket.snapshot)))?;
        if snapshot.state != SnapshotState::Ready {
            return Err(Error::precondition(format!("not ready: {}", request.ticket.snapshot)));
        }
        let content = snapshot.content.clone();
        drop(state);
        let fail = |source| Error::io("fill", &destination, source);
        std::fs::create_dir_all(&destination).map_err(fail)?;
        if destination.read_dir().map_err(fail)?.next().is_some() {
            return Err(Error::precondition(format!("directory is not empty: {}", destination.display())));
        }
        self.lock().restored.insert(destination.clone());
        let mut bytes_copied = 0;
        for (path, bytes) in &content {
            let Ok(path) = path.strip_prefix(&request.subtree) else { continue };
            let target = destination.join(path);
            let excluded = request.exclude_content.iter().any(|excluded| path.starts_with(excluded));
            std::fs::create_dir_all(target.parent().unwrap_or(Path::new("/"))).map_err(fail)?;
            if !excluded {
                std::fs::write(&target, bytes).map_err(fail)?;
                bytes_copied += bytes.len() as u64;
            }
        }
        Ok(RestoredVolume {
            id: destination.display().to_string(),
            path: Some(destination),
            bytes_copied: Some(bytes_copied),
            ..RestoredVolume::default()
        })
    }
}

#[async_trait]
impl SnapshotProvider for MemoryProvider {
    fn name(&self) -> &'static str {
        self.options.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic: true, directory_restore: true, host_bound: false }
    }

    async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        self.fault(Call::Instance, Moment::Before, name.unwrap_or_default())?;
        match name {
            Some(name) if name != "localhost" => Err(Error::not_found(format!("no such instance: {name}"))),
            _ => Ok(Instance { name: "localhost".into(), attributes: BTreeMap::new() }),
        }
    }

    async fn volumes(&self, _instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        self.fault(Call::Volumes, Moment::Before, "")?;
        let state = self.lock();
        let all = || state.volumes.iter().map(|(volume, _)| volume);
        let mut found: Vec<Volume> = Vec::new();
        let mut unknown = Vec::new();
        let mut add = |wanted: String, volume: Option<&Volume>| match volume {
            Some(volume) if found.contains(volume) => {}
            Some(volume) => found.push(volume.clone()),
            None => unknown.push(wanted),
        };
        match selection {
            VolumeSelection::Named(names) => {
                names.iter().for_each(|name| add(name.clone(), all().find(|volume| volume.id == *name)));
            }
            VolumeSelection::Holding(paths) => paths.iter().for_each(|path| {
                let best = all().filter(|volume| path.starts_with(&volume.root));
                add(path.display().to_string(), best.max_by_key(|volume| volume.root.as_os_str().len()));
            }),
        }
        if unknown.is_empty() {
            Ok(found)
        } else {
            Err(Error::not_found(format!("no such disk: {}", unknown.join(", "))))
        }
    }

    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String {
        format!("{}-{}", volume.id, backup_id.lower())
    }

    fn snapshots_info(&self, _instance: &Instance, snapshots: &[SnapshotRecord]) -> Option<Literal> {
        (self.options.name == "aws").then(|| beyond::as_aws(snapshots))
    }

    fn can_group(&self, _volumes: &[Volume]) -> bool {
        self.options.group
    }

    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()> {
        self.fault(Call::CheckRequests, Moment::Before, "")?;
        for request in requests {
            self.group_is_possible(request)?;
            if let Some(wanted) = request.volumes.iter().find(|wanted| wanted.name.is_empty()) {
                return Err(Error::invalid(format!("a snapshot of {} without a name", wanted.volume.id)));
            }
        }
        Ok(())
    }

    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        let about = request.volumes.first().map_or("", |wanted| wanted.volume.id.as_str());
        self.fault(Call::Create, Moment::Before, about)?;
        let tickets = self.create_now(request)?;
        self.fault(Call::Create, Moment::After, about)?;
        if !self.options.late.is_zero() {
            return Err(Error::new(ErrorKind::Unavailable, "no answer in time").with_retry(Retry::Unknown));
        }
        Ok(tickets)
    }

    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        self.fault(Call::Status, Moment::Before, &ticket.snapshot)?;
        let state = self.advanced(Some(&ticket.snapshot));
        let now = self.clock.monotonic();
        let is_it = |snapshot: &&Snapshot| snapshot.ticket.snapshot == ticket.snapshot && state.unseen.is_none();
        let found = state.snapshots.iter().find(is_it);
        match found.filter(|snapshot| snapshot.created <= now) {
            Some(snapshot) => {
                Ok(SnapshotStatus { state: snapshot.state.clone(), percent: None, bytes_copied: Some(0) })
            }
            None => Err(Error::not_found(format!("no such snapshot: {}", ticket.snapshot))),
        }
    }

    async fn unseen(&self, _instance: &Instance, _volumes: &[Volume]) -> Result<Option<String>> {
        self.fault(Call::Unseen, Moment::Before, "")?;
        Ok(self.lock().unseen.clone())
    }

    async fn find(&self, token: &Token, _volumes: &[Volume]) -> Result<Vec<Ticket>> {
        self.fault(Call::Find, Moment::Before, token.as_str())?;
        Ok(self.tickets(|ticket, _| ticket.token == *token))
    }

    async fn list(&self, mark: &str, _volumes: &[Volume]) -> Result<Vec<Ticket>> {
        self.fault(Call::List, Moment::Before, mark)?;
        Ok(self.tickets(|_, marked| marked == mark))
    }

    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        self.fault(Call::Delete, Moment::Before, &ticket.snapshot)?;
        self.delete_now(ticket)?;
        self.fault(Call::Delete, Moment::After, &ticket.snapshot)
    }

    fn after_cut(&self, _volumes: &[Volume], _grouped: bool) -> AfterCut {
        self.options.after_cut
    }

    async fn promote(&self, _requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.fault(Call::Promote, Moment::Before, "")?;
        let promoted = self.promote_now(tickets)?;
        self.fault(Call::Promote, Moment::After, "")?;
        Ok(promoted)
    }

    async fn secure(&self, _requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.fault(Call::Secure, Moment::Before, "")?;
        let secured = self.secure_now(tickets)?;
        self.fault(Call::Secure, Moment::After, "")?;
        Ok(secured)
    }

    async fn check_delete(&self, tickets: &[Ticket]) -> Result<()> {
        self.fault(Call::CheckDelete, Moment::Before, "")?;
        self.refuse_locked(tickets)
    }

    async fn adopt(&self, backup_id: &BackupId, snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
        self.fault(Call::Adopt, Moment::Before, &backup_id.to_string())?;
        self.adopt_now(snapshots)
    }

    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        self.fault(Call::CreateVolume, Moment::Before, &request.ticket.snapshot)?;
        let volume = self.fill(request)?;
        self.fault(Call::CreateVolume, Moment::After, &request.ticket.snapshot)?;
        Ok(volume)
    }

    async fn attach(&self, volume: &RestoredVolume, _instance: &Instance) -> Result<RestoredVolume> {
        self.fault(Call::Attach, Moment::Before, &volume.id)?;
        self.fault(Call::Attach, Moment::After, &volume.id)?;
        Ok(RestoredVolume { path: Some(PathBuf::from(&volume.id)), ..volume.clone() })
    }

    async fn detach(&self, volume: &RestoredVolume, _instance: &Instance) -> Result<()> {
        self.fault(Call::Detach, Moment::Before, &volume.id)?;
        self.fault(Call::Detach, Moment::After, &volume.id)
    }

    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()> {
        self.fault(Call::DeleteVolume, Moment::Before, &volume.id)?;
        let directory = Path::new(&volume.id);
        if !self.lock().restored.remove(directory) && directory.exists() {
            let message = format!("not made by a restore, so it is not removed: {}", volume.id);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", directory, error));
            }
            _ => {}
        }
        self.fault(Call::DeleteVolume, Moment::After, &volume.id)
    }
}
