//! The one way to wait for the engine.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barman_snap::options::Host;
use barman_snap::session::CancelToken;
use barman_snap::{Error, Result};
use pyo3::prelude::*;

use crate::errors::exception;

/// How often signals are looked for while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// How waiting ended.
enum Ended<T> {
    /// The work is done; a signal may have come meanwhile, and have cancelled it.
    Done(Result<T>, Option<PyErr>),
    /// A signal came, and the work was given up.
    GivenUp(PyErr),
}

/// Waits for some work of the engine without the GIL. A signal whose handler raises (Ctrl-C) fires `cancel` and waits for
/// the work to clean up; the next one, or the first if there is nothing to fire, gives the work up. Python runs handlers on
/// its main thread only; others are not disturbed.
pub(crate) fn wait<T: Send, F: Future<Output = Result<T>>>(
    py: Python<'_>,
    host: &Host,
    operation: &'static str,
    cancel: Option<&CancelToken>,
    work: impl FnOnce() -> F + Send,
) -> PyResult<T> {
    wait_noting(py, host, operation, cancel, &AtomicBool::new(false), work)
}

/// The same, and notes whether the work was given up.
pub(crate) fn wait_noting<T: Send, F: Future<Output = Result<T>>>(
    py: Python<'_>,
    host: &Host,
    operation: &'static str,
    cancel: Option<&CancelToken>,
    given_up: &AtomicBool,
    work: impl FnOnce() -> F + Send,
) -> PyResult<T> {
    let ended = py.detach(|| {
        let wait = || host.wait(async { Ok(watch(host, cancel, work()).await) });
        catch_unwind(AssertUnwindSafe(wait)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
    });
    let (result, signal) = match ended {
        Err(error) => (Err(error), None),
        Ok(Ended::Done(result, signal)) => (result, signal),
        Ok(Ended::GivenUp(signal)) => {
            given_up.store(true, Ordering::Relaxed);
            return Err(signal);
        }
    };
    let result = result.map_err(|error| exception(py, &error.with_operation(operation)));
    match (signal, result) {
        (None, result) => result,
        (Some(signal), result) => {
            signal.set_cause(py, result.err());
            Err(signal)
        }
    }
}

#[allow(clippy::redundant_closure_for_method_calls, reason = "the method is good for one lifetime only")]
async fn watch<T>(host: &Host, cancel: Option<&CancelToken>, work: impl Future<Output = Result<T>>) -> Ended<T> {
    let mut work = pin!(work);
    let mut first = None;
    loop {
        tokio::select! {
            biased;
            result = &mut work => return Ended::Done(result, first),
            () = host.engine.clock().sleep(LOOK) => {}
        }
        // Nothing is attached any more when the interpreter ends; then nobody sends signals either.
        let Some(Err(signal)) = Python::try_attach(|py| py.check_signals()) else { continue };
        match cancel {
            Some(cancel) if first.is_none() => {
                cancel.cancel();
                first = Some(signal);
            }
            _ => return Ended::GivenUp(signal),
        }
    }
}

pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    Error::internal(format!("the engine panicked: {}", said(panic)))
        .with_hint("this is a defect of barman_snap; please report it")
}

/// What a panic says.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
