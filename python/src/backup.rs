//! What a published backup comes to.

use std::time::Duration;

use barman_snap::session::BackupSummary;
use pyo3::prelude::*;

/// `barman_snap.Backup`
#[pyclass(frozen, module = "barman_snap")]
pub(crate) struct Backup {
    summary: BackupSummary,
}

impl From<BackupSummary> for Backup {
    fn from(summary: BackupSummary) -> Self {
        Self { summary }
    }
}

#[pymethods]
impl Backup {
    #[getter]
    fn id(&self) -> String {
        self.summary.backup_id.to_string()
    }

    #[getter]
    fn begin_lsn(&self) -> String {
        self.summary.begin_lsn.to_string()
    }

    #[getter]
    fn end_lsn(&self) -> String {
        self.summary.end_lsn.to_string()
    }

    #[getter]
    fn snapshots(&self) -> Vec<String> {
        self.summary.snapshots.clone()
    }

    #[getter]
    fn backup_mode(&self) -> Duration {
        self.summary.backup_mode
    }

    #[getter]
    fn cut(&self) -> Duration {
        self.summary.cut
    }

    #[getter]
    fn bytes_copied(&self) -> Option<u64> {
        self.summary.bytes_copied
    }

    #[getter]
    fn wal_supplied(&self) -> Vec<String> {
        self.summary.wal_supplied.clone()
    }

    fn __repr__(&self) -> String {
        format!("Backup(id='{}', begin_lsn='{}', end_lsn='{}')", self.id(), self.begin_lsn(), self.end_lsn())
    }
}
