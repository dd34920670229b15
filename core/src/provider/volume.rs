//! Volumes: what a snapshot is taken of, and what is made of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::host::devices::DeviceHint;
use crate::id::Token;

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
    /// What the provider wants to remember. All that a later process needs to look for snapshots of this volume (region,
    /// project, resource group) is here.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// The file systems on it, where a volume is a disk; the first is the one of `root`. Empty for a local directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_systems: Vec<FileSystem>,
}

/// A file system on a disk, at one of the places where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Where on the disk it lies: empty for the whole disk, `1` for its first partition, `lvm:VG/LV`, `md:NAME`,
    /// `crypt:NAME` for what can only be reached through another layer.
    #[serde(default)]
    pub part: String,
    /// `ext4`, `xfs`, `btrfs`, …
    pub fs_type: String,
    /// Its UUID, where the host tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The directory of the file system that is mounted there: `/`, or more for bind mounts and btrfs subvolumes.
    pub fs_root: PathBuf,
    /// The mount options, as `findmnt -o OPTIONS` prints them.
    pub options: String,
    /// Other disks (by [`Volume::id`]) on which a part of the same file system lies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_with: Vec<String>,
}

/// One volume of a [`CreateRequest`](super::CreateRequest) and the name its snapshot shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// The volume.
    pub volume: Volume,
    /// The name of the snapshot, valid for the provider, minted before the backup started.
    pub name: String,
}

/// What a volume will be like that is made of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Kind and performance, for people; empty where there is nothing to say.
    pub like: String,
    /// What the original had and the new volume will not have, a line for each.
    pub lost: Vec<String>,
}

/// A volume made from a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredVolume {
    /// The volume as its provider knows it; for the local provider the directory.
    pub id: String,
    /// The directory with the content, once it is reachable on this host.
    pub path: Option<PathBuf>,
    /// Where its device shows on the host, once it is attached; for providers that restore to devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<DeviceHint>,
    /// What the provider wants to remember (zone, resource group, device name, …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Bytes that were copied, where the provider tells.
    pub bytes_copied: Option<u64>,
}

impl RestoredVolume {
    /// The attribute with the token of the restore that the volume was made for. A provider that restores to devices gives
    /// it in all that it returns, so that a volume whose `create_volume` got no reply can be found and told from others.
    pub const TOKEN: &'static str = "token";

    /// The attribute with the time at which the volume was made; in what
    /// [`list_volumes`](super::SnapshotProvider::list_volumes) gives. Written by [`born`](Self::born).
    pub const CREATED: &'static str = "created";

    /// The attribute of a volume that was attached to something at any time, in what
    /// [`list_volumes`](super::SnapshotProvider::list_volumes) gives. A server may have run on it since, so it is never
    /// garbage.
    pub const USED: &'static str = "used";

    /// This volume with the time at which it was made, and whether it was ever attached.
    #[must_use]
    pub fn born(mut self, created: Option<DateTime<Utc>>, used: bool) -> Self {
        let created = created.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true));
        self.attributes.extend(created.map(|time| (Self::CREATED.to_owned(), time)));
        self.attributes.extend(used.then(|| (Self::USED.to_owned(), "true".to_owned())));
        self
    }

    /// When it was made, if it is known.
    pub fn created(&self) -> Option<DateTime<Utc>> {
        self.attributes.get(Self::CREATED)?.parse().ok()
    }

    /// True if it was attached to something at any time.
    pub fn was_used(&self) -> bool {
        self.attributes.contains_key(Self::USED)
    }

    /// True if it was made for the restore with this token.
    pub fn carries(&self, token: &Token) -> bool {
        self.attributes.get(Self::TOKEN).is_some_and(|found| found == token.as_str())
    }
}
