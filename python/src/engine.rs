//! `barman_snap.Engine`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use barman_snap::engine::restore::RestoreListener;
use barman_snap::options::{
    self, BackupOptions, CatalogAddress, DeleteOptions, EngineOptions, GcOptions, RecoverOptions, RestoreOptions,
    VerifyOptions, WalArchiveOptions,
};
use barman_snap::session::CancelToken;
use barman_snap::wal::WalArchive;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::backup::Backup;
use crate::errors::exception;
use crate::host::Host;
use crate::session::Session;
use crate::values::{path_text, python_dict, time_text, word};

/// `barman_snap.Engine`
#[pyclass(frozen, module = "barman_snap")]
pub(crate) struct Engine {
    host: Arc<Host>,
    url: String,
    server: String,
    options: EngineOptions,
}

fn milliseconds(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        url, server, *, endpoint_url=None, aws_profile=None, aws_region=None, read_timeout=None, addressing_style="auto",
        azure_credential=None, snapshot_provider="local", snapshot_method="auto", snapshot_directory=None,
        cut_timeout=None, ready_timeout=None, wal_timeout=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        url: PathBuf,
        server: String,
        endpoint_url: Option<String>,
        aws_profile: Option<String>,
        aws_region: Option<String>,
        read_timeout: Option<Duration>,
        addressing_style: &str,
        azure_credential: Option<&str>,
        snapshot_provider: &str,
        snapshot_method: &str,
        snapshot_directory: Option<PathBuf>,
        cut_timeout: Option<Duration>,
        ready_timeout: Option<Duration>,
        wal_timeout: Option<Duration>,
    ) -> PyResult<Self> {
        let url = path_text(py, "url", url)?;
        let options = EngineOptions {
            endpoint_url,
            aws_profile,
            aws_region,
            read_timeout_ms: milliseconds(read_timeout),
            addressing_style: word(py, "addressing_style", addressing_style)?,
            azure_credential: azure_credential.map(|text| word(py, "azure_credential", text)).transpose()?,
            snapshot_provider: Some(snapshot_provider.to_owned()),
            snapshot_method: Some(snapshot_method.to_owned()),
            snapshot_directory,
            cut_timeout_ms: milliseconds(cut_timeout),
            ready_timeout_ms: milliseconds(ready_timeout),
            wal_timeout_ms: milliseconds(wal_timeout),
        };
        let host = Arc::new(Host::open(py, &url, &server, &options)?);
        Ok(Self { host, url, server, options })
    }

    #[getter]
    fn url(&self) -> &str {
        &self.url
    }

    #[getter]
    fn server(&self) -> &str {
        &self.server
    }

    #[pyo3(signature = (
        dsn=None, *, name=None, immediate_checkpoint=false, disks=vec![], instance=None, wal_external=false,
        tags=BTreeMap::new(), on_progress=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn session(
        &self,
        py: Python<'_>,
        dsn: Option<&str>,
        name: Option<String>,
        immediate_checkpoint: bool,
        disks: Vec<PathBuf>,
        instance: Option<String>,
        wal_external: bool,
        tags: BTreeMap<String, String>,
        on_progress: Option<Py<PyAny>>,
    ) -> PyResult<Session> {
        let disks = disks.into_iter().map(|disk| path_text(py, "a disk", disk)).collect::<PyResult<_>>()?;
        let options = BackupOptions {
            name,
            snapshot_instance: instance,
            snapshot_disks: disks,
            immediate_checkpoint,
            wal_external,
            tags,
            ..BackupOptions::default()
        };
        Session::begin(py, &self.host, dsn, &options.into(), on_progress)
    }

    #[pyo3(signature = (
        dsn=None, *, name=None, immediate_checkpoint=false, disks=vec![], instance=None, wal_external=false,
        tags=BTreeMap::new(), on_progress=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn backup(
        &self,
        py: Python<'_>,
        dsn: Option<&str>,
        name: Option<String>,
        immediate_checkpoint: bool,
        disks: Vec<PathBuf>,
        instance: Option<String>,
        wal_external: bool,
        tags: BTreeMap<String, String>,
        on_progress: Option<Py<PyAny>>,
    ) -> PyResult<Backup> {
        self.session(py, dsn, name, immediate_checkpoint, disks, instance, wal_external, tags, on_progress)?.run(py)
    }

    fn list(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        python_dict(py, &self.host.wait(py, "list", None, || options::list(&self.host.engine))?)
    }

    fn show(&self, py: Python<'_>, backup: &str) -> PyResult<Py<PyDict>> {
        python_dict(py, &self.host.wait(py, "show", None, || options::show(&self.host.engine, backup))?)
    }

    #[pyo3(signature = (backup, target=None))]
    fn keep(&self, py: Python<'_>, backup: &str, target: Option<&str>) -> PyResult<()> {
        self.host.wait(py, "keep", None, || options::keep(&self.host.engine, backup, target)).map(drop)
    }

    #[pyo3(signature = (backup=None, *, retention_policy=None, minimum_redundancy=0, dry_run=false))]
    fn delete(
        &self,
        py: Python<'_>,
        backup: Option<String>,
        retention_policy: Option<String>,
        minimum_redundancy: u32,
        dry_run: bool,
    ) -> PyResult<Py<PyDict>> {
        let options = DeleteOptions { backup, retention_policy, minimum_redundancy, dry_run };
        python_dict(py, &self.host.wait(py, "delete", None, || options.run(&self.host.engine))?)
    }

    #[pyo3(signature = (
        backup, target_dir, *, tablespaces=BTreeMap::new(), in_place=false, target_time=None, target_lsn=None,
        target_xid=None, target_name=None, target_immediate=false, target_tli=None, target_exclusive=false,
        target_action=None, restore_command=None, wal_restore_program=None, standby=false, dry_run=false
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn restore(
        &self,
        py: Python<'_>,
        backup: &str,
        target_dir: PathBuf,
        tablespaces: BTreeMap<String, PathBuf>,
        in_place: bool,
        target_time: Option<&Bound<'_, PyAny>>,
        target_lsn: Option<String>,
        target_xid: Option<u64>,
        target_name: Option<String>,
        target_immediate: bool,
        target_tli: Option<String>,
        target_exclusive: bool,
        target_action: Option<&str>,
        restore_command: Option<String>,
        wal_restore_program: Option<Vec<String>>,
        standby: bool,
        dry_run: bool,
    ) -> PyResult<Py<PyDict>> {
        let options = RestoreOptions {
            tablespaces,
            in_place,
            target_time: time_text(target_time)?,
            target_lsn,
            target_xid,
            target_name,
            target_immediate,
            target_tli,
            target_exclusive,
            target_action: target_action.map(|text| word(py, "target_action", text)).transpose()?,
            restore_command,
            wal_restore_program: self.wal_restore_program(py, wal_restore_program)?,
            standby,
            dry_run,
        };
        let cancel = CancelToken::new();
        let (address, quiet) = (self.address(), quiet());
        let run = || options.run(&self.host.engine, &address, (backup, &target_dir), &cancel, &quiet);
        python_dict(py, &self.host.wait(py, "restore", Some(&cancel), run)?)
    }

    #[pyo3(signature = (
        backup="last", *, work_dir=None, pg_bin_dir=None, sql=vec![], sql_database="postgres", all_wal=false, timeout=None,
        wal_restore_program=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn verify(
        &self,
        py: Python<'_>,
        backup: &str,
        work_dir: Option<PathBuf>,
        pg_bin_dir: Option<PathBuf>,
        sql: Vec<String>,
        sql_database: &str,
        all_wal: bool,
        timeout: Option<Duration>,
        wal_restore_program: Option<Vec<String>>,
    ) -> PyResult<Py<PyDict>> {
        let options = VerifyOptions {
            work_dir,
            pg_bin_dir,
            sql,
            sql_database: sql_database.to_owned(),
            all_wal,
            timeout_ms: milliseconds(timeout),
            wal_restore_program: self.wal_restore_program(py, wal_restore_program)?,
        };
        let cancel = CancelToken::new();
        let (address, quiet) = (self.address(), quiet());
        let run = || options.run(&self.host.engine, &address, backup, &cancel, &quiet);
        python_dict(py, &self.host.wait(py, "verify", Some(&cancel), run)?)
    }

    #[pyo3(signature = (backup=None, *, force=false, discard=false, dry_run=false))]
    fn recover(
        &self,
        py: Python<'_>,
        backup: Option<String>,
        force: bool,
        discard: bool,
        dry_run: bool,
    ) -> PyResult<Py<PyAny>> {
        let cancel = CancelToken::new();
        let options = RecoverOptions { backup_id: backup, force, discard, dry_run };
        let request = options.request(cancel.clone()).map_err(|error| exception(py, &error))?;
        let rescues = self.host.wait(py, "recover", Some(&cancel), || self.host.engine.recover(&request))?;
        crate::values::python(py, &rescues)
    }

    #[pyo3(signature = (*, apply=false, keep_undone_days=30))]
    fn gc(&self, py: Python<'_>, apply: bool, keep_undone_days: u32) -> PyResult<Py<PyDict>> {
        let options = GcOptions { apply, keep_undone_days };
        python_dict(py, &self.host.wait(py, "gc", None, || options.run(&self.host.engine))?)
    }

    #[pyo3(signature = (path, *, compression=None, compression_level=None))]
    fn wal_archive(
        &self,
        py: Python<'_>,
        path: PathBuf,
        compression: Option<&str>,
        compression_level: Option<String>,
    ) -> PyResult<()> {
        let compression = compression.map(|text| word(py, "compression", text)).transpose()?;
        let archive = WalArchiveOptions { compression, compression_level, new_system_id: None }
            .archive(&self.host.engine)
            .map_err(|error| exception(py, &error))?;
        self.host.wait(py, "wal-archive", None, || archive.archive(&path)).map(drop)
    }

    fn wal_restore(&self, py: Python<'_>, name: &str, destination: PathBuf) -> PyResult<()> {
        let archive = WalArchive::new(self.host.engine.catalog());
        self.host.wait(py, "wal-restore", None, || archive.fetch(name, &destination, false)).map(drop)
    }

    fn __repr__(&self) -> String {
        format!("Engine('{}', '{}')", self.url, self.server)
    }
}

impl Engine {
    fn address(&self) -> CatalogAddress<'_> {
        CatalogAddress { url: &self.url, server: &self.server, options: &self.options }
    }

    /// The program that a restored server fetches WAL with: what the caller says, else this Python with this package, else
    /// (in a program that embeds Python and has no executable for it) the command line.
    fn wal_restore_program(&self, py: Python<'_>, given: Option<Vec<String>>) -> PyResult<Vec<String>> {
        if let Some(given) = given {
            return Ok(given);
        }
        let executable: Option<String> = py.import("sys")?.getattr("executable")?.extract()?;
        Ok(match executable.filter(|path| !path.is_empty()) {
            Some(python) => {
                let words = [python, "-m".to_owned(), "barman_snap".to_owned()];
                words.into_iter().chain(self.options.store_arguments()).collect()
            }
            None => Vec::new(),
        })
    }
}

fn quiet() -> RestoreListener {
    Arc::new(|_| {})
}
