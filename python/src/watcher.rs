//! Passes progress on to a function of Python, and ends the work when that raises.

use std::sync::{Mutex, MutexGuard, PoisonError};

use barman_snap::session::CancelToken;
use pyo3::prelude::*;
use serde::Serialize;

use crate::values::python;

/// A function of Python that is told of events, as dictionaries.
pub(crate) struct Watcher {
    on_progress: Option<Py<PyAny>>,
    // What it raised. Not called again then: the work is only being undone.
    raised: Mutex<Option<PyErr>>,
    cancel: Mutex<CancelToken>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watcher {
    /// `cancel` is fired when the function raises.
    pub(crate) fn new(on_progress: Option<Py<PyAny>>, cancel: CancelToken) -> Self {
        Self { on_progress, raised: Mutex::new(None), cancel: Mutex::new(cancel) }
    }

    /// From now on `cancel` is fired instead; also for what the function has raised already.
    pub(crate) fn aim(&self, cancel: CancelToken) {
        *lock(&self.cancel) = cancel;
        if lock(&self.raised).is_some() {
            lock(&self.cancel).cancel();
        }
    }

    pub(crate) fn tell(&self, event: &impl Serialize) {
        let Some(on_progress) = &self.on_progress else { return };
        if lock(&self.raised).is_some() {
            return;
        }
        let told = Python::try_attach(|py| on_progress.call1(py, (python(py, event)?,)).map(drop));
        if let Some(Err(raised)) = told {
            lock(&self.raised).replace(raised);
            lock(&self.cancel).cancel();
        }
    }

    /// The result of the work; what the function raised comes first, because it is why the work was cancelled.
    pub(crate) fn outcome<T>(&self, py: Python<'_>, result: PyResult<T>) -> PyResult<T> {
        match (lock(&self.raised).take(), result) {
            (None, result) => result,
            (Some(raised), result) => {
                raised.set_cause(py, result.err());
                Err(raised)
            }
        }
    }
}
