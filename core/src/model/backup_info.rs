//! `backup.info`, Barman's metadata file: one `key=value` per line, structured values as Python literals.
//!
//! * Reading is lenient: missing fields, old forms and unknown keys do not make a backup unreadable. Unknown keys are
//!   reported, because they stop every stock reader of the whole server.
//! * Writing is exact: the fields of Barman 3.19.1 and no other, alphabetically, to the byte as Barman writes them. What
//!   a reader would not get back is refused before anything is written.
//! * What this engine has to say beside these fields lies in `copy_stats` under the key
//!   [`EngineRecord::KEY`], which stock tools keep and do not look at.
//!
//! The specification is `docs/format/backup_info.md`.

mod read;
mod write;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, Local, TimeZone};

use super::literal::Literal;
use super::snapshots::{CloudSnapshots, EngineRecord};
use super::wal::{Lsn, SegmentSize, Timeline};
use crate::error::{Error, Result};

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

impl BackupStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Empty, Self::Started, Self::WaitingForWals, Self::Done, Self::Failed, Self::Syncing];

    /// The word in the file, in upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::Started => "STARTED",
            Self::WaitingForWals => "WAITING_FOR_WALS",
            Self::Done => "DONE",
            Self::Failed => "FAILED",
            Self::Syncing => "SYNCING",
        }
    }

    /// True if all data was copied: Barman's "finished" backups, done or waiting for WAL.
    pub const fn is_copied(self) -> bool {
        matches!(self, Self::WaitingForWals | Self::Done)
    }
}

impl fmt::Display for BackupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BackupStatus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| Error::corrupt(format!("not the status of a backup: {text:?}")))
    }
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

/// What [`BackupInfo::parse`] found in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedBackupInfo {
    /// The fields.
    pub info: BackupInfo,
    /// The id that the file itself names, which no current Barman writes. It overrides that of the place of the file.
    pub backup_id: Option<String>,
    /// What a person should know: one line each, ready to be shown.
    pub warnings: Vec<String>,
}

impl BackupInfo {
    /// Reads a file; times without a zone are local times of this host, as stock reads them.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), with the number of the line.
    pub fn parse(text: &str) -> Result<ParsedBackupInfo> {
        Self::parse_in(text, &Local)
    }

    /// Reads a file; times without a zone are local times of `zone`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_in<Z: TimeZone>(text: &str, zone: &Z) -> Result<ParsedBackupInfo> {
        read::read(text, zone)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and for bytes that are not UTF-8.
    pub fn parse_bytes(bytes: &[u8]) -> Result<ParsedBackupInfo> {
        let text = std::str::from_utf8(bytes).map_err(|cause| {
            Error::corrupt(format!("backup.info is not UTF-8 from byte {} on", cause.valid_up_to())).with_source(cause)
        })?;
        Self::parse(text)
    }

    /// The file.
    ///
    /// The field `error` is bent into one line; every other text has to fit as it is.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a value that a reader would not get back; it names the field.
    pub fn to_text(&self) -> Result<String> {
        write::write(self)
    }

    /// Checks a text before it is needed: whether the raw field `field` (a name, a path) can hold it.
    ///
    /// # Errors
    /// As [`to_text`](Self::to_text) would fail.
    pub fn check_text(field: &'static str, text: &str) -> Result<()> {
        write::check_raw(field, text)
    }

    /// The `tablespaces` field as the literal that is written.
    pub(super) fn tablespaces_literal(&self) -> Option<Literal> {
        write::tablespaces(self)
    }

    /// The snapshots of a cloud, if this is a snapshot backup that stock Barman can handle.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where stock holds the backup for unreadable: `provider` or `snapshots` is
    /// missing or unknown.
    pub fn snapshots(&self) -> Result<Option<CloudSnapshots>> {
        self.snapshots_info.as_ref().map(CloudSnapshots::from_literal).transpose()
    }

    /// What this engine keeps about the backup; nothing if another tool made it.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if a later version wrote it,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot be understood.
    pub fn engine_record(&self) -> Result<Option<EngineRecord>> {
        let record = self.copy_stats.as_ref().and_then(|stats| stats.get(EngineRecord::KEY));
        record.map(EngineRecord::from_literal).transpose()
    }

    /// Puts the record of this engine into `copy_stats`; everything else in there stays.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a path that is not UTF-8.
    pub fn set_engine_record(&mut self, record: &EngineRecord) -> Result<()> {
        let literal = record.to_literal()?;
        self.copy_stats_mut().insert(EngineRecord::KEY, literal)
    }

    /// Seconds that the copy or the cut took.
    pub fn copy_time(&self) -> Option<f64> {
        self.copy_stats.as_ref()?.get("copy_time")?.as_float()
    }

    /// Seconds that the whole backup took.
    pub fn total_time(&self) -> Option<f64> {
        self.copy_stats.as_ref()?.get("total_time")?.as_float()
    }

    /// Sets `copy_time` and `total_time`, in seconds.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a number that is not finite.
    pub fn set_copy_times(&mut self, copy: f64, total: f64) -> Result<()> {
        for number in [copy, total] {
            Literal::Float(number).check_storable()?;
        }
        let stats = self.copy_stats_mut();
        stats.insert("copy_time", copy)?;
        stats.insert("total_time", total)
    }

    /// `copy_stats`, made a dict if it is none.
    pub(crate) fn copy_stats_mut(&mut self) -> &mut Literal {
        let stats = self.copy_stats.get_or_insert(Literal::None);
        if stats.as_dict().is_none() {
            *stats = Literal::Dict(Vec::new());
        }
        stats
    }
}
