//! `barman_snap._native.Engine`, the base of `barman_snap.Engine`.

use std::path::PathBuf;
use std::sync::Arc;

use barman_snap::options::{
    self, BackupOptions, DeleteOptions, EngineOptions, GcOptions, Host, RecoverOptions, RestoreOptions, VerifyOptions,
    WalArchiveOptions, WalRestoreOptions, connect_options,
};
use barman_snap::postgres::{BackupControl, PostgresControl};
use barman_snap::provider::SnapshotProvider;
use barman_snap::session::BackupRequest;
use barman_snap::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cancel::{CancelToken, given};
use crate::errors::exception;
use crate::provider::PyProvider;
use crate::values::{options as read, path_text, python};
use crate::waiting::wait;
use crate::watcher::Watcher;

/// One server in one catalog. `barman_snap.Engine` says what the methods mean; options are those of the crate's `options`.
#[pyclass(frozen, subclass, module = "barman_snap._native")]
pub(crate) struct Engine {
    pub(crate) host: Arc<Host>,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (url, server, options, provider=None))]
    fn new(
        py: Python<'_>,
        url: PathBuf,
        server: String,
        options: &Bound<'_, PyDict>,
        provider: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let url = path_text(py, "url", url)?;
        let options: EngineOptions = read(options)?;
        let provider = match provider {
            Some(bridge) => Some(Arc::new(PyProvider::new(py, bridge)?) as Arc<dyn SnapshotProvider>),
            None => None,
        };
        let opened = py.detach(|| Host::open(&url, &server, options, provider));
        Ok(Self { host: Arc::new(opened.map_err(|error| exception(py, &error))?) })
    }

    #[getter]
    fn url(&self) -> &str {
        self.host.address().url
    }

    #[getter]
    fn server(&self) -> &str {
        self.host.address().server
    }

    #[getter]
    fn _store_arguments(&self) -> Vec<String> {
        self.host.address().options.store_arguments()
    }

    fn _list(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        python(py, &wait(py, &self.host, "list", None, || options::list(&self.host.engine))?)
    }

    fn _show(&self, py: Python<'_>, backup: &str) -> PyResult<Py<PyAny>> {
        python(py, &wait(py, &self.host, "show", None, || options::show(&self.host.engine, backup))?)
    }

    #[pyo3(signature = (backup, target))]
    fn _keep(&self, py: Python<'_>, backup: &str, target: Option<&str>) -> PyResult<()> {
        wait(py, &self.host, "keep", None, || options::keep(&self.host.engine, backup, target)).map(drop)
    }

    fn _delete(&self, py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let options: DeleteOptions = read(options)?;
        python(py, &wait(py, &self.host, "delete", None, || options.run(&self.host.engine))?)
    }

    #[pyo3(signature = (connection, options, cancel))]
    fn _check(
        &self,
        py: Python<'_>,
        connection: Option<&str>,
        options: &Bound<'_, PyDict>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Py<PyAny>> {
        let request: BackupRequest = read::<BackupOptions>(options)?.into();
        let cancel = given(cancel);
        let work = || async {
            // Nothing of a check needs undoing, so it is simply given up.
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the check was cancelled")),
                report = async {
                    let control = PostgresControl::connect(&connect_options(connection)).await;
                    let control = control.map(|control| Box::new(control) as Box<dyn BackupControl>);
                    self.host.engine.check(control, &request).await
                } => Ok(report),
            }
        };
        python(py, &wait(py, &self.host, "check", Some(&cancel), work)?)
    }

    #[pyo3(signature = (backup, target, options, cancel, on_progress))]
    fn _restore(
        &self,
        py: Python<'_>,
        backup: &str,
        target: PathBuf,
        options: &Bound<'_, PyDict>,
        cancel: Option<Py<CancelToken>>,
        on_progress: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let options: RestoreOptions = read(options)?;
        let cancel = given(cancel);
        let watcher = Arc::new(Watcher::new(on_progress, cancel.clone()));
        let told = Arc::clone(&watcher);
        let (address, listener) = (self.host.address(), Arc::new(move |event| told.tell(&event)) as _);
        let run = || options.run(&self.host.engine, &address, (backup, &target), &cancel, &listener);
        let result = wait(py, &self.host, "restore", Some(&cancel), run);
        python(py, &watcher.outcome(py, result)?)
    }

    #[pyo3(signature = (backup, options, cancel, on_progress))]
    fn _verify(
        &self,
        py: Python<'_>,
        backup: &str,
        options: &Bound<'_, PyDict>,
        cancel: Option<Py<CancelToken>>,
        on_progress: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let options: VerifyOptions = read(options)?;
        let cancel = given(cancel);
        let watcher = Arc::new(Watcher::new(on_progress, cancel.clone()));
        let told = Arc::clone(&watcher);
        let (address, listener) = (self.host.address(), Arc::new(move |event| told.tell(&event)) as _);
        let run = || options.run(&self.host.engine, &address, backup, &cancel, &listener);
        let result = wait(py, &self.host, "verify", Some(&cancel), run);
        python(py, &watcher.outcome(py, result)?)
    }

    #[pyo3(signature = (options, cancel))]
    fn _recover(
        &self,
        py: Python<'_>,
        options: &Bound<'_, PyDict>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Py<PyAny>> {
        let cancel = given(cancel);
        let options: RecoverOptions = read(options)?;
        let request = options.request(cancel.clone()).map_err(|error| exception(py, &error))?;
        python(py, &wait(py, &self.host, "recover", Some(&cancel), || self.host.engine.recover(&request))?)
    }

    fn _gc(&self, py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let options: GcOptions = read(options)?;
        python(py, &wait(py, &self.host, "gc", None, || options.run(&self.host.engine))?)
    }

    fn _wal_archive(&self, py: Python<'_>, path: PathBuf, options: &Bound<'_, PyDict>) -> PyResult<()> {
        let options: WalArchiveOptions = read(options)?;
        let archive = options.archive(&self.host.engine).map_err(|error| exception(py, &error))?;
        wait(py, &self.host, "wal-archive", None, || archive.archive(&path)).map(drop)
    }

    fn _wal_restore(
        &self,
        py: Python<'_>,
        name: &str,
        destination: PathBuf,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let archive = read::<WalRestoreOptions>(options)?.archive(&self.host.engine);
        wait(py, &self.host, "wal-restore", None, || archive.fetch(name, &destination, false)).map(drop)
    }
}
