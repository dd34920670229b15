//! What is stored: `backup.info` in Barman's own syntax, and the arithmetic of the WAL.
//!
//! Everything here is pure: text and numbers in, text and numbers out. No file is opened, no clock is asked. What is
//! written is an interface to every Barman that reads the same catalog; `docs/format/backup_info.md` is its
//! specification and the files in `tests/fixtures/backup_info` are its proof.

pub mod backup_info;
pub mod control_file;
pub mod excluded;
pub mod label;
pub mod literal;
pub mod saved_config;
pub mod snapshots;
pub mod stock_json;
pub mod time;
pub mod timeline;
pub mod wal;

pub use backup_info::{BackupInfo, BackupStatus, ParsedBackupInfo, Tablespace};
pub use control_file::{ClusterState, ControlFile};
pub use excluded::ExcludedTablespace;
pub use label::{BackupLabel, BackupSource, TablespaceMap};
pub use literal::Literal;
pub use saved_config::{SavedConfig, SavedConfigRef, SavedFile};
pub use snapshots::{CloudSnapshot, CloudSnapshots, EngineRecord, ProviderInfo, SnapshotDetails, SnapshotRecord};
pub use timeline::TimelineHistory;
pub use wal::{Compression, Lsn, Segment, SegmentSize, Timeline, WalName, WalObject};
