//! WAL, one file at a time.

use std::ffi::c_char;
use std::path::Path;

use barman_snap::options::{WalArchiveOptions, WalRestoreOptions, from_json};

use crate::border::{guard, handle, optional_text, text};
use crate::engine::bs_engine;
use crate::error::bs_error;
use crate::status::bs_status;

/// Stores one WAL file (%p of archive_command) under its name. BS_STATUS_OK also if it is there already with the same
/// content; other content is BS_STATUS_CONFLICT, and nothing is changed.
///
/// `options` is NULL or a JSON object with any of: compression, compression_level.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_wal_archive(
    engine: *const bs_engine,
    path: *const c_char,
    options: *const c_char,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or a live engine, NULL or texts that end with NUL.
        let (engine, path, options) =
            unsafe { (handle(engine, "engine")?, text(path, "path")?, optional_text(options, "options")?) };
        let archive = from_json::<WalArchiveOptions>(options)?.archive(&engine.host.engine)?;
        engine.host.run("wal-archive", archive.archive(Path::new(path))).map(drop)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Fetches one WAL file by its name (%f of restore_command) to a path (%p). BS_STATUS_NOT_FOUND if it is not there, which
/// is how PostgreSQL learns that the WAL ends.
///
/// `options` is NULL or a JSON object with any of: new_tablespaces ("original", or "inside": what the WAL creates stays in the
/// data directory into which it is replayed; BS_STATUS_UNSUPPORTED if it cannot be kept there).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_wal_restore(
    engine: *const bs_engine,
    name: *const c_char,
    destination: *const c_char,
    options: *const c_char,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or a live engine, NULL or texts that end with NUL.
        let (engine, options) = unsafe { (handle(engine, "engine")?, optional_text(options, "options")?) };
        // SAFETY: likewise.
        let (name, destination) = unsafe { (text(name, "name")?, text(destination, "destination")?) };
        let archive = from_json::<WalRestoreOptions>(options)?.archive(&engine.host.engine);
        engine.host.run("wal-restore", archive.fetch(name, Path::new(destination), false)).map(drop)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}
