//! The engine handle: one engine of the core, and the runtime that its work runs on.

use std::ffi::c_char;
use std::future::Future;
use std::mem;
use std::sync::Arc;

use barman_snap::options::{CatalogAddress, EngineOptions, from_json};
use barman_snap::{Engine, Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::border::{Out, guard, optional_text, text};
use crate::error::bs_error;
use crate::status::bs_status;

/// One server in one catalog, and what can be done with its backups. May be used from several threads at once. Sessions
/// live on when it is freed.
pub struct bs_engine {
    pub(crate) host: Arc<Host>,
}

/// What an engine and its sessions share.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    url: String,
    server: String,
    options: EngineOptions,
    // Taken in `drop` only.
    runtime: Option<Runtime>,
    pid: u32,
}

impl Host {
    fn open(url: &str, server: &str, options: EngineOptions) -> Result<Self> {
        refuse_nesting()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("barman-snap")
            .enable_all()
            .build()
            .map_err(|error| Error::internal("cannot start the threads of the engine").with_source(error))?;
        let engine = runtime.block_on(options.open(url, server))?.build();
        let (url, server) = (url.to_owned(), server.to_owned());
        Ok(Self { engine, url, server, options, runtime: Some(runtime), pid: std::process::id() })
    }

    /// Where the catalog is, for a restored server.
    pub(crate) fn address(&self) -> CatalogAddress<'_> {
        CatalogAddress { url: &self.url, server: &self.server, options: &self.options }
    }

    /// Waits for some work of the engine.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        if self.pid != std::process::id() {
            return Err(Error::precondition("this process was forked from the one that opened the engine")
                .with_hint("threads do not survive a fork; open an engine of its own in the child"));
        }
        refuse_nesting()?;
        self.runtime()?.block_on(work)
    }

    /// Waits for some work that has a name.
    pub(crate) fn run<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.wait(work).map_err(|error| error.with_operation(operation))
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| Error::internal("the engine has been dropped"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.pid == std::process::id() {
            // Does not wait, so that it may be called from anywhere, a callback included.
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
        Ok(_) => Err(Error::invalid("called from within a progress callback or an async runtime")
            .with_hint("only bs_session_cancel, bs_cancel_fire and what returns at once may be called from there")),
    }
}

/// Opens the catalog at `url` for the server of that name: a directory, file://, s3://, gs:// or Azure's https://.
/// Nothing of it needs to exist yet.
///
/// `options` is NULL or a JSON object with any of: endpoint_url, aws_profile, aws_region, read_timeout_ms,
/// addressing_style, azure_credential, snapshot_provider, snapshot_method, snapshot_directory, cut_timeout_ms,
/// ready_timeout_ms, wal_timeout_ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_engine_open(
    url: *const c_char,
    server: *const c_char,
    options: *const c_char,
    engine: *mut *mut bs_engine,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or texts that end with NUL, and NULL or a place for the result.
        let (url, server, options, out) = unsafe {
            (
                text(url, "url")?,
                text(server, "server")?,
                optional_text(options, "options")?,
                Out::new(engine, "engine")?,
            )
        };
        let host = Host::open(url, server, from_json(options)?).map_err(|error| error.with_operation("open"))?;
        out.set(bs_engine { host: Arc::new(host) });
        Ok(())
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Frees an engine. NULL is fine. No other call may be using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_engine_free(engine: *mut bs_engine) {
    if !engine.is_null() {
        // SAFETY: it came from Box::into_raw here, and the caller frees it once.
        drop(unsafe { Box::from_raw(engine) });
    }
}
