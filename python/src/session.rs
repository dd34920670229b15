//! `barman_snap._native.Session`, the base of `barman_snap.Session`: a backup that is being taken.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use barman_snap::options::{self, BackupOptions, Host};
use barman_snap::session::{BackupRequest, BackupSession, CancelToken as Token, Listener, Phase, Progress, Step};
use barman_snap::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cancel::{CancelToken, given};
use crate::engine::Engine;
use crate::errors::exception;
use crate::values::{options as read, python};
use crate::waiting::{wait, wait_noting};
use crate::watcher::{Watcher, lock};

/// A backup whose id is claimed. `barman_snap.Session` says what the methods mean.
#[pyclass(frozen, subclass, module = "barman_snap._native")]
pub(crate) struct Session {
    host: Arc<Host>,
    // Taken in `drop` only.
    session: Mutex<Option<BackupSession>>,
    cancel: Token,
    watcher: Arc<Watcher>,
    phase: Arc<Mutex<Phase>>,
    backup_id: String,
    // By a second Ctrl-C: then nobody waits for it any more, not even to undo it.
    given_up: AtomicBool,
}

/// The session, while one thread drives it.
struct Driven<'a>(MutexGuard<'a, Option<BackupSession>>);

impl Driven<'_> {
    fn session(&mut self) -> barman_snap::Result<&mut BackupSession> {
        self.0.as_mut().ok_or_else(|| Error::internal("the session has been dropped"))
    }
}

impl Session {
    fn drive(&self, py: Python<'_>) -> PyResult<Driven<'_>> {
        match self.session.try_lock() {
            Ok(session) => Ok(Driven(session)),
            // A step that panicked has stopped the session where it was; its next step looks first, as after a crash.
            Err(TryLockError::Poisoned(poisoned)) => Ok(Driven(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => {
                Err(exception(py, &Error::new(ErrorKind::Conflict, "another thread is driving this session")))
            }
        }
    }

    /// Does some work with the session, and notes the phase that it leaves.
    fn work<T: Send>(
        &self,
        py: Python<'_>,
        work: impl AsyncFnOnce(&mut BackupSession) -> barman_snap::Result<T> + Send,
    ) -> PyResult<T> {
        let mut driven = self.drive(py)?;
        let session = driven.session().map_err(|error| exception(py, &error))?;
        let driven_session = &mut *session;
        let work = move || work(driven_session);
        let result = wait_noting(py, &self.host, "backup", Some(&self.cancel), &self.given_up, work);
        *lock(&self.phase) = session.phase();
        drop(driven);
        self.watcher.outcome(py, result)
    }
}

#[pymethods]
impl Session {
    /// Connects, plans and claims an id. `cancel` is for the time until this returns.
    #[new]
    #[pyo3(signature = (engine, connection, options, on_progress, cancel=None))]
    fn new(
        py: Python<'_>,
        engine: &Bound<'_, Engine>,
        connection: Option<&str>,
        options: &Bound<'_, PyDict>,
        on_progress: Option<Py<PyAny>>,
        cancel: Option<Py<CancelToken>>,
    ) -> PyResult<Self> {
        let host = Arc::clone(&engine.get().host);
        let request: BackupRequest = read::<BackupOptions>(options)?.into();
        // The one with which the session can be cancelled is made with it; this one is fired in its place until then.
        let beginning = given(cancel);
        let watcher = Arc::new(Watcher::new(on_progress, beginning.clone()));
        let phase = Arc::new(Mutex::new(Phase::Planned));
        let (told, seen) = (Arc::clone(&watcher), Arc::clone(&phase));
        let listener = Listener::new(move |progress: &Progress| {
            match progress {
                Progress::StepDone { phase, .. } => *lock(&seen) = *phase,
                Progress::Undoing { .. } => *lock(&seen) = Phase::Undoing,
                _ => {}
            }
            told.tell(progress);
        });
        let core = host.engine.with_listener(listener);
        let begin = || options::begin(&core, connection, &request, &beginning);
        let begun = wait(py, &host, "backup", Some(&beginning), begin);
        let session = watcher.outcome(py, begun)?;
        let cancel = session.cancel_token();
        watcher.aim(cancel.clone());
        let backup_id = session.backup_id().to_string();
        let (session, given_up) = (Mutex::new(Some(session)), AtomicBool::new(false));
        Ok(Self { host, session, cancel, watcher, phase, backup_id, given_up })
    }

    #[getter]
    fn backup_id(&self) -> &str {
        &self.backup_id
    }

    #[getter]
    fn phase(&self) -> &'static str {
        lock(&self.phase).as_str()
    }

    /// Whether it can still be driven, and has to be: not over, not stuck, not given up, and not in a fork of its process.
    #[getter]
    fn _is_open(&self) -> bool {
        let phase = *lock(&self.phase);
        self.host.is_at_home() && !self.given_up.load(Ordering::Relaxed) && !phase.is_final() && phase != Phase::Stuck
    }

    fn _run(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        python(py, &self.work(py, async |session: &mut BackupSession| session.run().await)?)
    }

    fn _next_step(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        Ok(self.work(py, async |session: &mut BackupSession| session.next_step().await)?.map(Step::as_str))
    }

    /// What it has come to, if it is published.
    fn _summary(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut driven = self.drive(py)?;
        let summary = driven.session().and_then(|session| session.summary());
        python(py, &summary.map_err(|error| exception(py, &error))?)
    }

    fn cancel(&self) {
        self.cancel.cancel();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // In a fork its connection is that of the parent, which goes on using it.
        if !self.host.is_at_home() {
            mem::forget(session);
        }
    }
}
