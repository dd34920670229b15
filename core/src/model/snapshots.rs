//! The snapshots of a backup: Barman's `snapshots_info` (clouds) and our own record inside `copy_stats`.
//!
//! [`CloudSnapshots`] is what stock tools read in order to restore and to delete; it exists for the three clouds that
//! Barman knows and holds nothing of ours. [`EngineRecord`] is what this engine needs, for every provider. The two never
//! depend on each other: a backup that stock Barman made has only the first, a local one only the second.

use serde::{Deserialize, Serialize};

use super::excluded::ExcludedTablespace;
use super::literal::Literal;
use super::saved_config::{SavedConfigRef, SavedFile};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Token;
use crate::provider::{FileSystem, Ticket};

/// One snapshot of a backup, as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The snapshot, as its provider knows it.
    pub ticket: Ticket,
    /// Where its volume was mounted.
    pub mount_point: String,
    /// The mount options, as `findmnt -o OPTIONS` prints them.
    pub mount_options: String,
    /// The file systems on the volume, see [`Volume::file_systems`](crate::provider::Volume::file_systems).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_systems: Vec<FileSystem>,
}

/// What this engine keeps about a backup beside Barman's fields: the value of the key `barman_snap` inside `copy_stats`,
/// a place that every stock reader keeps and none reads (barman.md 3.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// The version of this record, now 1. A reader refuses a higher one.
    pub version: u32,
    /// The provider: `local`, `aws`, `gcp`, `azure`.
    pub provider: String,
    /// The token of the session that made the backup; all its snapshots carry it.
    pub token: Token,
    /// The snapshots.
    pub snapshots: Vec<SnapshotRecord>,
    /// The tablespace map that `pg_backup_stop` returned, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace_map: Option<String>,
    /// True if the WAL is kept by another tool, by the user's word; then the catalog has none of it.
    #[serde(default)]
    pub wal_external: bool,
    /// True if the backup was taken from a standby.
    #[serde(default)]
    pub from_standby: bool,
    /// Settings that a restored server must have at least as high as the original (`max_connections` and so on).
    #[serde(default)]
    pub settings: std::collections::BTreeMap<String, String>,
    /// Configuration files outside the data directory, path and content, where an older version has written the backup. They
    /// may hold passwords: nothing writes them here any more, and nothing shows them.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub config_files: std::collections::BTreeMap<String, String>,
    /// Where the configuration files outside the data directory are: in a private object beside `backup.info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_config: Option<SavedConfigRef>,
    /// The files of that object, for who has read it. Never stored here.
    #[serde(skip)]
    pub saved_files: Vec<SavedFile>,
    /// Paths of the cluster that PostgreSQL names by way of a link, and where they really were: volumes are known by real
    /// paths, and the link may not exist, or lead elsewhere, where the backup is restored.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub real_paths: std::collections::BTreeMap<String, String>,
    /// Tablespaces that were left out, and come back empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_tablespaces: Vec<ExcludedTablespace>,
    /// Bytes that had to be copied to make the snapshots, where the provider tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_copied: Option<u64>,
    /// How long things took, in seconds: `backup_mode_s`, `cut_s`.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub timings: std::collections::BTreeMap<String, f64>,
}

impl EngineRecord {
    /// The key in `copy_stats`.
    pub const KEY: &'static str = "barman_snap";
    /// The version that is written, and the highest that is read.
    pub const VERSION: u32 = 1;

    /// A record without snapshots.
    pub fn new(provider: impl Into<String>, token: Token) -> Self {
        Self {
            version: Self::VERSION,
            provider: provider.into(),
            token,
            snapshots: Vec::new(),
            tablespace_map: None,
            wal_external: false,
            from_standby: false,
            settings: Default::default(),
            config_files: Default::default(),
            saved_config: None,
            saved_files: Vec::new(),
            real_paths: Default::default(),
            excluded_tablespaces: Vec::new(),
            bytes_copied: None,
            timings: Default::default(),
        }
    }

    /// Whether the tablespace with this oid was left out.
    pub fn leaves_out(&self, oid: u32) -> bool {
        self.excluded_tablespaces.iter().any(|one| one.oid == oid)
    }

    /// Reads the value of the key. Members that this version does not know are ignored.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) for a higher version, [`Corrupt`](ErrorKind::Corrupt) for a record that
    /// cannot be understood.
    pub fn from_literal(literal: &Literal) -> Result<Self> {
        let version = literal.get("version").and_then(Literal::as_int);
        match version {
            Some(version) if version > i128::from(Self::VERSION) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the engine record of this backup has version {version}, known is {}", Self::VERSION),
                )
                .with_hint("a later barman-snap made this backup; use that version or a later one"));
            }
            Some(1..) => {}
            _ => return Err(Error::corrupt("the engine record of this backup has no version")),
        }
        serde_json::from_value(literal.into())
            .map_err(|cause| Error::corrupt("the engine record of this backup cannot be read").with_source(cause))
    }

    /// The value of the key.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a path that is not UTF-8.
    pub fn to_literal(&self) -> Result<Literal> {
        serde_json::to_value(self)
            .map(Literal::from)
            .map_err(|cause| Error::invalid("the engine record of this backup cannot be stored").with_source(cause))
    }
}

/// The field `snapshots_info`. Absent members read as nothing and are written as `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudSnapshots {
    /// The cloud, and where in it the snapshots are.
    pub provider_info: ProviderInfo,
    /// The snapshots, of the same cloud.
    pub snapshots: Vec<CloudSnapshot>,
}

/// The members `provider` and `provider_info` of `snapshots_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the members are named as the clouds name them")]
pub enum ProviderInfo {
    /// Amazon Web Services.
    Aws { account_id: Option<String>, region: Option<String> },
    /// Google Cloud.
    Gcp { project: Option<String> },
    /// Microsoft Azure.
    Azure { subscription_id: Option<String>, resource_group: Option<String> },
}

/// One entry of `snapshots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudSnapshot {
    /// The mount options, as `findmnt -o OPTIONS` prints them; stock compares them when it restores.
    pub mount_options: Option<String>,
    /// Where the volume was mounted.
    pub mount_point: Option<String>,
    /// What the cloud calls it.
    pub details: SnapshotDetails,
}

/// The member `provider` of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the members are named as the clouds name them")]
pub enum SnapshotDetails {
    /// An EBS snapshot; `snapshot_name` is its `Name` tag. The lock mode came with Barman 3.12.
    Aws {
        device_name: Option<String>,
        snapshot_id: Option<String>,
        snapshot_name: Option<String>,
        snapshot_lock_mode: Option<String>,
    },
    /// A disk snapshot; the device name is the short one.
    Gcp { device_name: Option<String>, snapshot_name: Option<String>, snapshot_project: Option<String> },
    /// A managed snapshot; the LUN is a number, read also from text.
    Azure { location: Option<String>, lun: Option<u32>, snapshot_name: Option<String> },
}

impl ProviderInfo {
    /// The name in `provider`: `aws`, `gcp` or `azure`.
    pub const fn provider(&self) -> &'static str {
        match self {
            Self::Aws { .. } => "aws",
            Self::Gcp { .. } => "gcp",
            Self::Azure { .. } => "azure",
        }
    }

    fn to_literal(&self) -> Literal {
        match self {
            Self::Aws { account_id, region } => {
                Literal::dict([("account_id", account_id.clone().into()), ("region", region.clone().into())])
            }
            Self::Gcp { project } => Literal::dict([("project", project.clone().into())]),
            Self::Azure { subscription_id, resource_group } => Literal::dict([
                ("subscription_id", subscription_id.clone().into()),
                ("resource_group", resource_group.clone().into()),
            ]),
        }
    }
}

impl SnapshotDetails {
    /// What identifies the snapshot towards its cloud: the id on AWS, the name elsewhere.
    pub fn identifier(&self) -> Option<&str> {
        match self {
            Self::Aws { snapshot_id, .. } => snapshot_id.as_deref(),
            Self::Gcp { snapshot_name, .. } | Self::Azure { snapshot_name, .. } => snapshot_name.as_deref(),
        }
    }

    fn to_literal(&self) -> Literal {
        match self {
            Self::Aws { device_name, snapshot_id, snapshot_name, snapshot_lock_mode } => Literal::dict([
                ("device_name", device_name.clone().into()),
                ("snapshot_id", snapshot_id.clone().into()),
                ("snapshot_name", snapshot_name.clone().into()),
                ("snapshot_lock_mode", snapshot_lock_mode.clone().into()),
            ]),
            Self::Gcp { device_name, snapshot_name, snapshot_project } => Literal::dict([
                ("device_name", device_name.clone().into()),
                ("snapshot_name", snapshot_name.clone().into()),
                ("snapshot_project", snapshot_project.clone().into()),
            ]),
            Self::Azure { location, lun, snapshot_name } => Literal::dict([
                ("location", location.clone().into()),
                ("lun", (*lun).into()),
                ("snapshot_name", snapshot_name.clone().into()),
            ]),
        }
    }
}

impl CloudSnapshots {
    /// Reads the field as stock does: `provider` and `snapshots` must be there, all else may be missing, and members
    /// that are not known are ignored.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    pub fn from_literal(literal: &Literal) -> Result<Self> {
        let bad = |what: String| Error::corrupt(format!("snapshots_info of this backup {what}"));
        let provider =
            literal.get("provider").and_then(Literal::as_str).ok_or_else(|| bad("names no provider".to_owned()))?;
        let info = Members(literal.get("provider_info"));
        let provider_info = match provider {
            "aws" => ProviderInfo::Aws { account_id: info.text("account_id"), region: info.text("region") },
            "gcp" => ProviderInfo::Gcp { project: info.text("project") },
            "azure" => ProviderInfo::Azure {
                subscription_id: info.text("subscription_id"),
                resource_group: info.text("resource_group"),
            },
            other => return Err(bad(format!("names a provider that stock does not know: {other:?}"))),
        };
        let list = literal
            .get("snapshots")
            .and_then(Literal::as_list)
            .ok_or_else(|| bad("has no list of snapshots".to_owned()))?;
        let snapshots = list.iter().map(|entry| CloudSnapshot::read(&provider_info, entry)).collect();
        Ok(Self { provider_info, snapshots })
    }

    /// The field, in the order of members in which stock writes it.
    pub fn to_literal(&self) -> Literal {
        let snapshot = |snapshot: &CloudSnapshot| {
            let mount = Literal::dict([
                ("mount_options", snapshot.mount_options.clone().into()),
                ("mount_point", snapshot.mount_point.clone().into()),
            ]);
            Literal::dict([("mount", mount), ("provider", snapshot.details.to_literal())])
        };
        Literal::dict([
            ("provider", self.provider_info.provider().into()),
            ("provider_info", self.provider_info.to_literal()),
            ("snapshots", Literal::List(self.snapshots.iter().map(snapshot).collect())),
        ])
    }
}

impl CloudSnapshot {
    fn read(cloud: &ProviderInfo, entry: &Literal) -> Self {
        let mount = Members(entry.get("mount"));
        let own = Members(entry.get("provider"));
        let details = match cloud {
            ProviderInfo::Aws { .. } => SnapshotDetails::Aws {
                device_name: own.text("device_name"),
                snapshot_id: own.text("snapshot_id"),
                snapshot_name: own.text("snapshot_name"),
                snapshot_lock_mode: own.text("snapshot_lock_mode"),
            },
            ProviderInfo::Gcp { .. } => SnapshotDetails::Gcp {
                device_name: own.text("device_name"),
                snapshot_name: own.text("snapshot_name"),
                snapshot_project: own.text("snapshot_project"),
            },
            ProviderInfo::Azure { .. } => SnapshotDetails::Azure {
                location: own.text("location"),
                lun: own.text("lun").and_then(|lun| lun.parse().ok()),
                snapshot_name: own.text("snapshot_name"),
            },
        };
        Self { mount_options: mount.text("mount_options"), mount_point: mount.text("mount_point"), details }
    }
}

/// The members of a dict that may be missing.
struct Members<'a>(Option<&'a Literal>);

impl Members<'_> {
    /// The member as text; a number as its digits, because account ids and LUNs were seen both ways.
    fn text(&self, key: &str) -> Option<String> {
        match self.0?.get(key)? {
            Literal::Str(text) => Some(text.clone()),
            Literal::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }
}
