//! A cloud of loop devices: disks are image files, a snapshot is a copy of one, a volume is made of a snapshot as another
//! image, and to attach it means to give it a loop device. What a cloud does with disks, with real bytes and real mounts.
//!
//! It keeps its state in files, so that another process finds it, and it obeys the whole contract. It needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this module")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use barman_snap::error::{Error, ErrorKind, Result};
use barman_snap::host::MountTable;
use barman_snap::host::devices::DeviceHint;
use barman_snap::id::{BackupId, Token};
use barman_snap::model::{Literal, SnapshotRecord};
use barman_snap::provider::{
    Capabilities, CreateRequest, CreateVolumeRequest, FileSystem, Instance, RestoredVolume, SnapshotProvider,
    SnapshotState, SnapshotStatus, Ticket, Volume, VolumeSelection,
};
use barman_snap::testing::{Call, FaultHook, Moment};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A disk of the cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    pub id: String,
    pub image: PathBuf,
    /// Where it is mounted, if it is.
    pub mount_point: PathBuf,
}

impl Disk {
    /// Makes a disk with a file system and mounts it, or says why that cannot be done here.
    pub fn new(id: &str, fs_type: &str, directory: &Path, mount_point: &Path) -> Self {
        let image = directory.join(format!("{id}.disk"));
        std::fs::create_dir_all(directory).unwrap();
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        run(&[&format!("mkfs.{fs_type}"), "-q", text(&image)]);
        let device = attach_image(&image);
        std::fs::create_dir_all(mount_point).unwrap();
        run(&["mount", "-o", "noatime", text(&device), text(mount_point)]);
        Self { id: id.into(), image, mount_point: mount_point.into() }
    }
}

/// Why loop devices cannot be had here, if they cannot.
pub fn why_not() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("loop devices need root");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("the kernel has no loop devices");
    }
    None
}

/// The cloud. Cloning it is another client.
#[derive(Clone)]
pub struct LoopCloud {
    pub directory: PathBuf,
    pub disks: Vec<Disk>,
    pub hook: Option<Arc<FaultHook>>,
    /// Devices never show: what `attach` says of them leads nowhere.
    pub blind: bool,
}

/// What is known of a snapshot.
#[derive(Serialize, Deserialize)]
struct StoredSnapshot {
    ticket: Ticket,
    mark: String,
}

/// What is known of a volume.
#[derive(Serialize, Deserialize)]
struct StoredVolume {
    token: Token,
    mark: String,
    snapshot: String,
}

impl fmt::Debug for LoopCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopCloud").field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl LoopCloud {
    pub fn new(directory: &Path, disks: Vec<Disk>) -> Self {
        for name in ["snapshots", "volumes"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        Self { directory: directory.into(), disks, hook: None, blind: false }
    }

    /// The same cloud, whose calls the hook may break.
    pub fn with_faults(&self, hook: impl Fn(Call, Moment, &str) -> Option<Error> + Send + Sync + 'static) -> Self {
        Self { hook: Some(Arc::new(hook)), ..self.clone() }
    }

    /// The names of all volumes that were made of snapshots and exist.
    pub fn volumes_left(&self) -> Vec<String> {
        names(&self.directory.join("volumes"))
    }

    /// The image of a volume.
    pub fn image(&self, volume: &str) -> PathBuf {
        self.directory.join("volumes").join(format!("{volume}.img"))
    }

    fn snapshot_image(&self, snapshot: &str) -> PathBuf {
        self.directory.join("snapshots").join(format!("{snapshot}.img"))
    }

    fn fault(&self, call: Call, moment: Moment, about: &str) -> Result<()> {
        self.hook.as_ref().and_then(|hook| hook(call, moment, about)).map_or(Ok(()), Err)
    }

    fn disk(&self, id: &str) -> Result<&Disk> {
        let found = self.disks.iter().find(|disk| disk.id == id);
        found.ok_or_else(|| Error::not_found(format!("no such disk: {id}")))
    }

    fn volume(&self, disk: &Disk) -> Volume {
        let file_systems: Vec<_> = loop_of(&disk.image).iter().flat_map(|device| file_systems(device)).collect();
        let first = file_systems.first().expect("a disk of the tests is mounted").clone();
        Volume {
            id: disk.id.clone(),
            root: first.mount_point.clone(),
            mount_point: first.mount_point,
            mount_options: first.options,
            device: "loop".into(),
            method: "loop".into(),
            attributes: BTreeMap::new(),
            file_systems,
        }
    }

    /// A snapshot is in the list as soon as its metadata is there, complete with its image.
    fn cut(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        let [wanted] = request.volumes.as_slice() else {
            return Err(Error::new(ErrorKind::Unsupported, "several volumes cannot be cut by one call"));
        };
        let disk = self.disk(&wanted.volume.id)?;
        let snapshot = format!("snap-{}-{}", disk.id, &request.token.as_str()[..12]);
        let image = self.snapshot_image(&snapshot);
        if std::fs::OpenOptions::new().write(true).create_new(true).open(&image).is_err() {
            return Err(Error::new(ErrorKind::Conflict, format!("there is a snapshot {snapshot}")));
        }
        // What the file system has in memory belongs to the disk; the server may go on for this moment only in memory.
        run(&["fsfreeze", "-f", text(&disk.mount_point)]);
        run(&["cp", "--reflink=auto", "--sparse=always", text(&disk.image), text(&image)]);
        run(&["fsfreeze", "-u", text(&disk.mount_point)]);
        let ticket = Ticket {
            snapshot: snapshot.clone(),
            name: wanted.name.clone(),
            volume: disk.id.clone(),
            root: wanted.volume.root.clone(),
            method: "loop".into(),
            token: request.token.clone(),
            attributes: BTreeMap::new(),
        };
        store(&image, &StoredSnapshot { ticket: ticket.clone(), mark: request.mark.clone() });
        Ok(vec![ticket])
    }

    fn snapshots(&self) -> Vec<StoredSnapshot> {
        let directory = self.directory.join("snapshots");
        names(&directory).iter().filter_map(|name| load(&self.snapshot_image(name))).collect()
    }

    fn make(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        assert!(request.instance.is_some() && request.destination.is_none(), "a volume is made for an instance");
        let source = self.snapshot_image(&request.ticket.snapshot);
        if load::<StoredSnapshot>(&source).is_none() {
            return Err(Error::not_found(format!("no such snapshot: {}", request.ticket.snapshot)));
        }
        let id = format!("vol-{}-{}", &request.token.as_str()[..12], request.ticket.volume);
        let image = self.image(&id);
        run(&["cp", "--reflink=auto", "--sparse=always", text(&source), text(&image)]);
        let (token, mark) = (request.token.clone(), request.mark.clone());
        store(&image, &StoredVolume { token, mark, snapshot: request.ticket.snapshot.clone() });
        Ok(self.restored(&id, &request.token))
    }

    fn restored(&self, id: &str, token: &Token) -> RestoredVolume {
        let attributes = BTreeMap::from([(RestoredVolume::TOKEN.to_owned(), token.as_str().to_owned())]);
        RestoredVolume { id: id.to_owned(), attributes, ..RestoredVolume::default() }
    }

    fn remove(&self, volume: &RestoredVolume) -> Result<()> {
        if self.disk(&volume.id).is_ok() {
            return Err(Error::new(ErrorKind::Conflict, format!("no restore has made {}", volume.id)));
        }
        let image = self.image(&volume.id);
        let Some(stored) = load::<StoredVolume>(&image) else { return Ok(()) };
        if !volume.carries(&stored.token) {
            return Err(Error::new(ErrorKind::Conflict, format!("{} does not carry the token", volume.id)));
        }
        if loop_of(&image).is_some() {
            return Err(Error::new(ErrorKind::Conflict, format!("{} is attached", volume.id)));
        }
        std::fs::remove_file(image.with_extension("json")).unwrap();
        let _ = std::fs::remove_file(image.with_extension("used"));
        std::fs::remove_file(image).unwrap();
        Ok(())
    }
}

#[async_trait]
impl SnapshotProvider for LoopCloud {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic: true, directory_restore: false, host_bound: false }
    }

    async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        match name {
            None | Some("this-host") => Ok(Instance { name: "this-host".into(), attributes: BTreeMap::new() }),
            Some(name) => Err(Error::not_found(format!("no such instance: {name}"))),
        }
    }

    async fn volumes(&self, _instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        let (mut found, mut unknown) = (Vec::<Volume>::new(), Vec::new());
        let mut add = |wanted: String, disk: Option<&Disk>| match disk {
            Some(disk) if found.iter().any(|volume| volume.id == disk.id) => {}
            Some(disk) => found.push(self.volume(disk)),
            None => unknown.push(wanted),
        };
        match selection {
            VolumeSelection::Named(names) => names.iter().for_each(|name| add(name.clone(), self.disk(name).ok())),
            VolumeSelection::Holding(paths) => paths.iter().for_each(|path| {
                let holding = self.disks.iter().filter(|disk| path.starts_with(&disk.mount_point));
                add(text(path).to_owned(), holding.max_by_key(|disk| disk.mount_point.as_os_str().len()));
            }),
        }
        match unknown.as_slice() {
            [] => Ok(found),
            unknown => Err(Error::not_found(format!("no such disk: {}", unknown.join(", ")))),
        }
    }

    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String {
        format!("{}-{}", volume.id, backup_id.lower())
    }

    fn snapshots_info(&self, _instance: &Instance, _snapshots: &[SnapshotRecord]) -> Option<Literal> {
        None
    }

    fn can_group(&self, _volumes: &[Volume]) -> bool {
        false
    }

    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()> {
        match requests.iter().flat_map(|request| &request.volumes).find(|wanted| wanted.name.is_empty()) {
            Some(wanted) => Err(Error::invalid(format!("a snapshot of {} without a name", wanted.volume.id))),
            None => Ok(()),
        }
    }

    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        let (cloud, request) = (self.clone(), request.clone());
        on_a_thread(move || cloud.cut(&request)).await
    }

    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        match self.snapshots().iter().any(|stored| stored.ticket.snapshot == ticket.snapshot) {
            true => Ok(SnapshotStatus { state: SnapshotState::Ready, percent: None, bytes_copied: None }),
            false => Err(Error::not_found(format!("no such snapshot: {}", ticket.snapshot))),
        }
    }

    async fn find(&self, token: &Token, _volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let all = self.snapshots().into_iter().map(|stored| stored.ticket);
        Ok(all.filter(|ticket| ticket.token == *token).collect())
    }

    async fn list(&self, mark: &str, _volumes: &[Volume]) -> Result<Vec<Ticket>> {
        Ok(self.snapshots().into_iter().filter(|stored| stored.mark == mark).map(|stored| stored.ticket).collect())
    }

    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        let image = self.snapshot_image(&ticket.snapshot);
        let Some(stored) = load::<StoredSnapshot>(&image) else { return Ok(()) };
        if stored.ticket.token != ticket.token {
            return Err(Error::new(ErrorKind::Conflict, format!("{} does not carry the token", ticket.snapshot)));
        }
        std::fs::remove_file(image.with_extension("json")).unwrap();
        std::fs::remove_file(image).unwrap();
        Ok(())
    }

    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        self.fault(Call::CreateVolume, Moment::Before, &request.ticket.volume)?;
        let (cloud, copy) = (self.clone(), request.clone());
        let volume = on_a_thread(move || cloud.make(&copy)).await?;
        self.fault(Call::CreateVolume, Moment::After, &request.ticket.volume)?;
        Ok(volume)
    }

    async fn attach(&self, volume: &RestoredVolume, _instance: &Instance) -> Result<RestoredVolume> {
        self.fault(Call::Attach, Moment::Before, &volume.id)?;
        let image = self.image(&volume.id);
        std::fs::write(image.with_extension("used"), "").unwrap();
        let device = on_a_thread(move || Ok(loop_of(&image).unwrap_or_else(|| attach_image(&image)))).await?;
        self.fault(Call::Attach, Moment::After, &volume.id)?;
        // The first one is what a cloud that names its links otherwise would give; it leads nowhere.
        let nowhere = DeviceHint::Link("/dev/disk/by-id/loop-cloud-no-such-link".into());
        let hints = match self.blind {
            true => {
                vec![nowhere, DeviceHint::Serial("no-such-serial".into()), DeviceHint::ApiName("/dev/no-such".into())]
            }
            false => vec![nowhere, DeviceHint::Link(device)],
        };
        Ok(RestoredVolume { hints, ..volume.clone() })
    }

    async fn detach(&self, volume: &RestoredVolume, _instance: &Instance) -> Result<()> {
        self.fault(Call::Detach, Moment::Before, &volume.id)?;
        let image = self.image(&volume.id);
        if let Some(device) = loop_of(&image) {
            assert!(file_systems(&device).is_empty(), "{} is detached while it is mounted", volume.id);
            run(&["losetup", "-d", text(&device)]);
            wait_until_free(&image);
        }
        self.fault(Call::Detach, Moment::After, &volume.id)
    }

    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()> {
        self.fault(Call::DeleteVolume, Moment::Before, &volume.id)?;
        self.remove(volume)?;
        self.fault(Call::DeleteVolume, Moment::After, &volume.id)
    }

    async fn list_volumes(&self, mark: &str) -> Result<Vec<RestoredVolume>> {
        self.fault(Call::List, Moment::Before, mark)?;
        let one = |id: &String| {
            let stored: StoredVolume = load(&self.image(id))?;
            let free = stored.mark == mark && loop_of(&self.image(id)).is_none();
            let made = std::fs::metadata(self.image(id).with_extension("json")).unwrap().modified().unwrap();
            let used = self.image(id).with_extension("used").exists();
            free.then(|| self.restored(id, &stored.token).born(Some(made.into()), used))
        };
        Ok(self.volumes_left().iter().filter_map(one).collect())
    }

    async fn attached_from(&self, _instance: &Instance, tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        let of = |ticket: &Ticket| {
            self.volumes_left().into_iter().find_map(|id| {
                let image = self.image(&id);
                let stored: StoredVolume = load(&image)?;
                let device = loop_of(&image).filter(|_| stored.snapshot == ticket.snapshot)?;
                let file_systems = file_systems(&device);
                let first = file_systems.first();
                Some(Volume {
                    id,
                    root: first.map(|fs| fs.mount_point.clone()).unwrap_or_default(),
                    mount_point: first.map(|fs| fs.mount_point.clone()).unwrap_or_default(),
                    mount_options: first.map(|fs| fs.options.clone()).unwrap_or_default(),
                    device: text(&device).into(),
                    method: "loop".into(),
                    attributes: BTreeMap::new(),
                    file_systems: file_systems.clone(),
                })
            })
        };
        Ok(tickets.iter().map(of).collect())
    }
}

impl LoopCloud {
    /// Unmounts and detaches everything; for the end of a test.
    pub fn demolish(&self) {
        self.demolish_volumes();
        take_down(self.disks.iter().map(|disk| disk.image.clone()));
    }

    /// Unmounts and detaches all volumes that were made of snapshots.
    pub fn demolish_volumes(&self) {
        take_down(self.volumes_left().into_iter().map(|id| self.image(&id)));
    }
}

fn take_down(images: impl Iterator<Item = PathBuf>) {
    for image in images {
        if let Some(device) = loop_of(&image) {
            for fs in file_systems(&device).iter().rev() {
                let _ = Command::new("umount").arg("-l").arg(&fs.mount_point).status();
            }
            let _ = Command::new("losetup").arg("-d").arg(&device).status();
            wait_until_free(&image);
        }
    }
}

/// The file systems of a device, as the host tells them.
fn file_systems(device: &Path) -> Vec<FileSystem> {
    let mounts = MountTable::current().unwrap();
    let here = mounts.iter().filter(|mount| Path::new(&mount.source) == device);
    here.map(|mount| FileSystem {
        part: String::new(),
        fs_type: mount.fs_type.clone(),
        uuid: Some(run(&["blkid", "-p", "-o", "value", "-s", "UUID", text(device)])),
        mount_point: mount.mount_point.clone(),
        fs_root: mount.fs_root.clone(),
        options: mount.options.clone(),
        shared_with: Vec::new(),
    })
    .collect()
}

/// The loop device of an image.
pub fn loop_of(image: &Path) -> Option<PathBuf> {
    let found = run(&["losetup", "-n", "-O", "NAME", "-j", text(image)]);
    found.lines().next().map(|line| PathBuf::from(line.trim()))
}

fn attach_image(image: &Path) -> PathBuf {
    run(&["losetup", "-f", "--show", "-P", text(image)]).into()
}

/// `losetup -d` returns before the kernel is done.
fn wait_until_free(image: &Path) {
    for _ in 0..600 {
        if loop_of(image).is_none() {
            return;
        }
        let _ = Command::new("sleep").arg("0.05").status();
    }
    eprintln!("{} stays attached", image.display());
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let mut names: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Beside the image, and there only when it is complete.
fn store(image: &Path, value: &impl Serialize) {
    let temporary = image.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(value).unwrap()).unwrap();
    std::fs::rename(temporary, image.with_extension("json")).unwrap();
}

fn load<T: DeserializeOwned>(image: &Path) -> Option<T> {
    let bytes = std::fs::read(image.with_extension("json")).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Runs a program, which has to succeed, and returns what it says.
pub fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{words:?}: {e}"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
