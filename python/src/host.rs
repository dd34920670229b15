//! The engine and the runtime it works on, and the one way to wait for it.

use std::any::Any;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use barman_snap::options::EngineOptions;
use barman_snap::session::CancelToken;
use barman_snap::{Engine, Error, Result};
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::errors::exception;

/// How often signals are looked for while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// What an engine and its sessions share.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    // Taken in `drop` only.
    runtime: Option<Runtime>,
    pid: u32,
}

/// How waiting ended.
enum Ended<T> {
    /// The work is done; a signal may have come meanwhile, and have cancelled it.
    Done(Result<T>, Option<PyErr>),
    /// A signal came, and the work was given up.
    GivenUp(PyErr),
}

impl Host {
    pub(crate) fn open(py: Python<'_>, url: &str, server: &str, options: &EngineOptions) -> PyResult<Self> {
        let opened = py.detach(|| {
            refuse_nesting()?;
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("barman-snap")
                .enable_all()
                .build()
                .map_err(|error| Error::internal("cannot start the threads of the engine").with_source(error))?;
            let engine = runtime.block_on(options.open(url, server))?.build();
            Ok(Self { engine, runtime: Some(runtime), pid: std::process::id() })
        });
        opened.map_err(|error: Error| exception(py, &error.with_operation("open")))
    }

    /// Waits for some work of the engine without the GIL. A signal whose handler raises (Ctrl-C) fires `cancel` and waits
    /// for the work to clean up; the next one, or the first if there is nothing to fire, gives the work up.
    pub(crate) fn wait<T: Send, F: Future<Output = Result<T>>>(
        &self,
        py: Python<'_>,
        operation: &'static str,
        cancel: Option<&CancelToken>,
        work: impl FnOnce() -> F + Send,
    ) -> PyResult<T> {
        let ended = py.detach(|| {
            let runtime = self.runtime()?;
            let wait = || runtime.block_on(self.watch(cancel, work()));
            catch_unwind(AssertUnwindSafe(wait)).map_err(|panic| panicked(panic.as_ref()))
        });
        let (result, signal) = match ended {
            Err(error) => (Err(error), None),
            Ok(Ended::Done(result, signal)) => (result, signal),
            Ok(Ended::GivenUp(signal)) => return Err(signal),
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
    async fn watch<T>(&self, cancel: Option<&CancelToken>, work: impl Future<Output = Result<T>>) -> Ended<T> {
        let mut work = pin!(work);
        let mut first = None;
        loop {
            tokio::select! {
                biased;
                result = &mut work => return Ended::Done(result, first),
                () = self.engine.clock().sleep(LOOK) => {}
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

    fn runtime(&self) -> Result<&Runtime> {
        if self.pid != std::process::id() {
            return Err(Error::precondition("this process was forked from the one that made the engine")
                .with_hint("threads do not survive a fork; make an Engine of its own in the child"));
        }
        refuse_nesting()?;
        self.runtime.as_ref().ok_or_else(|| Error::internal("the engine has been dropped"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.pid == std::process::id() {
            // Does not wait: the garbage collector may call this at any time, with the GIL.
            runtime.shutdown_background();
        } else {
            // After a fork its threads are not there, and its locks may be held for ever.
            mem::forget(runtime);
        }
    }
}

/// The engine waits on the thread of its caller; it cannot do that within its own work.
fn refuse_nesting() -> Result<()> {
    match Handle::try_current() {
        Err(_) => Ok(()),
        Ok(_) => Err(Error::invalid("called from within on_progress")
            .with_hint("only Session.cancel and what returns at once may be called from there")),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("the engine panicked: {}", said.unwrap_or("no message")))
        .with_hint("this is a defect of barman_snap; please report it")
}
