//! A whole installation on a machine of a cloud: PostgreSQL with its data directory on one disk and a tablespace on
//! another, the catalog in the cloud's object store, and our command line set up for both.
//!
//! It is the same for every cloud. It runs commands and judges nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Api, Cloud, CloudSet};
use crate::cli::BarmanSnap;
use crate::command::{Ran, attempt, run};
use crate::pg::{Cluster, Installation};
use crate::scratch::Scratch;
use crate::site::SERVER;
use crate::skip::Missing;
use crate::user;

/// The name of the machine.
pub const INSTANCE: &str = "pg1";
/// The name of the disk with the data directory.
pub const DATA_DISK: &str = "pg-data";
/// The name of the disk with the tablespace.
pub const TS_DISK: &str = "pg-ts";

/// The name of the tablespace.
pub const TABLESPACE: &str = "ts";

/// The directory of the data on its disk, and of the tablespace on the other.
const PLACES: [&str; 2] = ["data", "ts"];

/// A file system on a disk of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestFs {
    /// ext4.
    Ext4,
    /// XFS. A copy is mounted with `nouuid`, for it has the identity of the original.
    Xfs,
}

impl GuestFs {
    fn make(self, device: &Path) {
        let mut command = Command::new(match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        });
        run(command.arg("-q").arg(device));
    }

    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "rw",
            Self::Xfs => "rw,nouuid",
        }
    }
}

/// A mounted disk, unmounted when this is dropped.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    device: PathBuf,
}

impl Mounted {
    /// Mounts the device at a new directory.
    #[track_caller]
    pub fn new(fs: GuestFs, device: &Path, point: &Path) -> Self {
        user::make_dir(point);
        run(Command::new("mount").args(["-o", fs.options()]).arg(device).arg(point));
        Self { point: point.to_owned(), device: device.to_owned() }
    }

    /// Where.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// From which device, as it was named to `mount`.
    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !attempt(Command::new("umount").arg(&self.point)).success() {
            // A test that panics may still have a server there.
            attempt(Command::new("umount").arg("-l").arg(&self.point));
        }
    }
}

/// How a new [`CloudSite`] shall look.
#[derive(Clone, Debug)]
#[must_use]
pub struct Plan {
    cloud: Cloud,
    installation: Installation,
    fs: GuestFs,
    size_gib: u32,
    archiving: bool,
    segment_mib: Option<u32>,
    instance: Value,
    disks: Value,
    for_stock: bool,
    settings: Vec<(String, String)>,
}

impl Plan {
    /// With this file system on both disks, instead of ext4.
    pub fn on(mut self, fs: GuestFs) -> Self {
        self.fs = fs;
        self
    }

    /// Size of each disk, instead of 4 GiB. It costs nothing.
    pub fn size_gib(mut self, size: u32) -> Self {
        self.size_gib = size;
        self
    }

    /// Without an archiver.
    pub fn without_archiving(mut self) -> Self {
        self.archiving = false;
        self
    }

    /// With WAL segments of this size, instead of 16 MiB.
    pub fn segment_mib(mut self, size: u32) -> Self {
        self.segment_mib = Some(size);
        self
    }

    /// What only one cloud knows of a machine: `json!({"instance_type": "m5.large"})`.
    pub fn instance(mut self, more: Value) -> Self {
        self.instance = more;
        self
    }

    /// What only one cloud knows of a disk, for both: `json!({"consistency_group": "pg"})`.
    pub fn disks(mut self, more: Value) -> Self {
        self.disks = more;
        self
    }

    /// So that a [`Peer`](super::Peer) finds the cloud and the disks.
    pub fn for_stock(mut self) -> Self {
        self.for_stock = true;
        self
    }

    /// Adds a line to `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes it, in a cloud of its own.
    pub fn start(self) -> Result<CloudSite, Missing> {
        let snap = BarmanSnap::found()?;
        let set =
            if self.for_stock { CloudSet::start_for_stock(&[self.cloud]) } else { CloudSet::start(&[self.cloud]) }?;
        let api = set.of(self.cloud).clone();
        let place = Scratch::new();
        api.create_instance(INSTANCE, &self.instance);
        let disk = |name: &str, number: usize| {
            api.create_disk(name, self.size_gib, &self.disks);
            let wanted = device_name(self.cloud, number, self.for_stock);
            let device = api.attach_as(INSTANCE, name, &wanted).paths.swap_remove(0);
            self.fs.make(&device);
            Mounted::new(self.fs, &device, &place.path().join(name))
        };
        let mounts = vec![disk(DATA_DISK, 0), disk(TS_DISK, 1)];
        for mounted in &mounts {
            user::give(mounted.point());
        }
        let mut builder = Cluster::builder(&self.installation)
            .data(mounts[0].point().join(PLACES[0]))
            .tablespace(TABLESPACE, mounts[1].point().join(PLACES[1]))
            .env(api.env().to_vec());
        if self.archiving {
            let command = format!("{} wal-archive {} {SERVER} %p", snap.path().display(), api.catalog());
            builder = builder.archive_command(&command);
        }
        if let Some(size) = self.segment_mib {
            builder = builder.segment_mib(size);
        }
        for (name, value) in &self.settings {
            builder = builder.setting(name, value);
        }
        let cluster = builder.start();
        // The disks forget what was not flushed, as real ones do. That somebody has made the directory of a tablespace is
        // taken for long ago: PostgreSQL flushes what it makes, not what it finds.
        for mounted in &mounts {
            run(Command::new("sync").arg("--file-system").arg(mounted.point()));
        }
        let snap = snap.with_env(api.env().to_vec()).for_cluster(&cluster);
        Ok(CloudSite { cluster, snap, mounts, fs: self.fs, api, for_stock: self.for_stock, place, set })
    }
}

/// See the [module documentation](self). The fields are dropped in this order: the server before its file systems, those
/// before their disks.
#[derive(Debug)]
pub struct CloudSite {
    /// The cluster.
    pub cluster: Cluster,
    /// The command line.
    pub snap: BarmanSnap,
    /// Where the disks are mounted: the one with the data directory, and the one with the tablespace.
    pub mounts: Vec<Mounted>,
    /// The file system of the disks.
    pub fs: GuestFs,
    /// The cloud.
    pub api: Api,
    for_stock: bool,
    place: Scratch,
    set: CloudSet,
}

impl CloudSite {
    /// How a new one shall look.
    pub fn plan(cloud: Cloud, installation: &Installation) -> Plan {
        Plan {
            cloud,
            installation: installation.clone(),
            fs: GuestFs::Ext4,
            size_gib: 4,
            archiving: true,
            segment_mib: None,
            instance: json!({}),
            disks: json!({}),
            for_stock: false,
            settings: Vec::new(),
        }
    }

    /// A directory beside everything, which vanishes with it.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The set that has the cloud.
    pub fn set(&self) -> &CloudSet {
        &self.set
    }

    /// The options by which our program finds the cloud, beside the environment.
    pub fn options(&self) -> Vec<String> {
        let api = self.api.endpoint();
        let options = match self.api.cloud() {
            Cloud::Aws => vec!["aws"],
            Cloud::Gcp => vec!["gcp", "--gcp-project", "proj-1", "--gcp-zone", "europe-west1-b"],
            Cloud::Azure => {
                let subscription = "00000000-1111-2222-3333-444444444444";
                let scope = ["--azure-subscription-id", subscription, "--azure-resource-group", "rg1"];
                [["azure", "--azure-endpoint", api].as_slice(), &scope].concat()
            }
        };
        std::iter::once("--snapshot-provider").chain(options).map(str::to_owned).collect()
    }

    /// The arguments `COMMAND URL SERVER REST…`.
    pub fn args(&self, command: &str, rest: &[&str]) -> Vec<String> {
        [command, self.api.catalog(), SERVER].iter().chain(rest).map(|&word| word.to_owned()).collect()
    }

    /// Those, and behind them what is needed to find the cloud.
    pub fn cloud_args(&self, command: &str, rest: &[&str]) -> Vec<String> {
        [self.args(command, rest), self.options()].concat()
    }

    /// Runs a command of ours on the catalog to its end, whatever that is.
    pub fn run(&self, command: &str, rest: &[&str]) -> Ran {
        self.snap.run(self.args(command, rest))
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub fn ok(&self, command: &str, rest: &[&str]) -> Ran {
        self.run(command, rest).expect_success()
    }

    /// Like [`run`](Self::run), on the disks and snapshots of the cloud.
    pub fn run_in_cloud(&self, command: &str, rest: &[&str]) -> Ran {
        self.snap.run(self.cloud_args(command, rest))
    }

    /// Like [`ok`](Self::ok), on the disks and snapshots of the cloud.
    #[track_caller]
    pub fn ok_in_cloud(&self, command: &str, rest: &[&str]) -> Ran {
        self.run_in_cloud(command, rest).expect_success()
    }

    /// Like [`ok_in_cloud`](Self::ok_in_cloud), by a user who may mount.
    #[track_caller]
    pub fn mounting(&self, command: &str, rest: &[&str]) -> Ran {
        run(&mut self.snap.command_that_mounts(self.cloud_args(command, rest)))
    }

    /// Takes a backup of the machine with an immediate checkpoint; gives its id.
    #[track_caller]
    pub fn backup(&self, rest: &[&str]) -> String {
        let instance = ["--immediate-checkpoint", "--snapshot-instance", INSTANCE];
        self.ok_in_cloud("backup", &[&instance, rest].concat()).text().to_owned()
    }

    /// Runs a command with `--format json` that has to succeed, and reads its answer.
    #[track_caller]
    pub fn json(&self, command: &str, rest: &[&str]) -> Value {
        parsed(&self.ok(command, &[rest, &["--format", "json"]].concat()))
    }

    /// Where the data directory and the tablespace are when their disks are mounted below `place`.
    pub fn places(place: &Path) -> [PathBuf; 2] {
        [place.join(DATA_DISK).join(PLACES[0]), place.join(TS_DISK).join(PLACES[1])]
    }

    /// The cluster of a restored directory, with what its restore_command needs. It archives nothing.
    pub fn adopt(&self, target: &Path) -> Cluster {
        let mut cluster = Cluster::adopt(self.cluster.installation(), target);
        cluster.set_env(self.api.env().to_vec());
        cluster
    }

    /// The names of the snapshots that there are, sorted.
    pub fn snapshots(&self) -> Vec<String> {
        let mut names: Vec<_> = self.api.world().snapshots.into_iter().map(|snapshot| snapshot.name).collect();
        names.sort();
        names
    }

    /// The name of the snapshot of a disk that nobody has named: on AWS such a disk goes by its id.
    #[track_caller]
    pub fn snapshot_name(&self, disk: &str, backup_id: &str) -> String {
        let disks = self.api.world().disks;
        let found = disks.into_iter().find(|one| one.name == disk).unwrap_or_else(|| panic!("there is no disk {disk}"));
        let volume = if self.api.cloud() == Cloud::Aws { &found.id } else { &found.name };
        format!("{volume}-{}", backup_id.to_lowercase())
    }

    /// The ids of the disks that there are, sorted.
    pub fn disks(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.api.world().disks.into_iter().map(|disk| disk.id).collect();
        ids.sort();
        ids
    }

    /// The machine crashes and its disks are lost: the server is killed, what it had not flushed is gone, and so is every
    /// byte that is not in a snapshot.
    pub fn lose_everything(&mut self) {
        self.cluster.kill();
        self.mounts.clear();
        for disk in [DATA_DISK, TS_DISK] {
            self.api.destroy(disk);
        }
    }

    /// Attaches a disk and mounts it where the disk `instead_of` was.
    #[track_caller]
    pub fn mount(&mut self, disk: &str, instead_of: &str) {
        let wanted = device_name(self.api.cloud(), self.mounts.len(), self.for_stock);
        let device = self.api.attach_as(INSTANCE, disk, &wanted).paths.swap_remove(0);
        self.mounts.push(Mounted::new(self.fs, &device, &self.place.path().join(instead_of)));
    }
}

/// The name to attach a disk under; null for a free one. Stock Barman finds a disk on Xen only when the API calls it as the
/// kernel does.
fn device_name(cloud: Cloud, number: usize, for_stock: bool) -> Value {
    if for_stock && cloud == Cloud::Aws { json!(["/dev/xvdf", "/dev/xvdg"][number]) } else { Value::Null }
}

/// The JSON on the standard output.
#[track_caller]
pub fn parsed(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{}: {error}: {}", ran.line, ran.stdout))
}
