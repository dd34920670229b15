//! The snapshots of a backup: Barman's `snapshots_info` (clouds) and our own record inside `copy_stats`.

use serde::{Deserialize, Serialize};

use crate::id::Token;
use crate::provider::Ticket;

/// One snapshot of a backup, as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The snapshot, as its provider knows it.
    pub ticket: Ticket,
    /// Where its volume was mounted.
    pub mount_point: String,
    /// The mount options, as `findmnt -o OPTIONS` prints them.
    pub mount_options: String,
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
    /// Configuration files that lie outside the data directory: path and content, for a restore that needs them.
    #[serde(default)]
    pub config_files: std::collections::BTreeMap<String, String>,
}
