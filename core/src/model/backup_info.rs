//! `backup.info`, Barman's metadata file.

use chrono::{DateTime, FixedOffset};

use super::literal::Literal;
use super::wal::{Lsn, SegmentSize, Timeline};

/// What a backup has come to (the statuses of Barman).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackupStatus {
    /// Created, nothing done yet.
    #[default]
    Empty,
    /// Running, or its process died.
    Started,
    /// Copied, some of its WAL is not archived yet.
    WaitingForWals,
    /// Complete: it can be restored.
    Done,
    /// Failed for good.
    Failed,
    /// Being copied by a passive node.
    Syncing,
}

/// A tablespace as it lay at the time of the backup.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tablespace {
    /// Its name.
    pub name: String,
    /// Its oid, the name of the link in `pg_tblspc`.
    pub oid: u32,
    /// The directory that the link pointed to.
    pub location: String,
}

/// The metadata of one backup: every field of Barman 3.19.1, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Default)]
#[allow(missing_docs, reason = "the table in docs/format/backup_info.md describes each field")]
pub struct BackupInfo {
    pub backup_label: Option<String>,
    pub backup_name: Option<String>,
    pub begin_offset: Option<u64>,
    pub begin_time: Option<DateTime<FixedOffset>>,
    pub begin_wal: Option<String>,
    pub begin_xlog: Option<Lsn>,
    pub children_backup_ids: Option<Vec<String>>,
    pub cluster_size: Option<u64>,
    pub compression: Option<String>,
    pub config_file: Option<String>,
    pub copy_stats: Option<Literal>,
    pub data_checksums: Option<String>,
    pub deduplicated_size: Option<u64>,
    pub encryption: Option<String>,
    pub end_offset: Option<u64>,
    pub end_time: Option<DateTime<FixedOffset>>,
    pub end_wal: Option<String>,
    pub end_xlog: Option<Lsn>,
    pub error: Option<String>,
    pub hba_file: Option<String>,
    pub ident_file: Option<String>,
    pub included_files: Option<Vec<String>>,
    pub mode: Option<String>,
    pub parent_backup_id: Option<String>,
    pub pgdata: Option<String>,
    pub server_name: Option<String>,
    pub size: Option<u64>,
    pub snapshots_info: Option<Literal>,
    pub status: BackupStatus,
    pub summarize_wal: Option<String>,
    pub systemid: Option<String>,
    pub tablespaces: Option<Vec<Tablespace>>,
    pub timeline: Option<Timeline>,
    pub version: Option<u32>,
    pub xlog_segment_size: Option<SegmentSize>,
}
