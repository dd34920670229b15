//! `barman_snap.Session`: a backup that is being taken, and who is told of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use barman_snap::options::connect_options;
use barman_snap::postgres::PostgresControl;
use barman_snap::session::{BackupRequest, BackupSession, CancelToken, Listener, Phase, Progress, Step};
use barman_snap::{Error, ErrorKind};
use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;

use crate::backup::Backup;
use crate::errors::exception;
use crate::host::Host;
use crate::values::python;

/// `barman_snap.Session`
#[pyclass(frozen, module = "barman_snap")]
pub(crate) struct Session {
    host: Arc<Host>,
    session: Mutex<BackupSession>,
    cancel: CancelToken,
    watcher: Arc<Watcher>,
    backup_id: String,
}

/// Sees every event: remembers the phase, and passes the event on.
struct Watcher {
    phase: Mutex<Phase>,
    on_progress: Option<Py<PyAny>>,
    // What on_progress raised, and the switch to end the session with then; the session is made after its listener.
    raised: Mutex<Option<PyErr>>,
    cancel: Mutex<Option<CancelToken>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watcher {
    fn see(&self, progress: &Progress) {
        match progress {
            Progress::StepDone { phase, .. } => *lock(&self.phase) = *phase,
            Progress::Undoing { .. } => *lock(&self.phase) = Phase::Undoing,
            _ => {}
        }
        let Some(on_progress) = &self.on_progress else { return };
        // Once it has failed it is not called again: the session is only being undone.
        if lock(&self.raised).is_some() {
            return;
        }
        let told = Python::try_attach(|py| on_progress.call1(py, (python(py, progress)?,)).map(drop));
        if let Some(Err(raised)) = told {
            lock(&self.raised).replace(raised);
            self.cancel_if_raised();
        }
    }

    fn cancel_if_raised(&self) {
        if let (Some(cancel), Some(_)) = (&*lock(&self.cancel), &*lock(&self.raised)) {
            cancel.cancel();
        }
    }
}

impl Session {
    /// Plans a backup and claims its id.
    pub(crate) fn begin(
        py: Python<'_>,
        host: &Arc<Host>,
        connection: Option<&str>,
        request: &BackupRequest,
        on_progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let watcher = Arc::new(Watcher {
            phase: Mutex::new(Phase::Planned),
            on_progress,
            raised: Mutex::new(None),
            cancel: Mutex::new(None),
        });
        let seen = Arc::clone(&watcher);
        let engine = host.engine.with_listener(Listener::new(move |progress| seen.see(progress)));
        let session = host.wait(py, "backup", None, || async {
            let control = PostgresControl::connect(&connect_options(connection)).await?;
            engine.backup(Box::new(control), request).await
        })?;
        let cancel = session.cancel_token();
        *lock(&watcher.cancel) = Some(cancel.clone());
        watcher.cancel_if_raised();
        let backup_id = session.backup_id().to_string();
        Ok(Self { host: Arc::clone(host), session: Mutex::new(session), cancel, watcher, backup_id })
    }

    /// The session, for the one thread that drives it.
    fn drive(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, BackupSession>> {
        match self.session.try_lock() {
            Ok(session) => Ok(session),
            // A step that panicked has stopped the session where it was; its next step looks first, as after a crash.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(exception(py, &Error::new(ErrorKind::Conflict, "another thread is driving this session")))
            }
        }
    }

    /// The result of driving; an exception of on_progress comes first, because it is why the session was cancelled.
    fn outcome<T>(&self, py: Python<'_>, result: PyResult<T>) -> PyResult<T> {
        match (lock(&self.watcher.raised).take(), result) {
            (None, result) => result,
            (Some(raised), result) => {
                raised.set_cause(py, result.err());
                Err(raised)
            }
        }
    }
}

#[pymethods]
impl Session {
    #[getter]
    fn backup_id(&self) -> &str {
        &self.backup_id
    }

    #[getter]
    fn phase(&self) -> &'static str {
        lock(&self.watcher.phase).as_str()
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, py: Python<'_>) -> PyResult<Backup> {
        let mut session = self.drive(py)?;
        let driven = &mut *session;
        let result = self.host.wait(py, "backup", Some(&self.cancel), move || driven.run());
        *lock(&self.watcher.phase) = session.phase();
        drop(session);
        self.outcome(py, result).map(Backup::from)
    }

    fn next_step(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        let mut session = self.drive(py)?;
        let driven = &mut *session;
        let result = self.host.wait(py, "backup", Some(&self.cancel), move || driven.next_step());
        *lock(&self.watcher.phase) = session.phase();
        drop(session);
        Ok(self.outcome(py, result)?.map(Step::as_str))
    }

    fn cancel(&self) {
        self.cancel.cancel();
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Without an exception, what is left is run. With one, the session is cancelled and undone.
    #[pyo3(signature = (exc_type, exc_value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: Option<Py<PyAny>>,
        exc_value: Option<Py<PyAny>>,
        traceback: Option<Py<PyAny>>,
    ) -> PyResult<bool> {
        let _ = (exc_value, traceback);
        let phase = self.drive(py)?.phase();
        if phase.is_final() || phase == Phase::Stuck {
            return Ok(false);
        }
        if exc_type.is_none() {
            return self.run(py).map(|_| false);
        }
        self.cancel.cancel();
        let left = self.run(py).err();
        // The exception that is under way is what the caller wants to see, unless something was left behind.
        if self.phase() != Phase::Undone.as_str()
            && let Some(left) = left
        {
            let message = format!("backup {} was left {}: {}", self.backup_id, self.phase(), left.value(py));
            let message = std::ffi::CString::new(message).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)?;
        }
        Ok(false)
    }

    fn __repr__(&self) -> String {
        format!("Session(backup_id='{}', phase='{}')", self.backup_id, self.phase())
    }
}
