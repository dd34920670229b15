//! What a program in another language holds: an engine, the threads it works on, and the one way to wait for it.
//!
//! The invariant: no work of the engine begins in a process that was forked from the one that opened it (its threads are not
//! there), nor within other work of an engine (its thread would wait for itself). What this is not: a place that knows about
//! handles, signals or locks of that language; those are for the binding.

use std::fmt;
use std::future::Future;
use std::mem;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use super::{CatalogAddress, EngineOptions};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::provider::SnapshotProvider;

/// The threads on which an engine does what cannot wait for its caller. The caller's own thread does the rest.
const WORKERS: usize = 2;

/// See the [module documentation](self).
pub struct Host {
    /// The engine.
    pub engine: Engine,
    url: String,
    server: String,
    options: EngineOptions,
    // Taken in `drop` only.
    runtime: Option<Runtime>,
    pid: u32,
}

impl Host {
    /// Opens the catalog at `url` for a server in it. A `provider` given here takes the place of the one that the options
    /// name.
    ///
    /// # Errors
    /// As [`EngineOptions::open`]; [`InvalidInput`](crate::ErrorKind::InvalidInput) from within other work.
    pub fn open(
        url: &str,
        server: &str,
        options: EngineOptions,
        provider: Option<Arc<dyn SnapshotProvider>>,
    ) -> Result<Self> {
        let operation = |error: Error| error.with_operation("open");
        refuse_nesting().map_err(operation)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("barman-snap")
            .enable_all()
            .build()
            .map_err(|error| Error::internal("cannot start the threads of the engine").with_source(error))?;
        let opened = runtime.block_on(async {
            match provider {
                Some(provider) => options.open_with(url, server, provider).await,
                None => options.open(url, server).await,
            }
        });
        let engine = opened.map_err(operation)?.build();
        let (url, server) = (url.to_owned(), server.to_owned());
        Ok(Self { engine, url, server, options, runtime: Some(runtime), pid: std::process::id() })
    }

    /// Where the catalog is, for a restored server.
    pub fn address(&self) -> CatalogAddress<'_> {
        CatalogAddress { url: &self.url, server: &self.server, options: &self.options }
    }

    /// Whether this is the process that opened it. In a fork of that, nothing of the engine may even be dropped.
    pub fn is_at_home(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Waits for some work of the engine, on the thread of the caller.
    ///
    /// # Errors
    /// Of the work; [`Precondition`](crate::ErrorKind::Precondition) after a fork,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) from within other work.
    pub fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.is_at_home() {
            return Err(Error::precondition("this process was forked from the one that opened the engine")
                .with_hint("threads do not survive a fork; open an engine of its own in the child"));
        }
        refuse_nesting()?;
        let runtime = self.runtime.as_ref().ok_or_else(|| Error::internal("the engine has been dropped"))?;
        runtime.block_on(work)
    }

    /// Waits for some work that has a name.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn run<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.wait(work).map_err(|error| error.with_operation(operation))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("url", &self.url).field("server", &self.server).finish_non_exhaustive()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.is_at_home() {
            // Does not wait, so that it may be called from anywhere: a callback, a garbage collector.
            runtime.shutdown_background();
        } else {
            // After a fork its threads are not there, and its locks may be held for ever.
            mem::forget(runtime);
        }
    }
}

fn refuse_nesting() -> Result<()> {
    match Handle::try_current() {
        Err(_) => Ok(()),
        Ok(_) => Err(Error::invalid("called from within a progress callback, a provider or an async runtime of Rust")
            .with_hint("from there only what returns at once may be called: to cancel, to look at a phase")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn work_within_work_is_refused_and_the_host_can_be_dropped_there() {
        let place = tempfile::tempdir().unwrap();
        let url = place.path().to_str().unwrap();
        let host = Host::open(url, "pg1", EngineOptions::default(), None).unwrap();
        let inner = host.run("outer", async {
            let other = Host::open(url, "pg1", EngineOptions::default(), None).unwrap_err();
            Ok([other, host.run::<()>("inner", async { Ok(()) }).unwrap_err()])
        });
        for error in inner.unwrap() {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.message().contains("progress callback"), "{error}");
        }
        assert!(host.is_at_home());
    }

    #[test]
    fn the_name_of_the_work_is_in_its_error() {
        let place = tempfile::tempdir().unwrap();
        let host = Host::open(place.path().to_str().unwrap(), "pg1", EngineOptions::default(), None).unwrap();
        let error = host.run::<()>("list", async { Err(Error::not_found("x")) }).unwrap_err();
        assert_eq!(error.operation(), Some("list"));
        let error = Host::open("s4://nowhere", "pg1", EngineOptions::default(), None).unwrap_err();
        assert_eq!(error.operation(), Some("open"));
    }
}
