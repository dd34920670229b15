//! The engine handle.

use std::ffi::c_char;
use std::sync::Arc;

use barman_snap::options::{Host, from_json};

use crate::border::{Out, guard, optional_text, release, text};
use crate::error::bs_error;
use crate::status::bs_status;

/// One server in one catalog, and what can be done with its backups. May be used from several threads at once. Sessions
/// live on when it is freed.
pub struct bs_engine {
    pub(crate) host: Arc<Host>,
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
        let host = Host::open(url, server, from_json(options)?, None)?;
        out.set(bs_engine { host: Arc::new(host) });
        Ok(())
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Frees an engine. NULL is fine. No other call may be using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_engine_free(engine: *mut bs_engine) {
    // SAFETY: it came from Box::into_raw here, and the caller frees it once.
    unsafe { release(engine, |engine| engine.host.is_at_home()) };
}
