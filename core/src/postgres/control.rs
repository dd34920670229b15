//! The contract between the engine and a running PostgreSQL.
//!
//! PostgreSQL ends a backup when the connection that started it goes away (PostgreSQL manual, "Making a Base Backup Using
//! the Low Level API"). Therefore nothing on this side ever needs undoing: dropping the control is enough.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::{Lsn, SegmentSize, Tablespace, Timeline};

/// What the engine wants to know of a server before it does anything. Fetching it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `server_version_num`, for example 170011.
    pub version: u32,
    /// The system identifier from `pg_control_system()`.
    pub system_id: String,
    /// True on a standby (`pg_is_in_recovery()`).
    pub in_recovery: bool,
    /// `data_directory`.
    pub data_directory: PathBuf,
    /// `config_file`, `hba_file`, `ident_file`.
    pub config_file: Option<String>,
    /// `hba_file`.
    pub hba_file: Option<String>,
    /// `ident_file`.
    pub ident_file: Option<String>,
    /// Other files that settings come from.
    pub included_files: Vec<String>,
    /// Tablespaces with a location of their own.
    pub tablespaces: Vec<Tablespace>,
    /// `wal_segment_size` in bytes.
    pub segment_size: SegmentSize,
    /// `data_checksums`: `on` or `off`.
    pub data_checksums: String,
    /// `summarize_wal`, from PostgreSQL 17 on.
    pub summarize_wal: Option<String>,
    /// `archive_mode`: `off`, `on`, `always`.
    pub archive_mode: String,
    /// `archive_command` without secrets, or the name of `archive_library`; empty when neither is set or may be read.
    pub archive_command: String,
    /// Sum of the sizes of all tablespaces, where the privileges allow it.
    pub cluster_size: Option<u64>,
    /// `max_connections`, `max_worker_processes`, `max_wal_senders`, `max_prepared_transactions`,
    /// `max_locks_per_transaction`: a server restored in archive recovery needs at least these values.
    pub settings: BTreeMap<String, String>,
    /// The time of the server.
    pub now: DateTime<FixedOffset>,
}

/// Which server answers, and which of its processes. Told by the connection; the files of a data directory are held against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerIdentity {
    /// Where it was reached, for people: `host db1 port 5432`.
    pub reached: String,
    /// The system identifier. A standby has that of its primary.
    pub system_id: String,
    /// When the server was started (`pg_postmaster_start_time()`), to the microsecond: no two servers have the same.
    pub started: DateTime<FixedOffset>,
    /// Its port.
    pub port: u16,
    /// True on a standby.
    pub in_recovery: bool,
    /// The process that answers this connection (`pg_backend_pid()`), by its number in the process table of the server.
    pub backend: i64,
}

/// A file that the server has made in its data directory because it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// A line that stands in it.
    pub line: String,
}

/// What the archiver of a server has done so far: `pg_stat_archiver`. Counters may have been reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiverState {
    /// The file that was archived last, and when.
    pub last_archived: Option<(String, DateTime<FixedOffset>)>,
    /// The file that failed last, and when.
    pub last_failed: Option<(String, DateTime<FixedOffset>)>,
    /// How many attempts have failed.
    pub failed_count: u64,
    /// When the settings were loaded that hold now (`pg_conf_load_time()`): what was archived before may have gone elsewhere.
    pub settings_since: Option<DateTime<FixedOffset>>,
}

impl ArchiverState {
    /// The file that was archived last, if that was with the settings that hold now.
    pub fn archived_now(&self) -> Option<&str> {
        let (file, time) = self.last_archived.as_ref()?;
        self.settings_since.is_none_or(|since| *time >= since).then_some(file.as_str())
    }
}

/// What a tablespace is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceUse {
    /// Its name.
    pub name: String,
    /// The databases whose default it is: their catalogs lie in it.
    pub default_of: Vec<String>,
    /// The databases that have something in it, where that was asked.
    pub databases: Vec<String>,
}

/// How to start a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRequest {
    /// The label: `Barman backup <server> <backup id>`, as stock tools write it.
    pub label: String,
    /// Ask for an immediate checkpoint rather than waiting for a spread one.
    pub fast: bool,
}

/// What starting returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedBackup {
    /// The start position.
    pub lsn: Lsn,
    /// The timeline.
    pub timeline: Timeline,
    /// The time of the server.
    pub time: DateTime<FixedOffset>,
    /// True if the server was a standby.
    pub in_recovery: bool,
}

/// What stopping returned. The durable record of this is the dividing line of recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedBackup {
    /// The stop position: all WAL up to here is needed.
    pub lsn: Lsn,
    /// The timeline.
    pub timeline: Timeline,
    /// The time of the server.
    pub time: DateTime<FixedOffset>,
    /// The content of `backup_label`, byte for byte.
    pub label: String,
    /// The content of `tablespace_map`, byte for byte; empty when there are no tablespaces.
    pub tablespace_map: String,
}

/// The one connection that takes a server into backup mode and out of it.
///
/// # Contract
/// * `start` and `stop` run on the same connection. It is never re-opened in between: a lost connection means that the
///   backup has ended, and everything after says [`ErrorKind::Postgres`](crate::error::ErrorKind::Postgres).
/// * Only non-exclusive backups; PostgreSQL 13 to 18, both names of the functions (`pg_start_backup` before 15).
/// * `stop` does not wait for the archiver: the engine looks for the segments itself.
///
/// # Cancellation
/// A future may be dropped; the statement may go on at the server until `close`.
#[async_trait]
pub trait BackupControl: Send + fmt::Debug {
    /// Facts of the server.
    async fn facts(&mut self) -> Result<ServerFacts>;

    /// The tablespaces of [`facts`](Self::facts), as they are now. Cheap; asks the server.
    async fn tablespaces(&mut self) -> Result<Vec<Tablespace>>;

    /// What the tablespaces of the server are for; what is in them is asked for those `named` only.
    async fn tablespace_uses(&mut self, named: &[String]) -> Result<Vec<TablespaceUse>>;

    /// Says which privileges are missing for a backup, with the GRANT that would give each.
    async fn check_privileges(&mut self) -> Result<()>;

    /// Which server answers. Asked before backup mode and once more before it is left: the files that are cut have to be
    /// those of the server that answers.
    ///
    /// `None`: this control cannot tell. The engine then compares nothing, and whoever made the control answers for it that
    /// it speaks with the server of the data directory on this host, through one session.
    async fn identity(&mut self) -> Result<Option<ServerIdentity>> {
        Ok(None)
    }

    /// Has the server make a [`Sign`], which stays until [`remove_sign`](Self::remove_sign): who sees it in a directory has
    /// the data directory of that server before him. `None`: this control has none; then the facts have to do.
    async fn leave_sign(&mut self) -> Result<Option<Sign>> {
        Ok(None)
    }

    /// Has the server remove the sign.
    async fn remove_sign(&mut self) -> Result<()> {
        Ok(())
    }

    /// What the archiver has done; `None` where that is not known.
    async fn archiver(&mut self) -> Result<Option<ArchiverState>> {
        Ok(None)
    }

    /// Starts backup mode.
    async fn start(&mut self, request: &StartRequest) -> Result<StartedBackup>;

    /// True as long as the connection that holds backup mode lives. Cheap; asks the server.
    async fn alive(&mut self) -> Result<()>;

    /// Resolves with the reason when the connection is lost, without being asked. Used beside a long wait.
    async fn lost(&mut self) -> crate::error::Error;

    /// Ends backup mode and returns what must be stored.
    async fn stop(&mut self) -> Result<StoppedBackup>;

    /// On a primary, ends the current segment, so that the archiver can have it. Nothing on a standby.
    async fn switch_wal(&mut self) -> Result<()>;

    /// On a standby, the position up to which WAL is replayed and flushed; on a primary, the flushed position.
    async fn flushed_lsn(&mut self) -> Result<Lsn>;

    /// Creates a restore point of that name on a primary. Nothing on a standby.
    async fn restore_point(&mut self, name: &str) -> Result<()>;

    /// Closes the connection; an open backup is ended by the server.
    async fn close(&mut self);
}
