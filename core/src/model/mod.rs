//! What is stored: `backup.info` in Barman's own syntax, and the arithmetic of the WAL.

pub mod backup_info;
pub mod label;
pub mod literal;
pub mod snapshots;
pub mod wal;

pub use backup_info::{BackupInfo, BackupStatus, Tablespace};
pub use literal::Literal;
pub use snapshots::{EngineRecord, SnapshotRecord};
pub use wal::{Lsn, SegmentSize, Timeline};
