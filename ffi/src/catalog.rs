//! What is in the catalog: list, show, keep, delete.

use std::ffi::c_char;

use barman_snap::options::{self, DeleteOptions, from_json};

use crate::border::{Out, guard, handle, optional_text, text};
use crate::engine::bs_engine;
use crate::error::bs_error;
use crate::status::bs_status;
use crate::string::bs_string;

/// All backups. `*backups` becomes a JSON object: backups_list is that of barman-cloud-backup-list, with "keep" where a
/// backup is kept; unreadable are those whose metadata cannot be read, each with backup_id and error; sessions are
/// those that are not over or came to nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_list(
    engine: *const bs_engine,
    backups: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or a live engine, NULL or a place for the result.
        let (engine, out) = unsafe { (handle(engine, "engine")?, Out::new(backups, "backups")?) };
        out.json(&engine.host.run("list", options::list(&engine.host.engine))?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// One backup: `backup` is an id, a name, "first" or "last". `*details` becomes the JSON object of bs_list for it, with
/// "proofs".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_show(
    engine: *const bs_engine,
    backup: *const c_char,
    details: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes a live engine, NULL or text that ends with NUL, NULL or a place for the result.
        let (engine, backup, out) =
            unsafe { (handle(engine, "engine")?, text(backup, "backup")?, Out::new(details, "details")?) };
        out.json(&engine.host.run("show", options::show(&engine.host.engine, backup))?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Keeps a backup beyond every retention policy: `target` is "full" (with all WAL since) or "standalone" (with its own
/// WAL only); NULL releases it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_keep(
    engine: *const bs_engine,
    backup: *const c_char,
    target: *const c_char,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or a live engine, NULL or texts that end with NUL.
        let (engine, backup, target) =
            unsafe { (handle(engine, "engine")?, text(backup, "backup")?, optional_text(target, "target")?) };
        engine.host.run("keep", options::keep(&engine.host.engine, backup, target)).map(drop)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Deletes backups with their snapshots, and the WAL that nobody needs then. `*plan` becomes a JSON object that says what
/// was deleted, or with dry_run would be: backups, wal_keys, wal_reason.
///
/// `options` is a JSON object with one of backup and retention_policy ("REDUNDANCY 3", "RECOVERY WINDOW OF 4 WEEKS"), and
/// any of: minimum_redundancy, snapshots_gone, dry_run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_delete(
    engine: *const bs_engine,
    options: *const c_char,
    plan: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or a live engine, NULL or text that ends with NUL, NULL or a place for the result.
        let (engine, options, out) =
            unsafe { (handle(engine, "engine")?, text(options, "options")?, Out::new(plan, "plan")?) };
        let options: DeleteOptions = from_json(Some(options))?;
        out.json(&engine.host.run("delete", options.run(&engine.host.engine))?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}
